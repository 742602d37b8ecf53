//! Finding the frames of a zstd archive without decoding them (RFC 8878, "Zstandard Frames" and "Skippable Frames").

/// A frame as it stands in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins, in bytes from the start of the archive.
    pub offset: u64,
    /// Its length in the archive, in bytes.
    pub compressed: u64,
    /// Length of its content in bytes, when the frame's header says it. 0 for a skippable frame.
    pub content: Option<u64>,
    /// The window that a decoder needs, in bytes. 0 for a skippable frame.
    pub window: u64,
    /// A checksum of the content stands at its end.
    pub has_checksum: bool,
    /// It holds no content and is passed over by decoders.
    pub is_skippable: bool,
}
