//! Every reason to refuse an archive.

use super::*;
use crate::archive::number;

#[test]
fn each_refusal_is_its_own() {
    let field = |field, cause| Fault::Field { field, cause };
    let record = |key: &str, cause| Fault::Record {
        key: key.into(),
        cause,
    };
    let with = |edits: &[(usize, &[u8])]| {
        archive()
            .block(edited(header::block(&file(b"f", 0)), edits))
            .end()
    };
    let pax = |records: &[(&str, &[u8])]| archive().pax(records).file(b"f", b"").end();
    let mixed = |first, second| Fault::MixedExtensions { first, second };
    let x = |archive: Archive| archive.pax(&[("uid", b"1")]);
    let long = |archive: Archive| archive.extension(b'L', b"long\0");
    let link = |linkname| {
        archive()
            .block(header::block(&Fields {
                typeflag: b'2',
                linkname,
                ..file(b"f", 0)
            }))
            .end()
    };
    // Some programs read the next bytes as data, others as a member.
    let sized = |typeflag| {
        let member = header::block(&Fields {
            typeflag,
            linkname: b"l",
            ..file(b"m", 0)
        });
        archive()
            .pax(&[("size", b"512")])
            .block(member)
            .file(b"hidden", b"")
            .end()
    };
    let whole = archive().file(b"f", &[1; 600]).0;
    let cut = |length| archive().bytes(&whole[..length]);
    let cut_x = |length| archive().bytes(&x(archive()).0[..length]);
    let cases: Vec<(&str, Archive, Fault)> = vec![
        (
            "damaged header",
            archive().bytes(&[7; BLOCK]),
            Fault::Checksum,
        ),
        (
            "negative size",
            with(&[(124, &[0xff; 12])]),
            field("size", number::Error::Negative),
        ),
        (
            "huge size",
            with(&[(124, b"\x80\0\0\0\xff\0\0\0\0\0\0\0")]),
            field("size", number::Error::TooLarge),
        ),
        (
            "high base-256 bits",
            with(&[(124, b"\xc0\0\0\0\0\0\0\0\0\0\0\0")]),
            field("size", number::Error::Malformed),
        ),
        (
            "no number",
            with(&[(100, b"rwxr-xr-")]),
            field("mode", number::Error::Malformed),
        ),
        (
            "huge uid",
            with(&[(108, b"\x80\0\0\x01\0\0\0\0")]),
            field("user id", number::Error::TooLarge),
        ),
        (
            "uid -1",
            with(&[(108, b"\x80\0\0\0\xff\xff\xff\xff")]),
            field("user id", number::Error::TooLarge),
        ),
        (
            "negative gid",
            with(&[(116, b"\xff\xff\xff\xff\xff\xff\xff\xff")]),
            field("group id", number::Error::Negative),
        ),
        (
            "no time",
            with(&[(136, b"yesterday\0\0\0")]),
            field("modification time", number::Error::Malformed),
        ),
        (
            "no name",
            with(&[(0, b"\0")]),
            Fault::Empty { what: "path" },
        ),
        (
            "no target",
            link(b""),
            Fault::Empty {
                what: "link target",
            },
        ),
        (
            "negative record",
            pax(&[("size", b"-1")]),
            record("size", number::Error::Negative),
        ),
        (
            "huge record",
            pax(&[("size", b"9223372036854775808")]),
            record("size", number::Error::TooLarge),
        ),
        (
            "uid -1 in a record",
            pax(&[("uid", b"4294967295")]),
            record("uid", number::Error::TooLarge),
        ),
        (
            "empty record",
            pax(&[("gid", b"")]),
            record("gid", number::Error::Malformed),
        ),
        (
            "no time in a record",
            pax(&[("mtime", b"now")]),
            record("mtime", number::Error::Malformed),
        ),
        (
            "malformed record",
            archive().extension(b'x', b"9 a=b\n").file(b"f", b""),
            Fault::MalformedRecord,
        ),
        (
            "a key twice",
            pax(&[("uid", b"1"), ("comment", b""), ("uid", b"1")]),
            Fault::DuplicateRecord {
                key: b"uid".to_vec(),
            },
        ),
        (
            "a name in two spellings",
            pax(&[
                ("SCHILY.xattr.user.%", b"1"),
                ("SCHILY.xattr.user.%25", b"2"),
            ]),
            Fault::DuplicateRecord {
                key: b"user.%".to_vec(),
            },
        ),
        (
            "empty path",
            pax(&[("path", b"")]),
            Fault::Empty { what: "path" },
        ),
        (
            "empty linkpath",
            pax(&[("linkpath", b"")]),
            Fault::Empty {
                what: "link target",
            },
        ),
        (
            "NUL in a path",
            pax(&[("path", b"a\0b")]),
            Fault::Nul { what: "path" },
        ),
        (
            "NUL at the end of a path",
            pax(&[("path", b"a\0")]),
            Fault::Nul { what: "path" },
        ),
        (
            "NUL in a linkpath",
            pax(&[("linkpath", b"a\0b")]),
            Fault::Nul {
                what: "link target",
            },
        ),
        (
            "NUL in a sparse name",
            pax(&[("GNU.sparse.name", b"a\0b")]),
            Fault::Nul { what: "path" },
        ),
        (
            "NUL in a long name",
            archive().extension(b'L', b"a\0b\0").file(b"f", b""),
            Fault::Nul { what: "path" },
        ),
        (
            "empty long name",
            archive().extension(b'L', b"\0").file(b"f", b""),
            Fault::Empty { what: "path" },
        ),
        (
            "empty long target",
            archive().extension(b'K', b"").file(b"f", b""),
            Fault::Empty {
                what: "link target",
            },
        ),
        (
            "long path",
            pax(&[("path", &[b'a'; 4097])]),
            Fault::TooLong {
                what: "path",
                length: 4097,
                limit: 4096,
            },
        ),
        (
            "long GNU path",
            archive().extension(b'L', &[b'a'; 5000]).file(b"f", b""),
            Fault::TooLong {
                what: "path",
                length: 5000,
                limit: 4096,
            },
        ),
        (
            "long attribute",
            pax(&[("SCHILY.xattr.user.a", &[0; 65537])]),
            Fault::TooLong {
                what: "extended attribute",
                length: 65537,
                limit: 65536,
            },
        ),
        (
            "long ACL",
            pax(&[("SCHILY.acl.access", &[0; 65537])]),
            Fault::TooLong {
                what: "ACL",
                length: 65537,
                limit: 65536,
            },
        ),
        (
            "attribute without name",
            pax(&[("SCHILY.xattr.", b"")]),
            Fault::Empty {
                what: "extended attribute's name",
            },
        ),
        (
            "no base64",
            pax(&[("LIBARCHIVE.xattr.user.a", b"!")]),
            Fault::UnknownValue {
                key: b"LIBARCHIVE.xattr.user.a".to_vec(),
            },
        ),
        (
            "foreign charset",
            pax(&[("hdrcharset", b"KOI8-R")]),
            Fault::UnknownValue {
                key: b"hdrcharset".to_vec(),
            },
        ),
        (
            "large records",
            archive().block(header::block(&Fields {
                typeflag: b'x',
                ..file(b"x", 1 << 20)
            })),
            Fault::RecordsTooLong { limit: 1 << 20 },
        ),
        (
            "global path",
            archive().global(&[("path", b"a")]).file(b"f", b""),
            Fault::GlobalRecord {
                key: b"path".to_vec(),
            },
        ),
        (
            "global size",
            archive().global(&[("size", b"1")]).file(b"f", b""),
            Fault::GlobalRecord {
                key: b"size".to_vec(),
            },
        ),
        (
            "x before L",
            long(x(archive())).file(b"f", b""),
            mixed(b'x', b'L'),
        ),
        (
            "x before K",
            x(archive()).extension(b'K', b"k\0").file(b"f", b""),
            mixed(b'x', b'K'),
        ),
        (
            "L with a PAX path",
            long(archive()).pax(&[("path", b"p")]).file(b"f", b""),
            mixed(b'L', b'x'),
        ),
        ("two x", x(x(archive())).file(b"f", b""), mixed(b'x', b'x')),
        (
            "two L",
            long(long(archive())).file(b"f", b""),
            mixed(b'L', b'L'),
        ),
        (
            "x before g",
            x(archive()).global(&[]).file(b"f", b""),
            mixed(b'x', b'g'),
        ),
        (
            "x before a volume",
            x(archive()).extension(b'V', b"").file(b"f", b""),
            mixed(b'x', b'V'),
        ),
        (
            "dangling x before the end",
            x(archive()).end(),
            Fault::DanglingExtension { typeflag: b'x' },
        ),
        (
            "dangling L at the end",
            long(archive()),
            Fault::DanglingExtension { typeflag: b'L' },
        ),
        (
            "dangling K at the end",
            archive().extension(b'K', b"k\0"),
            Fault::DanglingExtension { typeflag: b'K' },
        ),
        (
            "unknown type of a directory",
            with(&[(0, b"f/"), (156, b"Q")]),
            Fault::UnknownType { typeflag: b'Q' },
        ),
        (
            "sparse without GNU",
            with(&[(156, b"S")]),
            Fault::UnknownType { typeflag: b'S' },
        ),
        (
            "device of v7",
            with(&[V7, (156, b"3")]),
            Fault::UnknownType { typeflag: b'3' },
        ),
        ("volume", with(&[GNU, (156, b"M")]), Fault::MultiVolume),
        (
            "size of a hard link",
            sized(b'1'),
            Fault::SizeWithoutData { kind: "hard link" },
        ),
        (
            "size of a symbolic link",
            sized(b'2'),
            Fault::SizeWithoutData {
                kind: "symbolic link",
            },
        ),
        (
            "size of a directory",
            sized(b'5'),
            Fault::SizeWithoutData { kind: "directory" },
        ),
        (
            "size of a pipe",
            sized(b'6'),
            Fault::SizeWithoutData { kind: "named pipe" },
        ),
        (
            "slash and data",
            archive().file(b"d/", b"x").end(),
            Fault::DirectoryWithData,
        ),
        (
            "cut in a header",
            cut(511),
            Fault::Truncated { within: "a header" },
        ),
        (
            "cut before data",
            cut(512),
            Fault::Truncated {
                within: "the data of a member",
            },
        ),
        (
            "cut in data",
            cut(1000),
            Fault::Truncated {
                within: "the data of a member",
            },
        ),
        (
            "cut in padding",
            cut(1112),
            Fault::Truncated {
                within: "the padding of a member",
            },
        ),
        (
            "cut in records",
            cut_x(514),
            Fault::Truncated {
                within: "an extension header",
            },
        ),
        (
            "cut behind records",
            cut_x(1023),
            Fault::Truncated {
                within: "an extension header",
            },
        ),
        (
            "cut in a sparse map",
            archive().bytes(&old_gnu(100, &[(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)], 5).0[..600]),
            Fault::Truncated {
                within: "a sparse map",
            },
        ),
        (
            "lone zero block",
            archive().block([0; BLOCK]).file(b"f", b"").end(),
            Fault::LoneZeroBlock,
        ),
        (
            "half a zero block",
            archive().block([0; BLOCK]).bytes(b"\0\0x"),
            Fault::LoneZeroBlock,
        ),
        (
            "data after the end",
            archive().end().bytes(&[0; 5000]).bytes(b"x"),
            Fault::DataAfterEnd,
        ),
        (
            "a member after the end",
            archive().file(b"f", b"").end().file(b"g", b""),
            Fault::DataAfterEnd,
        ),
    ];
    for (name, archive, expected) in cases {
        assert_eq!(fault(&archive), expected, "{name}");
    }
}

#[test]
fn each_fault_of_a_sparse_file_is_its_own() {
    let v1: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    let size: (&str, &[u8]) = ("GNU.sparse.size", b"100");
    let count: (&str, &[u8]) = ("GNU.sparse.numblocks", b"1");
    let map: (&str, &[u8]) = ("GNU.sparse.map", b"0,3");
    let pax = |records: &[(&str, &[u8])]| archive().pax(records).file(b"f", b"abc").end();
    let text = |map: &[u8]| {
        archive()
            .pax(&[v1[0], v1[1], size])
            .file(
                b"f",
                &[map, &vec![0; padding(map.len() as u64)], b"abc"].concat(),
            )
            .end()
    };
    let many: Vec<(u64, u64)> = (0..9).map(|i| (i, 1)).collect();
    let cases: Vec<(&str, Archive, MapError)> = vec![
        (
            "unsorted",
            text(b"2\n50\n1\n0\n2\n"),
            MapError::Unsorted { offset: 0 },
        ),
        (
            "overlapping",
            text(b"2\n0\n2\n1\n1\n"),
            MapError::Unsorted { offset: 1 },
        ),
        (
            "beyond the size",
            text(b"1\n98\n3\n"),
            MapError::BeyondSize {
                end: 101,
                size: 100,
            },
        ),
        (
            "other stored size",
            text(b"1\n0\n4\n"),
            MapError::StoredSize {
                mapped: 4,
                stored: 3,
            },
        ),
        ("too many", text(b"9\n"), MapError::TooMany { limit: 8 }),
        (
            "map larger than the data",
            archive()
                .pax(&[v1[0], v1[1], size])
                .file(b"f", b"1\n")
                .end(),
            MapError::Malformed,
        ),
        (
            "too many of old GNU",
            old_gnu(100, &many, 9).data(&[0; 9]).end(),
            MapError::TooMany { limit: 8 },
        ),
        (
            "old GNU beyond the size",
            old_gnu(2, &[(0, 3)], 3).data(b"abc"),
            MapError::BeyondSize { end: 3, size: 2 },
        ),
        ("no size", pax(&[count, map]), MapError::MissingSize),
        (
            "no size for 1.0",
            archive().pax(&v1).file(b"f", b"0\n").end(),
            MapError::MissingSize,
        ),
        (
            "another count",
            pax(&[size, ("GNU.sparse.numblocks", b"2"), map]),
            MapError::Count,
        ),
        (
            "half an extent",
            pax(&[size, count, map, ("GNU.sparse.offset", b"5")]),
            MapError::Count,
        ),
        ("no count", pax(&[size, map]), MapError::Count),
        (
            "version 2",
            pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"), size]),
            MapError::Version,
        ),
        (
            "half a version",
            pax(&[("GNU.sparse.major", b"1"), size]),
            MapError::Version,
        ),
        (
            "1.0 with a map in records",
            pax(&[v1[0], v1[1], size, count, map]),
            MapError::Version,
        ),
        (
            "length first",
            pax(&[size, count, ("GNU.sparse.numbytes", b"1")]),
            MapError::Malformed,
        ),
        (
            "two offsets",
            pax(&[
                size,
                count,
                ("GNU.sparse.offset", b"1"),
                ("GNU.sparse.offset", b"1"),
            ]),
            MapError::Malformed,
        ),
        (
            "of a directory",
            archive()
                .pax(&[size, count, map])
                .block(header::block(&Fields {
                    typeflag: b'5',
                    ..file(b"d", 0)
                })),
            MapError::NotAFile,
        ),
        (
            "of two forms",
            archive()
                .pax(&[size, count, map])
                .bytes(&old_gnu(9, &[(0, 1)], 1).0),
            MapError::Version,
        ),
    ];
    for (name, archive, expected) in cases {
        let error = read_within(
            &archive,
            Limits {
                extents: 8,
                ..Limits::default()
            },
        )
        .unwrap_err();
        assert_eq!(error.fault, Fault::Sparse(expected), "{name}");
    }
}

#[test]
fn an_error_names_the_member_and_the_place_and_is_final() {
    let archive = archive()
        .file(b"a", b"x")
        .pax(&[("path", b"b\n")])
        .block(edited(header::block(&file(b"f", 0)), &[(100, b"?")]));
    let (mut reader, mut input) = (Reader::new(Limits::default()), archive.0.as_slice());
    let error = loop {
        if let Err(error) = reader.next(&mut input) {
            break error;
        }
    };
    assert_eq!(
        error.to_string(),
        "b\\n: the header's mode is not a number (at byte 2048 of the tar stream)"
    );
    assert_eq!(reader.next(&mut input).unwrap_err(), error);
    assert_eq!(reader.finish().unwrap_err(), error);
}

#[test]
fn many_extension_headers_in_a_row_are_limited_too() {
    let many = (0..3000).fold(archive(), |archive, _| archive.global(&[]));
    assert_eq!(fault(&many), Fault::RecordsTooLong { limit: 1 << 20 });
}
