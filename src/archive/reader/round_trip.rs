//! The reader reads the writer's output in pieces of any size, and any other bytes do no harm.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::archive::{header, sparse, writer};
use crate::entry::{Kind, Timestamp};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| {
        if matches!(byte, 0 | b'/' | b'.') {
            b'x'
        } else {
            byte
        }
    });
    let part = prop::collection::vec(byte, 1..80);
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.join(&b'/'))
}

/// Extents with at least one hole.
fn sparse_file() -> impl Strategy<Value = Kind> {
    (
        prop::collection::vec((1u64..5000, 1u64..700), 0..30),
        0u64..5000,
    )
        .prop_map(|(steps, rest)| {
            let mut end = 0;
            let mut extents = Vec::new();
            for (hole, length) in steps {
                extents.push(Extent {
                    offset: end + hole,
                    length,
                });
                end += hole + length;
            }
            let rest = if extents.is_empty() { rest + 1 } else { rest };
            Kind::File {
                size: end + rest,
                extents: Some(extents),
            }
        })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Directory),
        Just(Kind::Fifo),
        (0u64..2000).prop_map(|size| Kind::File {
            size,
            extents: None
        }),
        sparse_file(),
        name().prop_map(|target| Kind::Symlink { target }),
        name().prop_map(|target| Kind::HardLink { target }),
        (0u32..1000, 0u32..1000).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        (0u32..1000, 0u32..1000).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ]
}

prop_compose! {
    fn entry()(
        path in name(), kind in kind(), uid in 0u32..70000, gid in 0u32..70000, mode in 0u32..0o10000,
        seconds in prop_oneof![-5i64..5, 0i64..1 << 34], nanoseconds in prop_oneof![Just(0), 0u32..1_000_000_000],
        xattrs in prop::collection::btree_map("user\\.[a-z=%]{1,9}", prop::collection::vec(any::<u8>(), 0..300), 0..3),
        access_acl in prop::option::of("[a-z:,]{1,30}"), default_acl in prop::option::of("[a-z:,]{1,30}"),
    ) -> Entry {
        // A device node has no records, so its time is limited to that of the header.
        let mtime = match kind.is_device() {
            true => Timestamp { seconds: seconds.clamp(0, header::MAX_MTIME), nanoseconds: 0 },
            false => Timestamp { seconds, nanoseconds },
        };
        Entry {
            path, kind, uid, gid, mode, mtime,
            xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
            access_acl: access_acl.map(String::into_bytes), default_acl: default_acl.map(String::into_bytes),
        }
    }
}

/// The bytes of a file in the archive, each with its offset.
type Content = Vec<(u64, u8)>;

/// The data of `entry` in an archive.
fn stored(entry: &Entry) -> Content {
    let extents = match &entry.kind {
        Kind::File {
            size,
            extents: None,
        } => vec![Extent {
            offset: 0,
            length: *size,
        }],
        Kind::File {
            extents: Some(extents),
            ..
        } => extents.clone(),
        _ => Vec::new(),
    };
    extents
        .iter()
        .flat_map(|extent| {
            (extent.offset..extent.offset + extent.length).map(|at| (at, (at % 251) as u8))
        })
        .collect()
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        writer::append_header(&mut bytes, entry, None).unwrap();
        let data = stored(entry);
        if let Kind::File {
            extents: Some(extents),
            ..
        } = &entry.kind
        {
            assert_eq!(data.len() as u64, sparse::data(extents));
        }
        bytes.extend(data.iter().map(|(_, byte)| byte));
        bytes.resize(bytes.len() + padding(data.len() as u64), 0);
    }
    bytes.extend(writer::END);
    bytes
}

/// Reads `bytes` in pieces of the given lengths, repeated.
fn read(
    bytes: &[u8],
    pieces: &[usize],
    limits: Limits,
) -> Result<(Vec<(Entry, Content)>, End), Error> {
    let (mut reader, mut members, mut is_open) =
        (Reader::new(limits), Vec::<(Entry, Content)>::new(), false);
    let mut rest = bytes;
    let mut lengths = pieces.iter().cycle();
    loop {
        let (mut piece, behind) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
        rest = behind;
        while let Some(event) = reader.next(&mut piece)? {
            match event {
                Event::Member(member) => {
                    assert!(!is_open);
                    is_open = true;
                    members.push((member.entry, Vec::new()));
                }
                Event::Data(offset, data) => {
                    assert!(is_open && !data.is_empty());
                    members
                        .last_mut()
                        .unwrap()
                        .1
                        .extend((offset..).zip(data.iter().copied()));
                }
                Event::MemberEnd => {
                    assert!(is_open);
                    is_open = false;
                }
            }
        }
        assert!(
            piece.is_empty(),
            "the reader asks for more before it has taken all"
        );
        assert_eq!(reader.offset(), (bytes.len() - rest.len()) as u64);
        if rest.is_empty() {
            return Ok((members, reader.finish()?));
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_in_any_pieces(
        entries in prop::collection::vec(entry(), 0..6), pieces in prop::collection::vec(1usize..1500, 1..5),
    ) {
        let bytes = archive(&entries);
        let expected: Vec<_> = entries.iter().map(|entry| (entry.clone(), stored(entry))).collect();
        let end = End { zero_blocks: 2, trailing_zero_bytes: 0, members: entries.len() as u64 };
        for pieces in [&[usize::MAX][..], &pieces] {
            let (members, told) = read(&bytes, pieces, Limits::default()).unwrap();
            prop_assert_eq!(&members, &expected);
            prop_assert_eq!(told, end);
        }
    }

    #[test]
    fn a_damaged_archive_is_read_the_same_in_any_pieces(
        entries in prop::collection::vec(entry(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()), pieces in prop::collection::vec(1usize..1500, 1..5), mends in any::<bool>(),
    ) {
        let mut bytes = archive(&entries);
        for (place, value) in &damage {
            *place.get_mut(&mut bytes) = *value;
        }
        if mends {
            mend(&mut bytes);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { extents: 20, ..Limits::default() };
        let at_once = read(&bytes, &[usize::MAX], limits);
        prop_assert_eq!(at_once, read(&bytes, &pieces, limits));
    }

    #[test]
    fn bytes_that_are_no_archive_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..4096), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic {
            mend(&mut bytes);
        }
        let _ = read(&bytes, &[usize::MAX], Limits::default());
    }
}

/// Sets a valid header checksum in each block of `bytes` that is not zero, so that damage passes
/// the checksum.
fn mend(bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<BLOCK>();
    for block in blocks
        .iter_mut()
        .filter(|block| block.iter().any(|byte| *byte != 0))
    {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}
