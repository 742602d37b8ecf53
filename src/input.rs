//! The tar stream of an archive: from a file or a pipe, plain or compressed, decoded ahead of whoever reads it.

/// How an archive is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// Zstandard, in any framing.
    Zstd,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
}

/// How an archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that decode frames, at least 1.
    pub threads: usize,
    /// Bytes that decoded frames may take before they are read. The next one in order may always be decoded.
    pub memory: u64,
    /// The widest zstd window accepted, as the exponent of two: 10..=31. sbuild takes 27.
    pub window_log: u32,
}
