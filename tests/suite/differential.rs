//! The archives that the fuzz targets begin with, read by `archive::reader` and by Python's
//! tarfile: up to where ours refuses, both find the same members.
//!
//! Where they do not, [`DIFFERENCES`] says why. (`tests/fuzz/fuzz_targets/differential.rs` has such
//! a list for the `tar` crate, against any bytes.)

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use isar_tarball::internals::archive::reader::{Event, Limits, Reader};
use isar_tarball::internals::entry::{Entry, Kind};
use sha2::{Digest, Sha256};

use crate::fuzz::archives;
use crate::world::{Scratch, require, succeed};

/// What tarfile reads otherwise than ours, and why ours does not.
const DIFFERENCES: &[(&str, &str)] = &[(
    "file named like a directory",
    "the slash at the end of its name makes it a directory, as in GNU tar and bsdtar; tarfile does so for the type of v7 alone",
)];

/// Prints the members of each archive in a directory, a line each, in the form of [`line`].
const PYTHON: &str = r#"
import hashlib, json, math, os, sys, tarfile

KINDS = {
    tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.CONTTYPE: "file", tarfile.GNUTYPE_SPARSE: "file", tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link", tarfile.FIFOTYPE: "named pipe", tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device", b"D": "directory", b"V": None,
}

def path(name):
    name = os.fsencode(name)
    while name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/") or name[:1]
    return (b"" if name == b"." else name).hex()

def line(archive, member):
    # It extracts a member of an unknown type as a file.
    kind = KINDS.get(member.type, "file")
    owner = f"{member.mode & 0o7777:o} {member.uid} {member.gid} {math.floor(member.mtime)}"
    more = ""
    if kind == "file":
        more = f"{member.size} {hashlib.sha256(archive.extractfile(member).read()).hexdigest()}"
    elif kind == "symbolic link":
        more = os.fsencode(member.linkname).hex()
    elif kind == "hard link":
        more = path(member.linkname)
    elif kind in ("character device", "block device"):
        more = f"{member.devmajor} {member.devminor}"
    return f"{path(member.name)} {kind} {owner} {more}"

def lines(place):
    found = []
    try:
        with tarfile.open(place, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                if KINDS.get(member.type, "file"):
                    found.append(line(archive, member))
    except Exception as error:
        found.append(f"error: {error!r}")
    return found

json.dump({name: lines(os.path.join(sys.argv[1], name)) for name in os.listdir(sys.argv[1])}, sys.stdout)
"#;

#[test]
fn tarfile_finds_the_same_members_or_the_list_says_why_not() {
    if require(&["python3"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    for (name, archive) in archives::all() {
        fs::write(scratch.join(name), &archive.0).unwrap();
    }
    let told = succeed(
        Command::new("/usr/bin/python3")
            .args(["-c", PYTHON])
            .arg(scratch.path()),
    );
    let theirs: BTreeMap<String, Vec<String>> = serde_json::from_str(&told).unwrap();
    let mut differing = Vec::new();
    for (name, archive) in archives::all() {
        let (ours, is_whole) = members(&archive.0);
        let theirs = &theirs[name];
        let agrees = if is_whole {
            ours == *theirs
        } else {
            theirs.starts_with(&ours)
        };
        if !agrees {
            eprintln!("{name}:\nours {ours:#?}\ntheirs {theirs:#?}");
            differing.push(name);
        }
    }
    let known: Vec<_> = DIFFERENCES.iter().map(|(name, _)| *name).collect();
    assert_eq!(differing, known);
}

/// Every archive of the lists `good` and `odd` is read to its end, and none of the list `bad`: else
/// they would not show what they are there for.
#[test]
fn archives_are_read_or_refused_as_their_lists_say() {
    for (is_good, list) in [
        (true, archives::good()),
        (true, archives::odd()),
        (false, archives::bad()),
    ] {
        for (name, archive) in list {
            assert_eq!(members(&archive.0).1, is_good, "{name}");
        }
    }
}

/// The members up to the end, or to where one is refused.
fn members(mut stream: &[u8]) -> (Vec<String>, bool) {
    let mut reader = Reader::new(Limits::default());
    let (mut lines, mut current) = (Vec::new(), None);
    loop {
        match reader.next(&mut stream) {
            Ok(Some(Event::Member(member))) => {
                let size = if let Kind::File { size, .. } = member.entry.kind {
                    size.min(1 << 20)
                } else {
                    0
                };
                current = Some((member.entry, vec![0; size as usize]));
            }
            Ok(Some(Event::Data(offset, data))) => {
                let (_, content) = current.as_mut().unwrap();
                if let Some(place) = content.get_mut(offset as usize..offset as usize + data.len())
                {
                    place.copy_from_slice(data);
                }
            }
            Ok(Some(Event::MemberEnd)) => lines.extend(
                current
                    .take()
                    .map(|(entry, content)| line(&entry, &content)),
            ),
            Ok(None) => return (lines, reader.finish().is_ok()),
            Err(_) => return (lines, false),
        }
    }
}

/// Path (hexadecimal), kind, mode, owner, group, seconds, and what the kind has: size and SHA-256,
/// target, numbers.
fn line(entry: &Entry, content: &[u8]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let more = match &entry.kind {
        Kind::File { size, .. } => format!("{size} {}", hex(&Sha256::digest(content))),
        Kind::Symlink { target } | Kind::HardLink { target } => hex(target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            format!("{major} {minor}")
        }
        Kind::Directory | Kind::Fifo => String::new(),
    };
    let Entry {
        path,
        kind,
        mode,
        uid,
        gid,
        mtime,
        ..
    } = entry;
    format!(
        "{} {} {mode:o} {uid} {gid} {} {more}",
        hex(path),
        kind.name(),
        mtime.seconds
    )
}
