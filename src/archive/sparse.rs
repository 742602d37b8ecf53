//! Encoding sparse files in PAX format 1.0 (GNU tar manual, "Storing Sparse Files").
//!
//! The map precedes the data, as decimal lines: the number of extents, then offset and length of
//! each. Zero bytes fill its last block. PAX records hold the true name and size, so the header has
//! the stored size. This is the only sparse format that both sbuild loaders accept.

pub mod decode;

use super::header::padding;
use crate::entry::Extent;

/// Encodes the map of `extents` of a file of `size` bytes, padded to whole blocks.
pub fn map(extents: &[Extent], size: u64) -> Vec<u8> {
    let extents = closed(extents, size);
    let mut text = format!("{}\n", extents.len());
    for extent in &extents {
        text.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    let mut map = text.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// Bytes of data in `extents`.
pub fn data(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.length).sum()
}

/// A file that ends in a hole gets an empty extent at its end, as GNU tar writes it: readers
/// without the PAX size record learn the size from it.
fn closed(extents: &[Extent], size: u64) -> Vec<Extent> {
    let mut extents = extents.to_vec();
    if extents
        .last()
        .is_none_or(|last| last.offset + last.length < size)
    {
        extents.push(Extent {
            offset: size,
            length: 0,
        });
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_hole_is_closed_with_an_empty_extent() {
        let map = map(
            &[Extent {
                offset: 4096,
                length: 8192,
            }],
            1 << 20,
        );
        assert_eq!(map.len(), 512);
        assert!(map.starts_with(b"2\n4096\n8192\n1048576\n0\n\0"));
    }

    #[test]
    fn a_file_without_data_is_one_empty_extent() {
        assert!(map(&[], 9 << 30).starts_with(b"1\n9663676416\n0\n\0"));
    }
}
