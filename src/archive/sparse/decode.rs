//! Decoding the maps of sparse files: old GNU (in header blocks), 0.0 and 0.1 (in PAX records), 1.0
//! (before the data).
//!
//! (GNU tar manual, "Storing Sparse Files".) Each form feeds a [`Map`], which keeps extents sorted,
//! disjoint and few enough.

use crate::archive::header::BLOCK;
use crate::archive::number;
use crate::entry::Extent;

/// A reason to refuse a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is malformed.
    #[error("its sparse map is malformed")]
    Malformed,
    /// A number in it is invalid.
    #[error("a number in its sparse map {0}")]
    Number(#[from] number::Error),
    /// It has more extents than the limit.
    #[error("its sparse map has more than {limit} extents")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// An extent begins before the end of the previous one.
    #[error(
        "its sparse map has an extent at {offset} that lies before the end of the extent in front"
    )]
    Unsorted {
        /// Its offset in the file, in bytes.
        offset: u64,
    },
    /// An extent exceeds the end of the file.
    #[error(
        "its sparse map has an extent that ends at {end}, beyond the file's size of {size} bytes"
    )]
    BeyondSize {
        /// Its end in the file, in bytes.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// The archive has less data than the extents need.
    #[error("its sparse map needs {mapped} bytes of data and {stored} are stored")]
    StoredSize {
        /// Total length of the extents, in bytes.
        mapped: u64,
        /// Stored data, in bytes.
        stored: u64,
    },
    /// The size of the file is missing.
    #[error("it is a sparse file without a size")]
    MissingSize,
    /// The announced number of extents is not that of the map.
    #[error("the number of extents in its sparse map is wrong")]
    Count,
    /// The records belong to several formats, or to an unknown one.
    #[error("its sparse map has no known version")]
    Version,
    /// The member is not a regular file.
    #[error("it has a sparse map and is not a regular file")]
    NotAFile,
}

/// What GNU tar makes of a sparse file otherwise than its map says (measured with 1.34).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misread {
    /// The extent at this offset begins within a block of the archive. GNU tar reads each extent
    /// from a block of its own.
    SharedBlock {
        /// Offset in the file, in bytes.
        offset: u64,
    },
    /// The map ends before the file does. GNU tar makes the file as long as the map.
    ShortMap {
        /// End of the map in the file, in bytes.
        end: u64,
    },
}

/// A partly read map.
#[derive(Debug)]
pub struct Map {
    extents: Vec<Extent>,
    read: usize,
    end: u64,
    limit: usize,
}

impl Map {
    /// An empty map for at most `limit` extents.
    pub fn new(limit: usize) -> Map {
        Map {
            extents: Vec::new(),
            read: 0,
            end: 0,
            limit,
        }
    }

    /// Adds the next extent. An empty extent, as at the end of maps, is counted but not kept.
    pub fn push(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        if self.read >= self.limit {
            return Err(Error::TooMany { limit: self.limit });
        }
        if offset < self.end {
            return Err(Error::Unsorted { offset });
        }
        self.end = offset.checked_add(length).ok_or(number::Error::TooLarge)?;
        self.read += 1;
        if length > 0 {
            self.extents.push(Extent { offset, length });
        }
        Ok(())
    }

    /// The number of extents added.
    pub fn count(&self) -> usize {
        self.read
    }

    /// How GNU tar misreads a file of `size` bytes with this map.
    pub fn misread(&self, size: u64) -> Option<Misread> {
        let shared = self
            .extents
            .windows(2)
            .find_map(|pair| match pair {
                [one, other] if !one.length.is_multiple_of(BLOCK as u64) => Some(other.offset),
                _ => None,
            })
            .map(|offset| Misread::SharedBlock { offset });
        shared.or((self.end < size).then_some(Misread::ShortMap { end: self.end }))
    }

    /// Returns the extents of a file of `size` bytes. The archive stores `stored` bytes of it.
    pub fn finish(self, size: u64, stored: u64) -> Result<Vec<Extent>, Error> {
        if self.end > size {
            return Err(Error::BeyondSize {
                end: self.end,
                size,
            });
        }
        // Disjoint extents below `end`: the sum cannot overflow.
        let mapped = self.extents.iter().map(|extent| extent.length).sum();
        if mapped != stored {
            return Err(Error::StoredSize { mapped, stored });
        }
        Ok(self.extents)
    }
}

/// Adds the extents of a 0.1 map to `map`: `OFFSET,LENGTH,OFFSET,LENGTH…`.
pub fn list(map: &mut Map, text: &[u8]) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or(Error::Malformed)?;
        map.push(number::decimal(offset)?, number::decimal(length)?)?;
    }
    Ok(())
}

/// A map in header blocks: four extents in the member's own, 21 in each further block. An extent
/// has 24 bytes, its offset and length as header fields.
#[derive(Debug)]
pub struct OldGnu {
    /// The map so far.
    pub map: Map,
    is_at_end: bool,
}

impl OldGnu {
    /// An empty map for at most `limit` extents.
    pub fn new(limit: usize) -> OldGnu {
        OldGnu {
            map: Map::new(limit),
            is_at_end: false,
        }
    }

    /// Reads the extents of a block. `continued` is the byte that is not 0 if another block
    /// follows. Returns true if so.
    pub fn read(&mut self, extents: &[u8], continued: u8) -> Result<bool, Error> {
        let (extents, _) = extents.as_chunks::<24>();
        for extent in extents {
            let (offset, length) = extent.split_at(12);
            // An extent without a length ends the map. Some readers go on after it and others do
            // not.
            if length.first() == Some(&0) {
                self.is_at_end = true;
            } else if self.is_at_end {
                return Err(Error::Malformed);
            } else {
                self.map.push(
                    number::unsigned_field(offset)?,
                    number::unsigned_field(length)?,
                )?;
            }
        }
        match continued {
            0 => Ok(false),
            _ if self.is_at_end => Err(Error::Malformed),
            _ => Ok(true),
        }
    }

    /// Reads a block of extents. Returns true if another follows.
    pub fn read_block(&mut self, block: &[u8; 512]) -> Result<bool, Error> {
        self.read(&block[..504], block[504])
    }
}

/// A map of format 1.0: decimal lines in whole blocks before the data, first the number of extents,
/// then offset and length of each.
#[derive(Debug)]
pub struct Text {
    /// The map so far.
    pub map: Map,
    /// Number of extents left; `None` before the first line.
    left: Option<u64>,
    /// The partly read line.
    number: Vec<u8>,
    offset: Option<u64>,
}

impl Text {
    /// An empty map for at most `limit` extents.
    pub fn new(limit: usize) -> Text {
        Text {
            map: Map::new(limit),
            left: None,
            number: Vec::new(),
            offset: None,
        }
    }

    /// Reads a block. Returns true if the map continues in the next one. The rest of the last block
    /// is padding.
    pub fn read_block(&mut self, block: &[u8; 512]) -> Result<bool, Error> {
        for byte in block {
            if self.left == Some(0) {
                break;
            }
            if *byte != b'\n' {
                // Valid numbers are shorter.
                if self.number.len() > 20 {
                    return Err(Error::Malformed);
                }
                self.number.push(*byte);
                continue;
            }
            let number = number::decimal(&self.number)?;
            self.number.clear();
            self.line(number)?;
        }
        Ok(self.left != Some(0))
    }

    fn line(&mut self, number: u64) -> Result<(), Error> {
        match (self.left, self.offset.take()) {
            (None, _) if number > self.map.limit as u64 => {
                return Err(Error::TooMany {
                    limit: self.map.limit,
                });
            }
            (None, _) => self.left = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(left), Some(offset)) => {
                self.map.push(offset, number)?;
                self.left = Some(left.saturating_sub(1));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::archive::sparse;

    const LIMIT: usize = 8;

    fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs
            .iter()
            .map(|(offset, length)| Extent {
                offset: *offset,
                length: *length,
            })
            .collect()
    }

    #[test]
    fn what_gnu_tar_misreads_is_known() {
        for (text, size, misread) in [
            (&b"0,512,1024,3"[..], 1027, None),
            (b"0,512,1024,3,4000,0", 4000, None),
            (b"4000,0", 4000, None),
            (b"0,0,8,2", 10, None),
            (b"0,2,8,2", 10, Some(Misread::SharedBlock { offset: 8 })),
            (b"0,2,2,2", 4, Some(Misread::SharedBlock { offset: 2 })),
            (b"0,512", 9000, Some(Misread::ShortMap { end: 512 })),
            (b"", 8, Some(Misread::ShortMap { end: 0 })),
            (b"", 0, None),
        ] {
            let mut map = Map::new(LIMIT);
            list(&mut map, text).unwrap();
            assert_eq!(map.misread(size), misread, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn maps_are_sorted_disjoint_within_the_file_and_as_large_as_the_data() {
        type Case<'a> = (&'a [u8], u64, u64, Result<&'a [(u64, u64)], Error>);
        let cases: &[Case] = &[
            (b"0,1,4,2,10,0", 10, 3, Ok(&[(0, 1), (4, 2)])),
            (b"0,4,4,4", 8, 8, Ok(&[(0, 4), (4, 4)])),
            (b"", 8, 0, Ok(&[])),
            (b"4,2,0,1", 10, 3, Err(Error::Unsorted { offset: 0 })),
            (b"0,5,4,2", 10, 7, Err(Error::Unsorted { offset: 4 })),
            (b"0,5,4,0", 10, 5, Err(Error::Unsorted { offset: 4 })),
            (b"8,4", 10, 4, Err(Error::BeyondSize { end: 12, size: 10 })),
            (b"12,0", 10, 0, Err(Error::BeyondSize { end: 12, size: 10 })),
            (
                b"0,4",
                10,
                5,
                Err(Error::StoredSize {
                    mapped: 4,
                    stored: 5,
                }),
            ),
            (
                b"0,4",
                10,
                3,
                Err(Error::StoredSize {
                    mapped: 4,
                    stored: 3,
                }),
            ),
            (b"0,4,6", 10, 4, Err(Error::Malformed)),
            (b"0,4,", 10, 4, Err(Error::Malformed)),
            (b"0,-4", 10, 4, Err(Error::Number(number::Error::Negative))),
            (b"0,x", 10, 4, Err(Error::Number(number::Error::Malformed))),
            (
                b"9223372036854775807,9223372036854775807",
                10,
                4,
                Err(Error::BeyondSize {
                    end: u64::MAX - 1,
                    size: 10,
                }),
            ),
            (
                b"9223372036854775808,1",
                10,
                4,
                Err(Error::Number(number::Error::TooLarge)),
            ),
            (
                b"0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
                10,
                0,
                Err(Error::TooMany { limit: LIMIT }),
            ),
        ];
        for (text, size, stored, expected) in cases {
            let mut map = Map::new(LIMIT);
            let read = list(&mut map, text).and_then(|()| map.finish(*size, *stored));
            assert_eq!(read, expected.map(extents), "{}", text.escape_ascii());
        }
    }

    fn block(text: &[u8]) -> [u8; 512] {
        let mut block = [0; 512];
        block[..text.len()].copy_from_slice(text);
        block
    }

    #[test]
    fn a_map_of_text_ends_with_its_last_extent() {
        let cases: &[(&[u8], Result<bool, Error>)] = &[
            (b"0\n", Ok(false)),
            (b"1\n5\n6\n", Ok(false)),
            (b"1\n5\n6\n7\n", Ok(false)),
            (b"2\n5\n6\n", Err(Error::Malformed)),
            (b"1\n5\n", Err(Error::Malformed)),
            (b"9\n", Err(Error::TooMany { limit: LIMIT })),
            (b"\n", Err(Error::Number(number::Error::Malformed))),
            (b"-1\n", Err(Error::Number(number::Error::Negative))),
            (b"1\n5\n0x1\n", Err(Error::Number(number::Error::Malformed))),
            (b"00000000000000000000000001\n", Err(Error::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                Text::new(LIMIT).read_block(&block(text)),
                *expected,
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn lines_go_on_in_the_next_block() {
        let written: Vec<Extent> = (0..100)
            .map(|i| Extent {
                offset: i * 1_000_000,
                length: 4096,
            })
            .collect();
        let bytes = sparse::map(&written, 1 << 30);
        let (blocks, _) = bytes.as_chunks::<512>();
        let mut text = Text::new(1000);
        let more: Vec<bool> = blocks
            .iter()
            .map(|block| text.read_block(block).unwrap())
            .collect();
        assert!(blocks.len() > 2);
        assert_eq!(more.iter().position(|more| !more), Some(blocks.len() - 1));
        assert_eq!(text.map.finish(1 << 30, 100 * 4096).unwrap(), written);
    }

    #[test]
    fn an_old_gnu_map_ends_once() {
        let one = *b"00000000000\x0000000001000\0";
        let none = [0; 24];
        let mut map = OldGnu::new(LIMIT);
        assert_eq!(map.read(&[one, none].concat(), 0), Ok(false));
        assert_eq!(map.map.finish(4096, 512).unwrap(), extents(&[(0, 512)]));
        assert_eq!(OldGnu::new(LIMIT).read(&one, 1), Ok(true));
        assert_eq!(
            OldGnu::new(LIMIT).read(&[none, one].concat(), 0),
            Err(Error::Malformed)
        );
        assert_eq!(OldGnu::new(LIMIT).read(&none, 1), Err(Error::Malformed));
        assert_eq!(
            OldGnu::new(LIMIT).read(&[one, one].concat(), 0),
            Err(Error::Unsorted { offset: 0 })
        );
        let negative = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff00000001000\0";
        assert_eq!(
            OldGnu::new(LIMIT).read(&negative, 0),
            Err(Error::Number(number::Error::Negative))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_map_panic_or_grow_beyond_its_limit(bytes in prop::collection::vec(any::<u8>(), 512), text in "[0-9\n,]{0,512}") {
            let blocks: [[u8; 512]; 2] = [bytes.try_into().unwrap(), block(text.as_bytes())];
            for block in &blocks {
                let (mut old, mut new, mut records) = (OldGnu::new(LIMIT), Text::new(LIMIT), Map::new(LIMIT));
                let _ = (old.read_block(block), new.read_block(block), list(&mut records, block));
                for map in [old.map, new.map, records] {
                    prop_assert!(map.count() <= LIMIT);
                    let _ = map.finish(1 << 40, 0);
                }
            }
        }
    }
}
