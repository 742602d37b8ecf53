//! What the fuzz targets share: archives to begin with, and ways to get past a checksum.

pub mod archives;
pub mod members;

/// Gives each block that is not zero the checksum of a header: without it no change would get any
/// further.
pub fn mend(stream: &mut [u8]) {
    for block in stream
        .as_chunks_mut::<512>()
        .0
        .iter_mut()
        .filter(|block| **block != [0; 512])
    {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

/// The tar stream of a target's input, whose first byte says whether its checksums are mended and
/// how it is read.
pub fn stream(bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (how, stream) = bytes.split_first()?;
    let mut stream = stream.to_vec();
    if how % 2 == 1 {
        mend(&mut stream);
    }
    Some((how / 2, stream))
}
