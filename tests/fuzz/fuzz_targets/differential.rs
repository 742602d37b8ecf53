//! Any bytes as a tar stream, read by `archive::reader` and by the `tar` crate: up to where ours
//! refuses, both must find the same members.
//!
//! What ours refuses and theirs reads is no difference that counts: each refusal has its reason in
//! `archive::reader::Fault`. Of what ours reads, theirs reads otherwise, and is not compared any
//! further ([`parts_ways`]):
//!
//! | what | theirs | ours, and why |
//! |---|---|---|
//! | a directory, link, device or pipe with a size in its header | data of that size follows | no data, as GNU tar and the loaders of sbuild have it |
//! | an extension header without a magic, with one of another version, or of type `X` | a member | an extension, as in GNU tar |
//! | a checksum of signed bytes | refused | taken: old programs wrote it, GNU tar reads it |
//! | a number of blanks alone before a NUL | refused | 0, as in GNU tar and bsdtar |
//! | a size field of NULs alone | refused | 0, as in GNU tar |
//! | a PAX record with a newline in it | malformed, and the records behind it are lost | a record by its length, as POSIX says |
//! | an old-GNU map with an extent that does not end on a block and is not the last, or that ends before the file does | refused | taken: bsdtar writes such |
//! | an extent in an old-GNU map whose offset field begins with a NUL | passed over | an offset of 0, as every field of NULs is |
//! | a map that goes on by another byte than 1 | the map ends | it goes on, as in GNU tar |
//!
//! And these values are not compared: names, sizes and data of sparse files in PAX records, times
//! in PAX records and everything in global headers, which the crate leaves to its user; the prefix
//! of a name in a header of another version; numbers in base 256 where the crate has none (mode,
//! device).
#![no_main]

use std::io::Read;

use isar_tarball::internals::archive::pax::decode;
use isar_tarball::internals::archive::reader::{Event, Limits, Member, Reader};
use isar_tarball::internals::entry::Kind;
use libfuzzer_sys::fuzz_target;
use tar::{Archive, EntryType, Header};

/// Larger files are not compared byte by byte.
const COMPARED: u64 = 1 << 20;

/// A member that was read to its end, with its data and where that belongs.
struct Seen {
    member: Box<Member>,
    data: Vec<(u64, Vec<u8>)>,
}

fuzz_target!(|bytes: &[u8]| {
    let Some((_, stream)) = isar_tarball_fuzz::stream(bytes) else {
        return;
    };
    let (members, is_whole) = read(&stream);
    let mut archive = Archive::new(stream.as_slice());
    let entries = archive.entries().expect("nothing is read yet");
    // They show global headers and labels as members.
    let mut theirs = entries.filter(|entry| {
        !entry
            .as_ref()
            .is_ok_and(|entry| matches!(entry.header().entry_type().as_byte(), b'g' | b'V'))
    });
    let mut has_global = false;
    for seen in &members {
        let member = &seen.member;
        has_global |= member.global_header;
        let records = Records::of(member, &stream);
        let entry = theirs.next();
        if parts_ways(member, &records, &stream) {
            return;
        }
        match entry {
            Some(Ok(entry)) => compare(seen, entry, &records, has_global),
            Some(Err(_)) if typeflag(member) == b'S' => return,
            other => panic!(
                "{:?} is not there for them: {:?}",
                member.entry,
                other.map(|entry| entry.map(|_| ()))
            ),
        }
    }
    // An error can still come of a label behind the last member.
    if is_whole {
        assert!(
            !matches!(theirs.next(), Some(Ok(_))),
            "they find another member"
        );
    }
});

/// Members up to the end, or to where it is refused.
fn read(mut stream: &[u8]) -> (Vec<Seen>, bool) {
    let mut reader = Reader::new(Limits::default());
    let (mut members, mut current) = (Vec::new(), None);
    loop {
        match reader.next(&mut stream) {
            Ok(Some(Event::Member(member))) => {
                current = Some(Seen {
                    member,
                    data: Vec::new(),
                })
            }
            Ok(Some(Event::Data(offset, data))) => {
                current
                    .as_mut()
                    .expect("a member before its data")
                    .data
                    .push((offset, data.to_vec()));
            }
            Ok(Some(Event::MemberEnd)) => members.extend(current.take()),
            Ok(None) => return (members, reader.finish().is_ok()),
            Err(_) => return (members, false),
        }
    }
}

/// The PAX records in front of a member.
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn of(member: &Member, stream: &[u8]) -> Records {
        let headers = member
            .headers
            .iter()
            .filter(|header| header.block[156] == b'x');
        let records = headers.flat_map(|header| {
            let data = &stream[header.offset as usize + 512..][..header.payload as usize];
            decode::records(data).map(|record| record.expect("read before"))
        });
        Records(
            records
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .collect(),
        )
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_slice())
    }

    fn is_sparse(&self) -> bool {
        self.0
            .iter()
            .any(|(key, _)| key.starts_with(b"GNU.sparse."))
    }
}

fn own_header(member: &Member) -> &Header {
    Header::from_byte_slice(
        member
            .headers
            .last()
            .expect("a header of its own")
            .block
            .as_slice(),
    )
}

fn typeflag(member: &Member) -> u8 {
    own_header(member).as_bytes()[156]
}

/// Do they read something else from this member on? See the table at the top.
fn parts_ways(member: &Member, records: &Records, stream: &[u8]) -> bool {
    let is_file = matches!(member.entry.kind, Kind::File { .. });
    let own = own_header(member);
    let says_size = records.get(b"size").is_none() && own.entry_size().is_ok_and(|size| size > 0);
    let has_odd_header = member.headers.iter().any(|raw| {
        let header = Header::from_byte_slice(raw.block.as_slice());
        let is_known = header.as_ustar().is_some() || header.as_gnu().is_some();
        let is_extension = matches!(header.as_bytes()[156], b'x' | b'L' | b'K');
        let fields = [100..108, 108..116, 116..124, 124..136, 136..148];
        let has_blanks = fields.into_iter().any(|field| {
            let text = raw.block[field].split(|byte| *byte == 0).next();
            text.is_some_and(|text| !text.is_empty() && text.trim_ascii().is_empty())
        });
        let sum: u32 = raw
            .block
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        is_extension && !is_known
            || header.as_bytes()[156] == b'X'
            || has_blanks
            || header.cksum().ok() != Some(sum)
            || raw.block[124..136] == [0; 12]
    });
    (!is_file && typeflag(member) != b'D' && says_size)
        || has_odd_header
        || records
            .0
            .iter()
            .any(|(key, value)| key.contains(&b'\n') || value.contains(&b'\n'))
        || (typeflag(member) == b'S' && has_odd_map(member, stream))
}

/// An extent whose offset begins with a NUL, or a byte other than 1 that says that the map goes on.
fn has_odd_map(member: &Member, stream: &[u8]) -> bool {
    let raw = member.headers.last().expect("a header of its own");
    let mut blocks = vec![(&raw.block[386..482], raw.block[482])];
    let mut rest = &stream[raw.offset as usize + 512..];
    while let Some((_, 1..)) = blocks.last() {
        blocks.push((&rest[..504], rest[504]));
        rest = &rest[512..];
    }
    let is_odd = |extent: &[u8]| extent[0] == 0 && extent[12] != 0;
    blocks
        .iter()
        .any(|(extents, goes_on)| *goes_on > 1 || extents.chunks(24).any(is_odd))
}

fn compare(seen: &Seen, mut entry: tar::Entry<'_, &[u8]>, records: &Records, has_global: bool) {
    let Member {
        entry: ours, name, ..
    } = &*seen.member;
    let header = entry.header().clone();
    assert_eq!(
        entry.raw_header_position(),
        seen.member
            .headers
            .last()
            .expect("a header of its own")
            .offset
    );
    let has_other_version =
        header.as_bytes()[257..263] == *b"ustar\0" && header.as_ustar().is_none();
    if records.get(b"GNU.sparse.name").is_none() && !has_other_version {
        assert_eq!(
            without_nuls(&entry.path_bytes()).escape_ascii().to_string(),
            name.escape_ascii().to_string()
        );
    }
    compare_kinds(&ours.kind, &entry);
    if let Ok(mode) = header.mode() {
        assert_eq!(mode & 0o7777, ours.mode);
    }
    if !has_global {
        let ids = [(header.uid(), ours.uid), (header.gid(), ours.gid)];
        assert!(
            ids.iter().all(|(theirs, ours)| theirs
                .as_ref()
                .map_or(true, |theirs| *theirs == u64::from(*ours))),
            "{ids:?}"
        );
        if records.get(b"mtime").is_none() && ours.mtime.seconds >= 0 {
            assert!(
                header
                    .mtime()
                    .map_or(true, |mtime| mtime == ours.mtime.seconds as u64)
            );
        }
    }
    if let Kind::File { size, .. } = ours.kind
        && !records.is_sparse()
    {
        assert_eq!(entry.size(), size);
        if size <= COMPARED {
            let mut content = vec![0; size as usize];
            for (offset, data) in &seen.data {
                content[*offset as usize..][..data.len()].copy_from_slice(data);
            }
            let mut theirs = Vec::new();
            entry.read_to_end(&mut theirs).expect("data that is there");
            assert!(theirs == content, "other data");
        }
    }
}

fn compare_kinds(ours: &Kind, entry: &tar::Entry<'_, &[u8]>) {
    let target = || without_nuls(&entry.link_name_bytes().unwrap_or_default()).to_vec();
    let device = || (entry.header().device_major(), entry.header().device_minor());
    match (ours, entry.header().entry_type()) {
        (Kind::File { .. }, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse) => {}
        // POSIX has files of unknown types.
        (Kind::File { .. }, kind) if !b"1234567DS".contains(&kind.as_byte()) => {}
        // Told by the slash at the end of its name.
        (Kind::Directory, EntryType::Regular | EntryType::Continuous) => {}
        (Kind::Directory, kind) => assert!(kind.is_dir() || kind.as_byte() == b'D'),
        (Kind::Symlink { target: ours }, EntryType::Symlink) => assert_eq!(ours, &target()),
        // Ours is without `./` in front and slashes behind.
        (Kind::HardLink { target: ours }, EntryType::Link) => {
            let theirs = target();
            let end = theirs
                .iter()
                .rposition(|byte| *byte != b'/')
                .map_or(0, |last| last + 1);
            assert!(theirs[..end.max(1)].ends_with(ours) || theirs.ends_with(ours));
        }
        (Kind::Fifo, EntryType::Fifo) => {}
        (Kind::CharDevice { major, minor }, EntryType::Char)
        | (Kind::BlockDevice { major, minor }, EntryType::Block) => {
            if let (Ok(Some(their_major)), Ok(Some(their_minor))) = device() {
                assert_eq!((their_major, their_minor), (*major, *minor));
            }
        }
        (ours, theirs) => panic!("{ours:?} is {theirs:?} for them"),
    }
}

/// They leave NULs at the end of long names.
fn without_nuls(name: &[u8]) -> &[u8] {
    &name[..name
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)]
}
