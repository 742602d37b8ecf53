//! Archives that other programs make of one tree, read by `archive::reader` and compared with the
//! tree itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use isar_tarball::internals::acl;
use isar_tarball::internals::archive::reader::{Event, Limits, Reader};
use isar_tarball::internals::entry::{Entry, Kind};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};

use crate::world::{Scratch, require, succeed};

/// How much a format can hold.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Extent {
    /// Short names, files, directories, links.
    V7,
    /// Names of 256 bytes, pipes, devices.
    Ustar,
    /// Long names and targets, large ids.
    Long,
    /// Times before 1970, which bsdtar's GNU format has not.
    Gnu,
    /// Nanoseconds.
    Pax,
    /// Extended attributes and ACLs.
    Attributes,
}

/// A file as it was put in, or as it was read.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    target: Option<Vec<u8>>,
    device: (u32, u32),
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    access_acl: Option<Vec<u8>>,
    default_acl: Option<Vec<u8>>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// Makes the tree that is packed: as much as `extent` can hold.
pub fn plant(root: &Path, extent: Extent) {
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), b"content\n").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("dir/second name")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("block"), [7; 512]).unwrap();
    symlink("../dir/file", root.join("link")).unwrap();
    // The first needs no, the second one and the third two continuation blocks in the old GNU
    // format; all end in a hole.
    for (name, extents) in [("sparse 3", 3u64), ("sparse 20", 20), ("sparse 40", 40)] {
        let file = File::create(root.join(name)).unwrap();
        for place in 0..extents {
            file.write_all_at(&[place as u8 + 1; 4096], 4096 + place * 65536)
                .unwrap();
        }
        file.set_len(extents * 65536 + 100_000).unwrap();
    }
    File::create(root.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    if extent >= Extent::Ustar {
        fs::create_dir(root.join("d".repeat(99))).unwrap();
        fs::write(root.join("d".repeat(99)).join("e".repeat(99)), b"long").unwrap();
        mknodat(
            CWD,
            root.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        let null = mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(1, 3),
        );
        null.unwrap();
    }
    if extent >= Extent::Long {
        let deep = root.join("a".repeat(200)).join("b".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("c".repeat(200)), b"longer").unwrap();
        fs::hard_link(deep.join("c".repeat(200)), deep.join("f".repeat(200))).unwrap();
        symlink("t".repeat(300), root.join("long target")).unwrap();
        fs::copy(root.join("sparse 20"), root.join("s".repeat(150))).unwrap();
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"new\nline")), b"x").unwrap();
    }
    if extent >= Extent::Attributes {
        let file = root.join("dir/file");
        xattr::set(&file, "user.binary", b"a\n\0=\xff").unwrap();
        xattr::set(&file, "user.a=b%", b"odd name").unwrap();
        let acl = |text: &[u8]| acl::from_text(text).unwrap();
        xattr::set(
            &file,
            "system.posix_acl_access",
            &acl(b"u::rw-,u:1234:rwx,g::r--,m::rwx,o::r--"),
        )
        .unwrap();
        xattr::set(
            root.join("dir"),
            "system.posix_acl_default",
            &acl(b"u::rwx,g::r-x,g:77:rwx,m::rwx,o::---"),
        )
        .unwrap();
    }
    own(root, root, extent);
}

/// Gives all below `path` owners, modes and times of their own, the deepest first.
fn own(root: &Path, path: &Path, extent: Extent) {
    let meta = path.symlink_metadata().unwrap();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(root, &entry.unwrap().path(), extent);
        }
    }
    let name = path.strip_prefix(root).unwrap();
    let is_odd = name == Path::new("empty");
    let large = is_odd && extent >= Extent::Long;
    let old = is_odd && extent >= Extent::Gnu;
    lchown(path, Some(if large { 3_000_000 } else { 1001 }), Some(1002)).unwrap();
    if !meta.is_symlink() && extent < Extent::Attributes {
        let mode = if meta.is_dir() { 0o2750 } else { 0o4751 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let time = Timespec {
        tv_sec: if old {
            -1000
        } else {
            1_600_000_000 + name.as_os_str().len() as i64
        },
        // Before 1970 bsdtar writes a fraction that counts the wrong way.
        tv_nsec: if extent >= Extent::Pax && !old {
            500_000_000
        } else {
            0
        },
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The tree as the file system has it.
fn planted(root: &Path, extent: Extent) -> Tree {
    let files = walkdir::WalkDir::new(root).into_iter().map(|entry| {
        let entry = entry.unwrap();
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let kind = meta.file_type();
        let attribute = |name: &str| {
            if kind.is_symlink() {
                None
            } else {
                xattr::get(path, name).unwrap()
            }
        };
        let mut xattrs = Vec::new();
        if extent >= Extent::Attributes && !kind.is_symlink() {
            for name in xattr::list(path)
                .unwrap()
                .filter(|name| name.as_bytes().starts_with(b"user."))
            {
                xattrs.push((
                    name.clone().into_vec(),
                    xattr::get(path, &name).unwrap().unwrap(),
                ));
            }
        }
        xattrs.sort();
        let device = if kind.is_char_device() {
            meta.rdev()
        } else {
            0
        };
        let seen = Seen {
            kind: match () {
                () if kind.is_dir() => "directory",
                () if kind.is_symlink() => "symbolic link",
                () if kind.is_fifo() => "named pipe",
                () if kind.is_char_device() => "character device",
                () => "file",
            },
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            target: kind
                .is_symlink()
                .then(|| fs::read_link(path).unwrap().into_os_string().into_vec()),
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            content: if kind.is_file() {
                fs::read(path).unwrap()
            } else {
                Vec::new()
            },
            xattrs,
            access_acl: attribute("system.posix_acl_access"),
            default_acl: attribute("system.posix_acl_default"),
        };
        (
            path.strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec(),
            seen,
        )
    });
    files.collect()
}

/// The tree as the archive has it, and how many files had holes.
fn archived(archive: &[u8]) -> (Tree, usize) {
    let (mut tree, mut holes, mut path) = (Tree::new(), 0, Vec::new());
    let mut reader = Reader::new(Limits::default());
    // Pieces of this length cut headers, names and maps.
    for mut piece in archive.chunks(1000) {
        while let Some(event) = reader
            .next(&mut piece)
            .unwrap_or_else(|error| panic!("{error}"))
        {
            match event {
                Event::Member(member) => {
                    assert_eq!(member.other_records, Vec::<Vec<u8>>::new());
                    holes += usize::from(matches!(
                        member.entry.kind,
                        Kind::File {
                            extents: Some(_),
                            ..
                        }
                    ));
                    path.clone_from(&member.entry.path);
                    let seen = seen(member.entry, &tree);
                    assert!(
                        tree.insert(path.clone(), seen).is_none(),
                        "{} twice",
                        path.escape_ascii()
                    );
                }
                Event::Data(offset, data) => {
                    let content = &mut tree.get_mut(&path).unwrap().content;
                    content[offset as usize..][..data.len()].copy_from_slice(data);
                }
                Event::MemberEnd => {}
            }
        }
    }
    reader.finish().unwrap();
    (tree, holes)
}

fn seen(entry: Entry, tree: &Tree) -> Seen {
    let acl = |text: Option<Vec<u8>>| text.map(|text| acl::from_text(&text).unwrap());
    let mut seen = Seen {
        kind: entry.kind.name(),
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime: (entry.mtime.seconds, entry.mtime.nanoseconds.into()),
        target: None,
        device: (0, 0),
        content: Vec::new(),
        xattrs: entry.xattrs,
        access_acl: acl(entry.access_acl),
        default_acl: acl(entry.default_acl),
    };
    match entry.kind {
        Kind::File { size, .. } => seen.content = vec![0; size as usize],
        Kind::Symlink { target } => seen.target = Some(target),
        Kind::HardLink { target } => return tree[&target].clone(),
        Kind::CharDevice { major, minor } => seen.device = (major, minor),
        _ => {}
    }
    seen
}

/// Packs the tree with each command, which is a shell's: `$T` is the tree, `$A` the archive.
/// `sparse` says whether the files with holes are stored as such.
fn compare(extent: Extent, commands: &[(&str, bool)]) {
    let scratch = Scratch::new();
    let (root, archive) = (scratch.join("tree"), scratch.join("archive"));
    plant(&root, extent);
    let expected = planted(&root, extent);
    for (command, sparse) in commands {
        // The tree's own times of reading change; nothing else does.
        succeed(
            Command::new("sh")
                .args(["-ec", command])
                .env("T", &root)
                .env("A", &archive)
                .env("LC_ALL", "C.UTF-8"),
        );
        let (found, holes) = archived(&fs::read(&archive).unwrap());
        let names = |tree: &Tree| {
            tree.keys()
                .map(|path| path.escape_ascii().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&found), names(&expected), "{command}");
        for (path, seen) in &expected {
            let (mut ours, mut theirs) = (found[path].clone(), seen.clone());
            assert!(
                ours.content == theirs.content,
                "{command}: {}: content",
                path.escape_ascii()
            );
            if ours.access_acl.is_some() {
                // The mode shows the ACL's mask; bsdtar stores the owning group's permissions in
                // its place, which setting the ACL makes good.
                ours.mode &= !0o070;
                theirs.mode &= !0o070;
            }
            ours.content.clear();
            theirs.content.clear();
            assert_eq!(ours, theirs, "{command}: {}", path.escape_ascii());
        }
        assert_eq!(holes > 0, *sparse, "{command}: {holes} files with holes");
    }
}

const PYTHON: &str = r#"/usr/bin/python3 -c '
import os, sys, tarfile
with tarfile.open(os.environ["A"], "w", format=getattr(tarfile, sys.argv[1])) as archive:
    archive.add(os.environ["T"], arcname=".")
'"#;

#[test]
fn v7_archives_are_read() {
    if require(&["tar", "bsdtar"]).is_some() {
        compare(
            Extent::V7,
            &[
                ("tar --format=v7 -cf $A -C $T .", false),
                ("bsdtar --format=v7 -cf $A -C $T .", false),
            ],
        );
    }
}

#[test]
fn ustar_archives_are_read() {
    if require(&["tar", "bsdtar", "python3"]).is_some() {
        compare(
            Extent::Ustar,
            &[
                ("tar --format=ustar -cf $A -C $T .", false),
                ("bsdtar --format=ustar -cf $A -C $T .", false),
                (&format!("{PYTHON} USTAR_FORMAT"), false),
            ],
        );
    }
}

#[test]
fn gnu_archives_are_read() {
    if require(&["tar", "bsdtar", "python3"]).is_some() {
        compare(
            Extent::Gnu,
            &[
                ("tar --format=oldgnu -cf $A -C $T .", false),
                ("tar --format=oldgnu -Scf $A -C $T .", true),
                ("tar --format=gnu -Scf $A -C $T .", true),
                (
                    "rm -f $A.snar; tar --format=gnu -Scf $A -g $A.snar -V label -C $T .",
                    true,
                ),
                (&format!("{PYTHON} GNU_FORMAT"), false),
            ],
        );
        compare(
            Extent::Long,
            &[("bsdtar --format=gnutar -cf $A -C $T .", false)],
        );
    }
}

#[test]
fn pax_archives_are_read() {
    if require(&["tar", "bsdtar", "python3"]).is_some() {
        compare(
            Extent::Pax,
            &[
                ("tar --format=posix -cf $A -C $T .", false),
                (
                    "tar --format=posix --pax-option=globexthdr.name=g,comment=all,VENDOR.x=y -cf $A -C $T .",
                    false,
                ),
                ("bsdtar --format=pax -cf $A -C $T .", true),
                (&format!("{PYTHON} PAX_FORMAT"), false),
            ],
        );
    }
}

#[test]
fn all_versions_of_sparse_pax_archives_are_read_with_attributes() {
    if require(&["tar", "bsdtar"]).is_some() {
        let gnu = |version: &str| {
            format!(
                "tar --sparse-version={version} --xattrs --xattrs-include='*' --acls -Scf $A -C $T ."
            )
        };
        compare(
            Extent::Attributes,
            &[
                (&gnu("0.0"), true),
                (&gnu("0.1"), true),
                (&gnu("1.0"), true),
                ("bsdtar --format=pax --xattrs --acls -cf $A -C $T .", true),
            ],
        );
    }
}
