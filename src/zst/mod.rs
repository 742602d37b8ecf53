//! zstd frames: compressing one, finding the frames of an archive without decoding, decoding ahead
//! in parallel.

pub mod compress;
pub mod decode;
pub mod frames;

/// The widest window that zstd decodes by default, and so in sbuild, as the exponent of two
/// (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`).
pub const SBUILD_WINDOW_LOG: u32 = 27;
