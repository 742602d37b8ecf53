//! Reading archives made by hand.
#![allow(clippy::unwrap_used, clippy::panic)]

mod refusals;

use super::*;
use crate::archive::header::{self, Fields};
use crate::archive::pax;
use crate::entry::{Kind, Timestamp};

/// A builder of archives.
#[derive(Clone, Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn block(mut self, block: [u8; BLOCK]) -> Archive {
        self.0.extend(block);
        self
    }

    /// Adds data and its padding.
    fn data(mut self, data: &[u8]) -> Archive {
        self.0.extend(data);
        self.0.resize(self.0.len() + padding(data.len() as u64), 0);
        self
    }

    fn extension(self, typeflag: u8, data: &[u8]) -> Archive {
        self.block(header::block(&Fields {
            name: b"ext",
            size: data.len() as u64,
            typeflag,
            ..Fields::default()
        }))
        .data(data)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Archive {
        self.extension(b'x', &encoded(records))
    }

    fn global(self, records: &[(&str, &[u8])]) -> Archive {
        self.extension(b'g', &encoded(records))
    }

    fn file(self, name: &[u8], data: &[u8]) -> Archive {
        self.block(header::block(&file(name, data.len())))
            .data(data)
    }

    fn end(self) -> Archive {
        self.block([0; BLOCK]).block([0; BLOCK])
    }

    fn bytes(mut self, bytes: &[u8]) -> Archive {
        self.0.extend(bytes);
        self
    }
}

fn archive() -> Archive {
    Archive::default()
}

fn encoded(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::record(&mut data, key.as_bytes(), value);
    }
    data
}

fn file(name: &[u8], size: usize) -> Fields<'_> {
    Fields {
        name,
        mode: 0o644,
        size: size as u64,
        typeflag: b'0',
        ..Fields::default()
    }
}

/// `block` with `bytes` at `at` and a valid checksum.
fn edited(mut block: [u8; BLOCK], edits: &[(usize, &[u8])]) -> [u8; BLOCK] {
    for (at, bytes) in edits {
        block[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

const GNU: (usize, &[u8]) = (257, b"ustar  \0");
const V7: (usize, &[u8]) = (257, &[0; 8]);

/// Members with their data, holes as zeros.
type Members = Vec<(Member, Vec<u8>)>;

/// Reads it all.
fn read(archive: &Archive) -> Result<(Members, End), Error> {
    read_within(archive, Limits::default())
}

fn read_within(archive: &Archive, limits: Limits) -> Result<(Members, End), Error> {
    let (mut reader, mut input, mut members) =
        (Reader::new(limits), archive.0.as_slice(), Vec::new());
    while let Some(event) = reader.next(&mut input)? {
        match event {
            Event::Member(member) => {
                let size = match member.entry.kind {
                    Kind::File { size, .. } => size,
                    _ => 0,
                };
                members.push((*member, vec![0; size as usize]));
            }
            Event::Data(offset, data) => {
                let (_, content) = members.last_mut().unwrap();
                content[offset as usize..][..data.len()].copy_from_slice(data);
            }
            Event::MemberEnd => {}
        }
    }
    assert!(input.is_empty());
    Ok((members, reader.finish()?))
}

/// The only member of an archive.
fn only(archive: Archive) -> (Member, Vec<u8>) {
    let (mut members, _) = read(&archive.end()).unwrap();
    assert_eq!(members.len(), 1);
    members.remove(0)
}

fn fault(archive: &Archive) -> Fault {
    read(archive).unwrap_err().fault
}

#[test]
fn a_member_has_what_its_header_says() {
    let fields = Fields {
        name: b"./a/b",
        prefix: b"",
        mode: 0o4755,
        uid: 1,
        gid: 2,
        size: 3,
        mtime: 4,
        typeflag: b'0',
        linkname: b"",
        device: (0, 0),
    };
    let (member, content) = only(archive().block(header::block(&fields)).data(b"abc"));
    assert_eq!(content, b"abc");
    assert_eq!(member.name, b"./a/b");
    assert_eq!(
        member.entry,
        Entry {
            path: b"a/b".to_vec(),
            kind: Kind::File {
                size: 3,
                extents: None
            },
            uid: 1,
            gid: 2,
            mode: 0o4755,
            mtime: Timestamp {
                seconds: 4,
                nanoseconds: 0
            },
            xattrs: vec![],
            access_acl: None,
            default_acl: None,
        }
    );
    let [header] = &member.headers[..] else {
        panic!()
    };
    assert_eq!((header.offset, header.payload), (0, 3));
}

#[test]
fn paths_lose_only_what_says_nothing() {
    for (name, path) in [
        ("./", ""),
        (".", ""),
        ("././/a", "a"),
        ("./a//", "a"),
        ("/", "/"),
        ("//", "/"),
        (".//", ""),
        ("/a/", "/a"),
        ("../a", "../a"),
        ("a/./b", "a/./b"),
        (".a", ".a"),
        ("./../a", "../a"),
        (".//a", "a"),
    ] {
        let block = header::block(&Fields {
            typeflag: b'5',
            ..file(name.as_bytes(), 0)
        });
        let (member, _) = only(archive().block(block));
        assert_eq!(
            (member.entry.path, member.name),
            (path.into(), name.into()),
            "{name}"
        );
    }
}

#[test]
fn each_type_has_its_kind() {
    let target = || b"a/b".to_vec();
    let cases = [
        (
            b'0',
            "n",
            Kind::File {
                size: 0,
                extents: None,
            },
        ),
        (
            b'\0',
            "n",
            Kind::File {
                size: 0,
                extents: None,
            },
        ),
        (
            b'7',
            "n",
            Kind::File {
                size: 0,
                extents: None,
            },
        ),
        (b'0', "n/", Kind::Directory),
        (b'\0', "n/", Kind::Directory),
        (b'1', "n", Kind::HardLink { target: target() }),
        (
            b'2',
            "n",
            Kind::Symlink {
                target: b"./a/b".to_vec(),
            },
        ),
        (b'3', "n", Kind::CharDevice { major: 5, minor: 6 }),
        (b'4', "n", Kind::BlockDevice { major: 5, minor: 6 }),
        (b'5', "n", Kind::Directory),
        (b'6', "n", Kind::Fifo),
        (b'D', "n", Kind::Directory),
    ];
    for (typeflag, name, kind) in cases {
        let block = header::block(&Fields {
            typeflag,
            linkname: b"./a/b",
            device: (5, 6),
            ..file(name.as_bytes(), 0)
        });
        assert_eq!(
            only(archive().block(block)).0.entry.kind,
            kind,
            "{}",
            typeflag.escape_ascii()
        );
    }
}

#[test]
fn only_files_and_dumped_directories_have_data() {
    for (typeflag, has_data) in [
        (b'0', true),
        (b'D', true),
        (b'1', false),
        (b'2', false),
        (b'3', false),
        (b'5', false),
        (b'6', false),
    ] {
        let block = header::block(&Fields {
            typeflag,
            linkname: b"l",
            ..file(b"n", 700)
        });
        let archive = archive()
            .block(block)
            .data(if has_data { &[1; 700] } else { &[] })
            .file(b"next", b"x")
            .end();
        let (members, _) = read(&archive).unwrap();
        assert_eq!(members[1].0.name, b"next", "{}", typeflag.escape_ascii());
        assert_eq!(
            members[0].0.headers[0].payload,
            if has_data { 700 } else { 0 }
        );
    }
}

#[test]
fn records_win_over_the_header() {
    let records: &[(&str, &[u8])] = &[
        ("path", b"./long\n/"),
        ("size", b"5"),
        ("uid", b"70000"),
        ("gid", b"4294967294"),
        ("uname", b"me"),
        ("gname", b"us"),
        ("mtime", b"-0.5"),
        ("atime", b"nonsense is passed over"),
        ("hdrcharset", b"BINARY"),
        ("comment", b""),
        ("SCHILY.acl.access", b"user::rwx"),
        ("SCHILY.acl.default", b""),
        ("SCHILY.xattr.user.b", b"\0\n="),
        ("SCHILY.xattr.user.a%3D", b""),
        ("LIBARCHIVE.xattr.user.b", b"aGlkZGVu"),
        ("LIBARCHIVE.xattr.user.%63", b"Yw"),
        ("RHT.security.selinux", b"x"),
        ("SCHILY.fflags", b"nodump"),
    ];
    let name = Fields {
        typeflag: b'7',
        ..file(b"short", 0)
    };
    let records_of_file: Vec<_> = records
        .iter()
        .map(|(key, value)| (*key, if *key == "path" { b"long\n" } else { *value }))
        .collect();
    let (member, content) = only(
        archive()
            .pax(&records_of_file)
            .block(header::block(&name))
            .data(b"12345"),
    );
    assert_eq!(content, b"12345");
    assert_eq!(member.name, b"long\n");
    assert_eq!((member.entry.uid, member.entry.gid), (70000, 4_294_967_294));
    assert_eq!(
        member.entry.mtime,
        Timestamp {
            seconds: -1,
            nanoseconds: 500_000_000
        }
    );
    assert_eq!(member.owner_names, (b"me".to_vec(), b"us".to_vec()));
    assert_eq!(
        (member.entry.access_acl.unwrap(), member.entry.default_acl),
        (b"user::rwx".to_vec(), None)
    );
    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(
        member.entry.xattrs,
        [
            xattr("user.a=", b""),
            xattr("user.b", b"\0\n="),
            xattr("user.c", b"c")
        ]
    );
    assert_eq!(
        member.other_records,
        [&b"RHT.security.selinux"[..], b"SCHILY.fflags"]
    );
    assert_eq!(
        member
            .headers
            .iter()
            .map(|header| header.payload)
            .collect::<Vec<_>>()[1],
        5
    );
}

#[test]
fn acls_are_found_in_every_place_and_kept_where_they_say_more_than_the_mode() {
    const MORE: &[u8] = b"user::rw-,user:5:rwx,group::r--,mask::rwx,other::r--";
    let raw = crate::acl::from_text(MORE).unwrap();
    let trivial = crate::acl::minimal(0o644);
    type Case<'a> = (&'a str, &'a [u8], &'a str, &'a [u8], Option<&'a [u8]>);
    let cases: &[Case] = &[
        ("SCHILY.acl.access", MORE, "comment", b"", Some(MORE)),
        (
            "SCHILY.acl.access",
            b"u::rw-\ng::r--\no::r--",
            "comment",
            b"",
            None,
        ),
        (
            "SCHILY.acl.access",
            b"u::rw-,g::---,o::---",
            "comment",
            b"",
            Some(b"u::rw-,g::---,o::---"),
        ),
        (
            "SCHILY.xattr.system.posix_acl_access",
            &raw,
            "comment",
            b"",
            Some(MORE),
        ),
        (
            "SCHILY.xattr.system.posix_acl_access",
            &trivial,
            "comment",
            b"",
            None,
        ),
        (
            "SCHILY.xattr.system.posix_acl_access",
            &trivial,
            "SCHILY.acl.access",
            MORE,
            Some(MORE),
        ),
        (
            "SCHILY.xattr.system.posix_acl_access",
            &raw,
            "SCHILY.acl.access",
            b"user:joe:rwx",
            Some(MORE),
        ),
    ];
    for (key, value, other, other_value, expected) in cases {
        let (member, _) = only(
            archive()
                .pax(&[(key, value), (other, other_value)])
                .file(b"f", b""),
        );
        assert_eq!(member.entry.access_acl.as_deref(), *expected, "{key}");
        assert_eq!(member.entry.xattrs, []);
    }
    let default = archive()
        .pax(&[("SCHILY.xattr.system.posix_acl_default", &raw)])
        .file(b"f", b"");
    assert_eq!(only(default).0.entry.default_acl.unwrap(), MORE);
    let broken = archive()
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &raw[..9])])
        .file(b"f", b"");
    assert_eq!(fault(&broken), Fault::Acl(crate::acl::Error::Length(9)));
}

#[test]
fn a_size_record_says_where_the_next_header_stands() {
    // The header's own size would find another member inside the data.
    let hidden = archive().file(b"hidden", b"").0;
    let archive = archive()
        .pax(&[("size", hidden.len().to_string().as_bytes())])
        .block(header::block(&file(b"outer", 0)))
        .data(&hidden)
        .file(b"next", b"")
        .end();
    let names: Vec<_> = read(&archive)
        .unwrap()
        .0
        .into_iter()
        .map(|(member, _)| member.name)
        .collect();
    assert_eq!(names, [&b"outer"[..], b"next"]);
}

#[test]
fn attributes_in_global_headers_are_counted_and_apply_to_no_member() {
    let archive = archive()
        .global(&[
            ("SCHILY.xattr.user.k", b"v"),
            ("SCHILY.acl.access", b"user::rw-"),
        ])
        .global(&[("LIBARCHIVE.xattr.user.l", b"dg==")])
        .file(b"a", b"")
        .file(b"b", b"")
        .end();
    let (members, _) = read(&archive).unwrap();
    let counts: Vec<_> = members
        .iter()
        .map(|(member, _)| member.global_attributes)
        .collect();
    assert_eq!(counts, [3, 0]);
    assert!(members.iter().all(|(member, _)| {
        member.entry.xattrs.is_empty() && member.entry.access_acl.is_none()
    }));
}

#[test]
fn a_member_of_unknown_type_is_a_file() {
    for typeflag in *b"AEINQZaz" {
        let block = edited(header::block(&file(b"f", 3)), &[(156, &[typeflag])]);
        let (members, _) = read(&archive().block(block).data(b"abc").end()).unwrap();
        let (member, data) = &members[0];
        assert!(matches!(member.entry.kind, Kind::File { size: 3, .. }));
        assert_eq!(data, b"abc", "{}", typeflag as char);
    }
}

#[test]
fn a_solaris_header_is_an_extended_header() {
    let records = encoded(&[("mtime", b"7")]);
    let archive = archive().extension(b'X', &records).file(b"f", b"").end();
    let (members, _) = read(&archive).unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].0.entry.mtime.seconds, 7);
}

#[test]
fn numbers_of_blanks_are_zero() {
    let blanks: [(usize, &[u8]); 5] = [
        (100, b"       \0"),
        (108, b"       \0"),
        (116, b"       \0"),
        (124, b"           \0"),
        (136, b"           \0"),
    ];
    let block = edited(header::block(&file(b"f", 0)), &blanks);
    let (members, _) = read(&archive().block(block).end()).unwrap();
    let entry = &members[0].0.entry;
    assert_eq!(
        (entry.mode, entry.uid, entry.gid, entry.mtime.seconds),
        (0, 0, 0, 0)
    );
}

#[test]
fn global_records_hold_for_all_that_follow() {
    let archive = archive()
        .file(b"a", b"")
        .global(&[
            ("uid", b"5"),
            ("mtime", b"7.5"),
            ("comment", b"c"),
            ("VENDOR.x", b"y"),
        ])
        .file(b"b", b"")
        .global(&[("uid", b"6")])
        .pax(&[("gid", b"9")])
        .file(b"c", b"")
        .pax(&[("uid", b"8")])
        .file(b"d", b"")
        .end();
    let (members, _) = read(&archive).unwrap();
    let seen: Vec<_> = members
        .iter()
        .map(|(member, _)| {
            let Entry {
                uid, gid, mtime, ..
            } = member.entry;
            (
                uid,
                gid,
                mtime.seconds,
                member.global_header,
                member.headers.len(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (0, 0, 0, false, 1),
            (5, 0, 7, true, 2),
            (6, 9, 7, true, 3),
            (8, 0, 7, false, 2)
        ]
    );
}

#[test]
fn gnu_names_may_be_long_and_its_prefix_is_none() {
    let (long, target) = ([b'n'; 300], [b't'; 400]);
    let block = edited(
        header::block(&Fields {
            typeflag: b'2',
            linkname: b"cut",
            ..file(b"cut", 0)
        }),
        &[GNU, (345, b"12345670123\0"), (265, b"me\0")],
    );
    let nul = |name: &[u8]| [name, b"\0"].concat();
    for swapped in [false, true] {
        let (k, l) = ((b'K', nul(&target)), (b'L', nul(&long)));
        let (first, second) = if swapped { (l, k) } else { (k, l) };
        let (member, _) = only(
            archive()
                .extension(first.0, &first.1)
                .extension(second.0, &second.1)
                .block(block),
        );
        assert_eq!(member.name, long);
        assert_eq!(
            member.entry.kind,
            Kind::Symlink {
                target: target.to_vec()
            }
        );
    }
    let (member, _) = only(archive().block(block));
    assert_eq!(
        (member.name, member.owner_names.0),
        (b"cut".to_vec(), b"me".to_vec())
    );
}

#[test]
fn large_numbers_of_gnu_are_read() {
    let block = edited(
        header::block(&Fields {
            typeflag: b'5',
            ..file(b"d", 0)
        }),
        &[
            GNU,
            (108, b"\x80\0\0\0\xff\xff\xff\xfe"),
            (136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ],
    );
    let (member, _) = only(archive().block(block));
    assert_eq!(
        (member.entry.uid, member.entry.mtime.seconds),
        (u32::MAX - 1, -1)
    );
}

/// A sparse file of `size` bytes with `data`, in the old GNU format.
fn old_gnu(size: u64, extents: &[(u64, u64)], stored: usize) -> Archive {
    let extent =
        |(offset, length): &(u64, u64)| format!("{offset:011o}\0{length:011o}\0").into_bytes();
    let (first, others) = extents.split_at(extents.len().min(4));
    let mut block = header::block(&Fields {
        typeflag: b'S',
        ..file(b"sparse", stored)
    });
    let text: Vec<u8> = first.iter().flat_map(extent).collect();
    block[386..386 + text.len()].copy_from_slice(&text);
    block = edited(
        block,
        &[
            GNU,
            (482, &[u8::from(!others.is_empty())]),
            (483, format!("{size:011o}\0").as_bytes()),
        ],
    );
    let mut archive = archive().block(block);
    let mut chunks = others.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = [0; BLOCK];
        let text: Vec<u8> = chunk.iter().flat_map(extent).collect();
        block[..text.len()].copy_from_slice(&text);
        block[504] = u8::from(chunks.peek().is_some());
        archive = archive.block(block);
    }
    archive
}

#[test]
fn sparse_files_of_all_forms_are_the_same() {
    let extents: Vec<(u64, u64)> = (0..50).map(|i| (i * 100, 3)).collect();
    let data = [7; 150];
    let map = extents
        .iter()
        .map(|(offset, length)| format!("{offset},{length}"))
        .collect::<Vec<_>>()
        .join(",");
    let pairs: Vec<(String, String)> = extents
        .iter()
        .map(|(offset, length)| (offset.to_string(), length.to_string()))
        .collect();
    let mut v00: Vec<(&str, &[u8])> = vec![
        ("GNU.sparse.size", b"6000"),
        ("GNU.sparse.numblocks", b"50"),
    ];
    for (offset, length) in &pairs {
        v00.push(("GNU.sparse.offset", offset.as_bytes()));
        v00.push(("GNU.sparse.numbytes", length.as_bytes()));
    }
    let v01: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"6000"),
        ("GNU.sparse.numblocks", b"50"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let v10: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"6000"),
        ("path", b"./GNUSparseFile.1/sparse"),
    ];
    let wanted: Vec<Extent> = extents
        .iter()
        .map(|(offset, length)| Extent {
            offset: *offset,
            length: *length,
        })
        .collect();
    let text = crate::archive::sparse::map(&wanted, 6000);
    let archives = [
        old_gnu(6000, &extents, 150).data(&data),
        archive().pax(&v00).file(b"sparse", &data),
        archive().pax(v01).file(b"GNUSparseFile.1/sparse", &data),
        archive()
            .pax(v10)
            .file(b"GNUSparseFile.1/sparse", &[text, data.to_vec()].concat()),
    ];
    let mut content = vec![0; 6000];
    for (offset, length) in &extents {
        content[*offset as usize..(offset + length) as usize].fill(7);
    }
    for archive in archives {
        let (member, read) = only(archive);
        assert_eq!(member.name, b"sparse");
        assert_eq!(
            member.entry.kind,
            Kind::File {
                size: 6000,
                extents: Some(wanted.clone())
            }
        );
        assert_eq!(read, content);
    }
}

#[test]
fn a_sparse_file_without_holes_is_a_file() {
    let (member, content) = only(old_gnu(6, &[(0, 4), (4, 2)], 6).data(b"abcdef"));
    assert_eq!(
        member.entry.kind,
        Kind::File {
            size: 6,
            extents: None
        }
    );
    assert_eq!(content, b"abcdef");
}

#[test]
fn the_end_is_told_as_it_is() {
    let file = || archive().file(b"a", b"x");
    let end = |zero_blocks, trailing_zero_bytes| End {
        zero_blocks,
        trailing_zero_bytes,
        members: 1,
    };
    for (archive, expected) in [
        (file(), end(0, 0)),
        (file().block([0; BLOCK]), end(1, 0)),
        (file().block([0; BLOCK]).bytes(&[0; 100]), end(1, 100)),
        (file().end(), end(2, 0)),
        (file().end().bytes(&[0; 9000]), end(2, 9000)),
    ] {
        assert_eq!(read(&archive).unwrap().1, expected);
    }
    assert_eq!(read(&archive()).unwrap().1, End::default());
}

#[test]
fn volume_labels_are_passed_over() {
    let (members, _) = read(&archive().extension(b'V', b"").file(b"a", b"x").end()).unwrap();
    assert_eq!((members.len(), members[0].0.headers.len()), (1, 2));
}
