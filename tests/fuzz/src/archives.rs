//! Small archives by hand: what each dialect of tar has, and what no honest program writes.
//!
//! The corpus of the fuzz targets is made of them (`cargo run --example corpus`), and
//! `tests/suite/differential.rs` reads them with Python.

use isar_tarball::internals::archive::header::{Fields, block, padding};
use isar_tarball::internals::archive::pax::record;

/// The bytes of a tar stream.
#[derive(Clone, Default)]
pub struct Stream(pub Vec<u8>);

/// Where the fields lie that are changed here (see `archive::header::decode`).
const UID: usize = 108;
const SIZE: usize = 124;
const MTIME: usize = 136;
const CHECKSUM: usize = 148;
const MAGIC: usize = 257;
const USER: usize = 265;
const EXTENTS: usize = 386;
const CONTINUED: usize = 482;
const REAL_SIZE: usize = 483;

const GNU: &[u8] = b"ustar  \0";

impl Stream {
    /// A header; data follows if its size says so.
    pub fn header(mut self, fields: &Fields<'_>) -> Stream {
        self.0.extend_from_slice(&block(fields));
        self
    }

    /// Changes the header that was added last, and its checksum with it.
    pub fn change(mut self, at: usize, bytes: &[u8]) -> Stream {
        let begin = self.0.len() - 512;
        let header = &mut self.0[begin..];
        header[at..at + bytes.len()].copy_from_slice(bytes);
        header[CHECKSUM..CHECKSUM + 8].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[CHECKSUM..CHECKSUM + 7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Stream {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Data and what fills its last block.
    pub fn data(self, data: &[u8]) -> Stream {
        let zeros = vec![0; padding(data.len() as u64)];
        self.raw(data).raw(&zeros)
    }

    /// A header and data of the size that it then has.
    pub fn member(self, fields: &Fields<'_>, data: &[u8]) -> Stream {
        self.header(&Fields {
            size: data.len() as u64,
            ..*fields
        })
        .data(data)
    }

    /// A PAX header: `x` for the next member, `g` for all that follow.
    pub fn records(self, typeflag: u8, records: &[(&str, &[u8])]) -> Stream {
        let mut data = Vec::new();
        for (key, value) in records {
            record(&mut data, key.as_bytes(), value);
        }
        self.member(
            &Fields {
                name: b"./PaxHeaders/x",
                mode: 0o644,
                typeflag,
                ..Fields::default()
            },
            &data,
        )
    }

    /// A GNU header with a long name (`L`) or target (`K`).
    pub fn long(self, typeflag: u8, name: &[u8]) -> Stream {
        let data = [name, b"\0"].concat();
        let size = data.len() as u64;
        self.header(&Fields {
            name: b"././@LongLink",
            size,
            typeflag,
            ..Fields::default()
        })
        .change(MAGIC, GNU)
        .data(&data)
    }

    /// A regular file.
    pub fn file(self, name: &[u8], data: &[u8]) -> Stream {
        self.member(&fields(name, b'0'), data)
    }

    /// A member without data.
    pub fn other(self, name: &[u8], typeflag: u8, linkname: &[u8]) -> Stream {
        self.header(&Fields {
            linkname,
            ..fields(name, typeflag)
        })
    }

    /// The blocks that end an archive.
    pub fn end(self) -> Stream {
        self.raw(&[0; 1024])
    }
}

fn fields(name: &[u8], typeflag: u8) -> Fields<'_> {
    Fields {
        name,
        mode: if typeflag == b'5' { 0o755 } else { 0o644 },
        mtime: 1_600_000_000,
        typeflag,
        ..Fields::default()
    }
}

/// A number as a field of 12 bytes has it.
fn octal(number: u64) -> Vec<u8> {
    format!("{number:011o}\0").into_bytes()
}

/// A number in base 256, as a field of `length` bytes has it.
fn base_256(number: i64, length: usize) -> Vec<u8> {
    let mut field = vec![if number < 0 { 0xff } else { 0 }; length];
    field[length - 8..].copy_from_slice(&number.to_be_bytes());
    if number >= 0 {
        field[0] = 0x80;
    }
    field
}

/// The extents of an old-GNU map: offset and length each.
fn extents(extents: &[(u64, u64)]) -> Vec<u8> {
    extents
        .iter()
        .flat_map(|(offset, length)| [octal(*offset), octal(*length)].concat())
        .collect()
}

/// A file in the old GNU form, up to its data; `more` are the extents in the block behind its
/// header.
fn old_sparse(
    stream: Stream,
    size: u64,
    stored: u64,
    first: &[(u64, u64)],
    more: &[(u64, u64)],
) -> Stream {
    let stream = stream
        .header(&Fields {
            size: stored,
            ..fields(b"./sparse", b'S')
        })
        .change(MAGIC, GNU)
        .change(EXTENTS, &extents(first))
        .change(CONTINUED, &[u8::from(!more.is_empty())])
        .change(REAL_SIZE, &octal(size));
    if more.is_empty() {
        return stream;
    }
    let mut block = extents(more);
    block.resize(512, 0);
    stream.raw(&block)
}

/// All of them, by name.
pub fn all() -> Vec<(&'static str, Stream)> {
    [good(), odd(), bad()].concat()
}

/// What honest programs write.
pub fn good() -> Vec<(&'static str, Stream)> {
    let new = Stream::default;
    let long = [b'n'; 150];
    vec![
        ("empty", new().end()),
        (
            "kinds",
            new()
                .other(b"./", b'5', b"")
                .other(b"./dir/", b'5', b"")
                .file(b"./dir/file", b"content\n")
                .file(b"./empty", b"")
                .file(b"./block", &[7; 512])
                .other(b"./link", b'2', b"dir/file")
                .other(b"./second", b'1', b"./dir/file")
                .other(b"./pipe", b'6', b"")
                .header(&Fields {
                    device: (1, 3),
                    ..fields(b"./null", b'3')
                })
                .header(&Fields {
                    device: (8, 0),
                    ..fields(b"./disk", b'4')
                })
                .end(),
        ),
        (
            "v7",
            new()
                .file(b"file", b"x")
                .other(b"dir/", 0, b"")
                .change(MAGIC, &[0; 8])
                .other(b"l", b'2', b"file")
                .change(MAGIC, &[0; 8])
                .end(),
        ),
        (
            "gnu",
            new()
                .other(b"dir/", b'5', b"")
                .change(MAGIC, GNU)
                .change(USER, b"root")
                .other(b"f", b'0', b"")
                .change(MAGIC, GNU)
                .end(),
        ),
        (
            "gnu long names",
            new()
                .long(b'K', &long)
                .long(b'L', &long)
                .other(&long[..100], b'2', &long[..100])
                .change(MAGIC, GNU)
                .end(),
        ),
        (
            "prefix",
            new()
                .member(
                    &Fields {
                        prefix: b"some/prefix",
                        ..fields(b"name", b'0')
                    },
                    b"x",
                )
                .end(),
        ),
        (
            "base 256",
            new()
                .other(b"big", b'0', b"")
                .change(UID, &base_256(3_000_000, 8))
                .change(MTIME, &base_256(-5, 12))
                .change(SIZE, &base_256(3, 12))
                .data(b"abc")
                .end(),
        ),
        (
            "pax names",
            new()
                .records(b'x', &[("path", &long), ("linkpath", b"t\xc3\xa4rget")])
                .other(b"short", b'2', b"short")
                .end(),
        ),
        (
            "pax numbers",
            new()
                .records(
                    b'x',
                    &[
                        ("size", b"3"),
                        ("uid", b"70000"),
                        ("gid", b"0"),
                        ("mtime", b"-1.5"),
                        ("uname", b"u"),
                        ("atime", b"1"),
                    ],
                )
                .other(b"f", b'0', b"")
                .data(b"abc")
                .end(),
        ),
        (
            "pax attributes",
            new()
                .records(
                    b'x',
                    &[
                        ("SCHILY.xattr.user.a%3Db", b"1"),
                        (
                            "SCHILY.acl.access",
                            b"user::rw-,user:5:r--,group::r--,mask::r--,other::r--",
                        ),
                    ],
                )
                .file(b"f", b"x")
                .records(
                    b'x',
                    &[
                        ("LIBARCHIVE.xattr.user.c", b"YQ"),
                        ("SCHILY.acl.default", b"user::rwx,group::r-x,other::---"),
                    ],
                )
                .other(b"d/", b'5', b"")
                .end(),
        ),
        (
            "pax binary value",
            new()
                .records(
                    b'x',
                    &[("SCHILY.xattr.user.a", b"a\n\0=\xff\n"), ("path", b"g")],
                )
                .file(b"f", b"x")
                .end(),
        ),
        (
            "pax binary name",
            new()
                .records(b'x', &[("hdrcharset", b"BINARY"), ("path", b"\xff\xfe")])
                .file(b"f", b"x")
                .end(),
        ),
        (
            "pax global",
            new()
                .records(b'g', &[("uid", b"7"), ("mtime", b"9"), ("comment", b"c")])
                .file(b"f", b"x")
                .other(b"d", b'5', b"")
                .end(),
        ),
        (
            "sparse 0.0",
            new()
                .records(
                    b'x',
                    &[
                        ("GNU.sparse.size", b"4000"),
                        ("GNU.sparse.numblocks", b"2"),
                        ("GNU.sparse.offset", b"1024"),
                        ("GNU.sparse.numbytes", b"3"),
                        ("GNU.sparse.offset", b"4000"),
                        ("GNU.sparse.numbytes", b"0"),
                    ],
                )
                .file(b"f", b"abc")
                .end(),
        ),
        (
            "sparse 0.1",
            new()
                .records(
                    b'x',
                    &[
                        ("GNU.sparse.size", b"4000"),
                        ("GNU.sparse.numblocks", b"2"),
                        ("GNU.sparse.name", b"s"),
                        ("GNU.sparse.map", b"1024,3,4000,0"),
                    ],
                )
                .file(b"GNUSparseFile.0/s", b"abc")
                .end(),
        ),
        (
            "sparse 1.0",
            new()
                .records(
                    b'x',
                    &[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.name", b"s"),
                        ("GNU.sparse.realsize", b"4000"),
                    ],
                )
                .header(&Fields {
                    size: 515,
                    ..fields(b"GNUSparseFile.0/s", b'0')
                })
                .data(b"2\n1024\n3\n4000\n0\n")
                .data(b"abc")
                .end(),
        ),
        (
            "sparse old",
            old_sparse(new(), 4000, 515, &[(512, 512), (3997, 3)], &[])
                .data(&[b'x'; 515])
                .end(),
        ),
        (
            "sparse old, long",
            old_sparse(
                new(),
                9000,
                5 * 512,
                &[(0, 512), (1024, 512), (2048, 512), (3072, 512)],
                &[(8000, 512), (9000, 0)],
            )
            .data(&[b'x'; 5 * 512])
            .end(),
        ),
        (
            "label and names",
            new()
                .other(b"label", b'V', b"")
                .change(MAGIC, GNU)
                .member(&fields(b"dir/", b'D'), b"Yname\0\0")
                .end(),
        ),
    ]
}

/// What is read, and seldom seen.
pub fn odd() -> Vec<(&'static str, Stream)> {
    let new = Stream::default;
    let sum_of_signed_bytes = {
        let mut stream = new().other(b"\xff\xfe", b'0', b"");
        let sum: i64 = stream
            .0
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    i64::from(*byte as i8)
                }
            })
            .sum();
        stream.0[CHECKSUM..CHECKSUM + 7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        stream
    };
    vec![
        ("contiguous", new().member(&fields(b"f", b'7'), b"x").end()),
        ("no end", new().file(b"f", b"x")),
        ("half an end", new().file(b"f", b"x").raw(&[0; 512])),
        ("long end", new().file(b"f", b"x").raw(&[0; 10240 - 1024])),
        (
            "same path twice",
            new().file(b"f", b"first").file(b"./f", b"second").end(),
        ),
        ("signed checksum", sum_of_signed_bytes.end()),
        (
            "other version",
            new()
                .member(
                    &Fields {
                        prefix: b"p",
                        ..fields(b"f", b'0')
                    },
                    b"",
                )
                .change(MAGIC, b"ustar\0\x20\x20")
                .end(),
        ),
        (
            "numbers of nothing",
            new()
                .other(b"f", b'0', b"")
                .change(100, &[0; 8])
                .change(SIZE, &[0; 12])
                .end(),
        ),
        (
            "directory with a size",
            new()
                .header(&Fields {
                    size: 5,
                    ..fields(b"d/", b'5')
                })
                .file(b"f", b"x")
                .end(),
        ),
        (
            "file named like a directory",
            new().other(b"d/", b'0', b"").end(),
        ),
        ("dot dot", new().file(b"../canary/file", b"x").end()),
        ("absolute", new().file(b"/canary/file", b"x").end()),
        (
            "through a link",
            new()
                .other(b"l", b'2', b"../canary")
                .file(b"l/file", b"x")
                .end(),
        ),
        (
            "over a link",
            new()
                .other(b"l", b'2', b"../canary/file")
                .file(b"l", b"x")
                .other(b"l", b'5', b"")
                .end(),
        ),
        (
            "link to outside",
            new().other(b"f", b'1', b"../canary/file").end(),
        ),
        (
            "link through a link",
            new()
                .other(b"l", b'2', b"../canary")
                .other(b"f", b'1', b"l/file")
                .end(),
        ),
        ("root that is a file", new().file(b".", b"x").end()),
        (
            "unknown type",
            new().member(&fields(b"f", b'Z'), b"x").end(),
        ),
        (
            "ids of blanks",
            new()
                .other(b"f", b'0', b"")
                .change(UID, b"       \0       \0")
                .end(),
        ),
        (
            "records of solaris",
            new()
                .records(b'X', &[("mtime", b"7")])
                .file(b"f", b"x")
                .end(),
        ),
        (
            "global attributes",
            new()
                .records(b'g', &[("SCHILY.xattr.user.k", b"v")])
                .file(b"f", b"x")
                .end(),
        ),
        (
            "sparse in shared blocks",
            new_sparse(10, b"2\n0\n2\n8\n2\n", b"abcd"),
        ),
        (
            "sparse with a short map",
            new_sparse(9000, b"1\n0\n2\n", b"ab"),
        ),
        (
            "acl by name",
            with_records(&[(
                "SCHILY.acl.access",
                b"user::rw-,user:bob:r--,group::r--,mask::r--,other::r--",
            )]),
        ),
        (
            "acl without a mask",
            with_records(&[(
                "SCHILY.acl.access",
                b"user::rw-,user:7:r--,group::r--,other::r--",
            )]),
        ),
        (
            "acl without a mask on a link",
            new()
                .records(b'x', &[("SCHILY.acl.access", b"user::rw-,user:7:r--")])
                .other(b"l", b'2', b"f")
                .end(),
        ),
        (
            "deepest path",
            with_records(&[("path", deep(1024).as_bytes())]),
        ),
        (
            "too deep a path",
            with_records(&[("path", deep(1025).as_bytes())]),
        ),
        (
            "longest name",
            with_records(&[("path", "n".repeat(255).as_bytes())]),
        ),
        (
            "too long a name",
            with_records(&[("path", "n".repeat(256).as_bytes())]),
        ),
        (
            "longest attribute name",
            with_records(&[(&attribute(255), b"v")]),
        ),
        (
            "too long an attribute name",
            with_records(&[(&attribute(256), b"v")]),
        ),
        (
            "attribute without a name",
            with_records(&[("SCHILY.xattr.user.", b"v")]),
        ),
        (
            "longest target",
            new()
                .records(b'x', &[("linkpath", "t".repeat(4095).as_bytes())])
                .other(b"l", b'2', b"t")
                .end(),
        ),
        (
            "too long a target",
            new()
                .records(b'x', &[("linkpath", "t".repeat(4096).as_bytes())])
                .other(b"l", b'2', b"t")
                .end(),
        ),
        ("largest id", with_records(&[("uid", b"65535")])),
        ("too large an id", with_records(&[("uid", b"65536")])),
        (
            "too large a group in an acl",
            with_records(&[(
                "SCHILY.acl.access",
                b"user::rw-,group::r--,group:65536:r--,mask::r--,other::r--",
            )]),
        ),
        (
            "file over a directory",
            new()
                .other(b"d/", b'5', b"")
                .file(b"d/f", b"x")
                .file(b"d", b"x")
                .end(),
        ),
        (
            "link to a device",
            new()
                .other(b"d", b'3', b"")
                .other(b"l", b'1', b"d")
                .other(b"m", b'1', b"l")
                .end(),
        ),
        (
            "below a device, and a file over it",
            new()
                .other(b"a/d", b'4', b"")
                .file(b"a/d/f", b"x")
                .other(b"e", b'3', b"")
                .file(b"e", b"x")
                .other(b"l", b'1', b"e")
                .file(b"a", b"x")
                .end(),
        ),
        (
            "device over a directory",
            new().file(b"d/f", b"x").other(b"d", b'3', b"").end(),
        ),
        (
            "capability of another root on a link",
            new()
                .records(
                    b'x',
                    &[(
                        "SCHILY.xattr.security.capability",
                        b"\x01\0\0\x03\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0",
                    )],
                )
                .other(b"l", b'2', b"f")
                .end(),
        ),
    ]
}

/// A file with these PAX records.
fn with_records(records: &[(&str, &[u8])]) -> Stream {
    Stream::default()
        .records(b'x', records)
        .file(b"f", b"x")
        .end()
}

/// A sparse file of format 1.0.
fn new_sparse(size: u64, map: &[u8], data: &[u8]) -> Stream {
    Stream::default()
        .records(
            b'x',
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", size.to_string().as_bytes()),
            ],
        )
        .header(&Fields {
            size: 512 + data.len() as u64,
            ..fields(b"GNUSparseFile.0/s", b'0')
        })
        .data(map)
        .data(data)
        .end()
}

/// A path of `count` components.
fn deep(count: usize) -> String {
    vec!["d"; count].join("/")
}

/// The record of an attribute whose name has `length` bytes.
fn attribute(length: usize) -> String {
    format!("SCHILY.xattr.user.{}", "n".repeat(length - 5))
}

/// What is refused.
pub fn bad() -> Vec<(&'static str, Stream)> {
    let new = Stream::default;
    let x = |records: &[(&str, &[u8])]| new().records(b'x', records).file(b"f", b"x").end();
    let sum_in_base_256 = {
        let mut stream = new().file(b"f", b"x").end();
        let sum: u64 = stream.0[..512].iter().map(|byte| u64::from(*byte)).sum();
        let written = &stream.0[CHECKSUM..CHECKSUM + 8];
        let sum = sum - written.iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 32;
        stream.0[CHECKSUM..CHECKSUM + 8].copy_from_slice(&base_256(sum as i64, 8));
        stream
    };
    let old = |first: &[(u64, u64)]| {
        old_sparse(new(), 4000, 515, first, &[])
            .data(&[b'x'; 515])
            .end()
    };
    vec![
        (
            "wrong checksum",
            new().file(b"e", b"x").raw(&[b'x'; 512]).end(),
        ),
        ("record twice", x(&[("path", b"a"), ("path", b"b")])),
        (
            "record malformed",
            new()
                .member(&fields(b"x", b'x'), b"8 path=a\n")
                .file(b"f", b"x")
                .end(),
        ),
        (
            "record of a wrong length",
            new()
                .member(&fields(b"x", b'x'), b"12 path=abc\n13 path=a\nb\n")
                .file(b"f", b"x")
                .end(),
        ),
        (
            "two pax headers",
            new()
                .records(b'x', &[("path", b"a")])
                .records(b'x', &[("path", b"b")])
                .file(b"f", b"x")
                .end(),
        ),
        (
            "pax and gnu names",
            new()
                .records(b'x', &[("path", b"a")])
                .long(b'L', b"b")
                .file(b"f", b"x")
                .end(),
        ),
        ("path of nothing", x(&[("path", b"")])),
        ("nul in a path", x(&[("path", b"a\0b")])),
        (
            "global path",
            new()
                .records(b'g', &[("path", b"a")])
                .file(b"f", b"x")
                .end(),
        ),
        ("unknown charset", x(&[("hdrcharset", b"KOI8-R")])),
        ("id of no change", x(&[("uid", b"4294967295")])),
        (
            "negative size",
            new()
                .other(b"f", b'0', b"")
                .change(SIZE, &base_256(-512, 12))
                .end(),
        ),
        (
            "huge size",
            new()
                .other(b"f", b'0', b"")
                .change(SIZE, &base_256(i64::MAX, 12))
                .end(),
        ),
        (
            "pax size of a hard link",
            new()
                .file(b"f", b"x")
                .records(b'x', &[("size", b"512")])
                .other(b"h", b'1', b"f")
                .file(b"inner", b"")
                .end(),
        ),
        (
            "hard link with data",
            new()
                .file(b"f", b"x")
                .header(&Fields {
                    size: 1,
                    linkname: b"f",
                    ..fields(b"h", b'1')
                })
                .data(b"x")
                .end(),
        ),
        ("map unsorted", old(&[(512, 512), (0, 3)])),
        ("map overlapping", old(&[(0, 512), (511, 3)])),
        ("map beyond the size", old(&[(0, 512), (3998, 3)])),
        ("map of other data", old(&[(0, 512), (1024, 4)])),
        (
            "map without size",
            x(&[("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,1")]),
        ),
        (
            "map of an unknown version",
            x(&[
                ("GNU.sparse.major", b"2"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"1"),
            ]),
        ),
        (
            "unknown type of a directory",
            new().other(b"d/", b'Q', b"").end(),
        ),
        ("checksum in base 256", sum_in_base_256),
        (
            "global size of a sparse file",
            new()
                .records(b'g', &[("GNU.sparse.size", b"4000")])
                .file(b"f", b"x")
                .end(),
        ),
        (
            "other volume",
            new().other(b"f", b'M', b"").change(MAGIC, GNU).end(),
        ),
        (
            "device of v7",
            new().other(b"f", b'3', b"").change(MAGIC, &[0; 8]).end(),
        ),
        ("link to nothing", new().other(b"l", b'2', b"").end()),
        ("name of nothing", new().other(b"", b'0', b"").end()),
        (
            "directory with data",
            new().member(&fields(b"d/", b'0'), b"x").end(),
        ),
        (
            "nothing after a pax header",
            new().records(b'x', &[("path", b"a")]).end(),
        ),
        ("nothing after a long name", new().long(b'L', b"a").end()),
        ("cut in a header", new().file(b"f", b"x").raw(&[b'x'; 100])),
        (
            "cut in data",
            new()
                .header(&Fields {
                    size: 1000,
                    ..fields(b"f", b'0')
                })
                .raw(&[b'x'; 700]),
        ),
        (
            "lone zero block",
            new().file(b"f", b"x").raw(&[0; 512]).file(b"g", b"x").end(),
        ),
        (
            "data after the end",
            new().file(b"f", b"x").end().file(b"g", b"x"),
        ),
    ]
}
