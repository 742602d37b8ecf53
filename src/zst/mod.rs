//! zstd frames: compressing one, finding the frames of an archive without decoding, decoding ahead in parallel.

pub mod compress;
pub mod decode;
pub mod frames;
