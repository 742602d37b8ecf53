//! Bytes as members: few names, so that one member meets another.

use isar_tarball::internals::archive::header::Fields;

use super::archives::Stream;

/// Below DIR, in its place, and where they must not lead; `@` stands for the directory above.
const NAMES: &[&str] = &[
    "./",
    "a",
    "./a/",
    "b",
    "a/b",
    "./a/b/",
    "a/b/c",
    "f",
    "f/",
    "f/x",
    "l",
    "l/",
    "l/file",
    "l/dir/x",
    "a/l",
    "a/l/x",
    "b/a",
    "b/l/f",
    "a//b/./c",
    "d/e/f/g",
    "../canary/file",
    "../canary/new",
    "../new",
    "a/../../canary/file",
    "@/canary/file",
    "@/canary/new",
    "..",
    "a/..",
    ".",
    "/",
    "long",
];

/// Where links lead.
const TARGETS: &[&str] = &[
    "a",
    "f",
    "a/b",
    "a/b/c",
    "b",
    ".",
    "..",
    "../canary",
    "../canary/file",
    "../canary/dir",
    "../../canary/file",
    "@/canary",
    "@/canary/file",
    "l",
    "l/file",
    "a/l",
    "/",
    "../tree/a",
    "long",
];

/// Values of extended attributes and ACLs, by their keys.
const RECORDS: &[(&str, &[u8])] = &[
    ("SCHILY.xattr.user.a", b"value\n\0"),
    ("SCHILY.xattr.trusted.a", b"value"),
    (
        "SCHILY.xattr.security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ),
    (
        "SCHILY.acl.access",
        b"user::rwx,user:7:r-x,group::r-x,mask::r-x,other::---",
    ),
    (
        "SCHILY.acl.default",
        b"user::rwx,user:7:r-x,group::r-x,mask::r-x,other::---",
    ),
    ("mtime", b"-1.25"),
    ("uid", b"65536"),
    ("GNU.sparse.size", b"100000"),
];

/// The tar stream of the members that `bytes` stand for, six bytes each: what it is and its name,
/// target, mode, owner, length or record. `place` is the directory above DIR.
pub fn stream(bytes: &[u8], place: &[u8]) -> Vec<u8> {
    let mut stream = Stream::default();
    for member in bytes.as_chunks::<6>().0 {
        stream = add(stream, member, place);
    }
    stream.end().0
}

fn add(stream: Stream, &[kind, name, target, mode, owner, more]: &[u8; 6], place: &[u8]) -> Stream {
    let name = text(NAMES, name, place);
    let target = text(TARGETS, target, place);
    let typeflag = b"0001225567"[usize::from(kind) % 10];
    let mut records: Vec<(&str, &[u8])> = Vec::new();
    if kind >= 128 {
        records.extend(RECORDS.get(usize::from(more) % RECORDS.len()));
    }
    let is_sparse = records
        .first()
        .is_some_and(|(key, _)| key.starts_with("GNU.sparse"));
    if is_sparse && typeflag != b'0' {
        records.clear();
    } else if is_sparse {
        records.extend([
            ("GNU.sparse.numblocks", &b"2"[..]),
            ("GNU.sparse.map", b"5000,3,100000,0"),
        ]);
    }
    let is_long = name.len() > 100 || target.len() > 100;
    if is_long {
        records.extend([("path", name.as_slice()), ("linkpath", target.as_slice())]);
    }
    let stream = if records.is_empty() {
        stream
    } else {
        stream.records(b'x', &records)
    };
    let fields = Fields {
        name: &name[..name.len().min(100)],
        linkname: if matches!(typeflag, b'1' | b'2') {
            &target[..target.len().min(100)]
        } else {
            b""
        },
        mode: u32::from(mode) * 16 + u32::from(mode % 8),
        uid: u32::from(owner % 4) * 1000,
        gid: u32::from(owner / 4 % 4) * 1000,
        mtime: u64::from(more),
        typeflag,
        ..Fields::default()
    };
    match typeflag {
        b'0' | b'7' if name.ends_with(b"/") => stream.header(&fields),
        b'0' | b'7' if is_sparse => stream.member(&fields, b"abc"),
        b'0' | b'7' => stream.member(&fields, &vec![more; usize::from(more) * 5]),
        _ => stream.header(&fields),
    }
}

fn text(choices: &[&str], choice: u8, place: &[u8]) -> Vec<u8> {
    match choices[usize::from(choice) % choices.len()] {
        "long" => ["n".repeat(200), "m".repeat(200)].join("/").into_bytes(),
        text => match text.strip_prefix('@') {
            Some(rest) => [place, rest.as_bytes()].concat(),
            None => text.as_bytes().to_vec(),
        },
    }
}
