//! What a hostile or broken archive gets: each case as an ordinary user in the namespace and as
//! root, beside a canary tree that must not change.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use isar_tarball::internals::archive::header::Fields;

use crate::crafted::Tar;
use crate::rootfs::{assert_equal, nothing, root_snapshot};
use crate::world::{Scratch, isar, isar_as_user, names, run, text};

/// What must come of an archive.
pub enum Expect {
    /// Refused with these words, and nothing left.
    Refused(&'static str),
    /// Unpacked to these files (with content) and links (with target).
    Unpacked(&'static [(&'static str, &'static str)]),
}
use Expect::{Refused, Unpacked};

/// A file in the canary's directory, reached from DIR or by its absolute path.
const CANARY: &str = "canary-of-isar-tarball";

fn fields<'a>(name: &'a str, typeflag: u8) -> Fields<'a> {
    Fields {
        name: name.as_bytes(),
        mode: 0o644,
        mtime: 1,
        typeflag,
        ..Fields::default()
    }
}

/// Name of the case, archive, result. `outside` is the absolute path of the canary's directory.
pub fn cases(outside: &str) -> Vec<(&'static str, Tar, Expect)> {
    let tar = Tar::new;
    let long = "n".repeat(5000);
    let at_outside = format!("{outside}/file");
    let records = "v".repeat(70_000);
    let odd_record = |data: &[u8]| {
        Tar::new()
            .member(fields("./PaxHeaders/x", b'x'), data)
            .file("./x", "x")
            .end()
    };
    vec![
        (
            ".. in a name",
            tar().file("../canary/new", "x").end(),
            Refused("../canary/new: the name has `..` in it"),
        ),
        (
            ".. inside a name",
            tar().file("./a/../../canary/file", "x").end(),
            Refused("has `..` in it"),
        ),
        (
            ".. in a hard link's target",
            tar().hard_link("./x", "../canary/file").end(),
            Refused("has `..` in it"),
        ),
        (
            ".. of a directory",
            tar().directory("./a/..", 0o777).end(),
            Refused("has `..` in it"),
        ),
        (
            "absolute name",
            tar().file(&at_outside, "x").end(),
            Refused("--strip-leading-slash"),
        ),
        (
            "absolute target of a hard link",
            tar().hard_link("./x", &at_outside).end(),
            Refused("the name is absolute"),
        ),
        (
            "symlink, then a member written through it",
            tar()
                .symlink("./link", outside)
                .file("./link/new", "x")
                .end(),
            Refused("./link/new: link is a symbolic link, which is not followed"),
        ),
        (
            "relative symlink, then a directory made through it",
            tar()
                .symlink("./link", "../canary")
                .directory("./link/new/", 0o755)
                .end(),
            Refused("link is a symbolic link"),
        ),
        (
            "symlink inside the tree, then a member written through it",
            tar()
                .directory("./d/", 0o755)
                .symlink("./link", "d")
                .file("./link/new", "x")
                .end(),
            Refused("link is a symbolic link"),
        ),
        (
            "regular file where a symlink stands",
            tar()
                .symlink("./link", &at_outside)
                .file("./link", "new")
                .end(),
            Unpacked(&[("link", "new")]),
        ),
        (
            "a pipe where a symlink stands",
            tar()
                .symlink("./link", &at_outside)
                .fifo("./link")
                .file("./link", "new")
                .end(),
            Unpacked(&[("link", "new")]),
        ),
        (
            "directory member where a symlink stands",
            tar()
                .symlink("./link", outside)
                .directory("./link/", 0o777)
                .end(),
            Refused("link is a symbolic link"),
        ),
        (
            "hard link to nothing",
            tar().hard_link("./x", "./nothing").end(),
            Refused("has not been unpacked"),
        ),
        (
            "hard link before its target",
            tar().hard_link("./x", "./y").file("./y", "").end(),
            Refused("has not been unpacked"),
        ),
        (
            "hard link through a symlink",
            tar()
                .symlink("./link", outside)
                .hard_link("./x", "./link/file")
                .end(),
            Refused("has not been unpacked"),
        ),
        (
            "hard link to a file whose directory became a symlink",
            tar()
                .file("./d/file", "x")
                .directory("./e/", 0o755)
                .symlink("./d", outside)
                .end(),
            Refused("a directory that is not empty is in its place"),
        ),
        (
            "hard link to a symlink, then a file over it",
            tar()
                .symlink("./link", &at_outside)
                .hard_link("./x", "./link")
                .file("./x", "new")
                .end(),
            Unpacked(&[("x", "new")]),
        ),
        (
            "hard link to a directory",
            tar().directory("./d/", 0o755).hard_link("./x", "./d").end(),
            Refused("has not been unpacked"),
        ),
        (
            "a file, then a member below it",
            tar().file("./x", "x").file("./x/y", "y").end(),
            Refused("./x/y: x is not a directory"),
        ),
        (
            "root as a symlink",
            tar().symlink("./", outside).end(),
            Refused("it would replace the directory"),
        ),
        (
            "root as a file",
            tar().member(fields(".", b'0'), b"x").end(),
            Refused("it would replace the directory"),
        ),
        (
            "root as a hard link",
            tar().file("./x", "").hard_link(".", "./x").end(),
            Refused("it would replace the directory"),
        ),
        (
            "root as a pipe",
            tar().fifo("./").end(),
            Refused("it would replace the directory"),
        ),
        (
            "a directory in the place of a file, and the other way round",
            tar()
                .file("./x", "")
                .directory("./x/", 0o755)
                .file("./x/y", "y")
                .directory("./z/", 0o755)
                .file("./z", "z")
                .end(),
            Unpacked(&[("x/y", "y"), ("z", "z")]),
        ),
        (
            "PAX size and header size differ",
            tar()
                .pax(&[("size", b"3")])
                .header(fields("./x", b'0'))
                .raw(b"abc")
                .raw(&[0; 509])
                .file("./y", "y")
                .end(),
            Unpacked(&[("x", "abc"), ("y", "y")]),
        ),
        (
            "x before L",
            tar()
                .pax(&[("path", b"./p")])
                .member(fields("././@LongLink", b'L'), b"./l\0")
                .file("./x", "x")
                .end(),
            Refused("extension header"),
        ),
        (
            "a PAX key twice",
            tar()
                .pax(&[("path", b"./a"), ("path", b"./b")])
                .file("./x", "x")
                .end(),
            Refused("twice"),
        ),
        (
            "malformed PAX record",
            odd_record(b"99 path=x\n"),
            Refused("malformed"),
        ),
        (
            "PAX record without a length",
            odd_record(b"path=x\n"),
            Refused("malformed"),
        ),
        (
            "NUL in a name",
            tar().pax(&[("path", b"./a\0b")]).file("./x", "x").end(),
            Refused("NUL"),
        ),
        (
            "empty PAX path",
            tar().pax(&[("path", b"")]).file("./x", "x").end(),
            Refused("empty"),
        ),
        (
            "empty PAX linkpath",
            tar().pax(&[("linkpath", b"")]).symlink("./x", "y").end(),
            Refused("empty"),
        ),
        (
            "negative size",
            tar().file("./x", "").change_last(124, &[0xff; 12]).end(),
            Refused("size"),
        ),
        (
            "overflowing size",
            tar()
                .file("./x", "")
                .change_last(124, &[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
                .end(),
            Refused("size"),
        ),
        (
            "absurd uid",
            tar().pax(&[("uid", b"99999999999")]).file("./x", "x").end(),
            Refused("uid"),
        ),
        (
            "negative uid",
            tar().pax(&[("uid", b"-1")]).file("./x", "x").end(),
            Refused("uid"),
        ),
        (
            "overlapping sparse map",
            tar()
                .pax(&[
                    ("GNU.sparse.size", b"2000"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.map", b"0,512,256,512"),
                ])
                .file("./x", &"d".repeat(1024))
                .end(),
            Refused("its sparse map has an extent"),
        ),
        (
            "sparse map beyond the size",
            tar()
                .pax(&[
                    ("GNU.sparse.size", b"100"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.map", b"0,512"),
                ])
                .file("./x", &"d".repeat(512))
                .end(),
            Refused("its sparse map has an extent"),
        ),
        (
            "path too long",
            tar()
                .pax(&[("path", long.as_bytes())])
                .file("./x", "x")
                .end(),
            Refused("4096"),
        ),
        (
            "xattr too long",
            tar()
                .pax(&[("SCHILY.xattr.user.x", records.as_bytes())])
                .file("./x", "x")
                .end(),
            Refused("65536"),
        ),
        (
            "dangling x",
            tar().pax(&[("path", b"./a")]).end(),
            Refused("without the member"),
        ),
        (
            "cut off in data",
            Tar(tar().file("./x", &"x".repeat(5000)).0[..3000].to_vec()),
            Refused("cut off"),
        ),
        (
            "no end-of-archive blocks",
            tar().file("./x", "x"),
            Unpacked(&[("x", "x")]),
        ),
        (
            "data after the end",
            tar().file("./x", "x").end().file("./y", "y"),
            Refused("after the end"),
        ),
        (
            "zeros after the end",
            tar().file("./x", "x").end().raw(&[0; 8192]),
            Unpacked(&[("x", "x")]),
        ),
        (
            "a lone zero block",
            tar().file("./x", "x").raw(&[0; 512]).file("./y", "y").end(),
            Refused("zero block"),
        ),
        (
            "the same member twice",
            tar().file("./x", "1").file("x", "2").end(),
            Unpacked(&[("x", "2")]),
        ),
        (
            "control characters in a refused name",
            tar().file("../\u{1b}[2Jx", "x").end(),
            Refused("../\\u{1b}[2Jx: the name has `..`"),
        ),
        (
            "an ACL that is none",
            tar()
                .pax(&[("SCHILY.acl.access", b"user::rwx,nobody")])
                .file("./x", "x")
                .end(),
            Refused("./x: its access ACL"),
        ),
        (
            "a capability of a foreign root id",
            tar()
                .pax(&[(
                    "SCHILY.xattr.security.capability",
                    &capability(3, Some(100_000)),
                )])
                .file("./x", "x")
                .end(),
            Refused("./x: its capability belongs to the root id 100000"),
        ),
        (
            "a capability in no known form",
            tar()
                .pax(&[("SCHILY.xattr.security.capability", b"\x01\x00\x00\x09abcd")])
                .file("./x", "x")
                .end(),
            Refused("./x: its capability has a form that is not known"),
        ),
        ("no tar at all", Tar(vec![b'x'; 4096]), Refused("")),
        (
            "nested too deep",
            tar()
                .pax(&[("path", "a/".repeat(1500).as_bytes())])
                .directory("./x/", 0o755)
                .end(),
            Refused("more than 1024 components"),
        ),
    ]
}

fn capability(version: u8, root: Option<u32>) -> Vec<u8> {
    let mut value = vec![
        1, 0, 0, version, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    value.extend(root.into_iter().flat_map(u32::to_le_bytes));
    value
}

/// A tree that anybody could change.
fn canary(scratch: &Scratch) -> PathBuf {
    let canary = scratch.user_dir("canary", 0o777);
    fs::write(canary.join("file"), CANARY).unwrap();
    fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(canary.join("directory")).unwrap();
    symlink("file", canary.join("link")).unwrap();
    canary
}

fn command(as_root: bool, args: &[&OsStr]) -> Command {
    let args = ["unpack"]
        .iter()
        .copied()
        .map(OsStr::new)
        .chain(args.iter().copied());
    if as_root {
        isar(args)
    } else {
        isar_as_user(args)
    }
}

fn every_case(as_root: bool) {
    let scratch = Scratch::new();
    let canary = canary(&scratch);
    let before = root_snapshot(&canary);
    for (name, tar, expect) in cases(canary.to_str().unwrap()) {
        let (archive, dir) = (tar.write(&scratch, "a.tar"), scratch.join("dir"));
        let output = run(&mut command(
            as_root,
            &[archive.as_os_str(), dir.as_os_str()],
        ));
        let said = text(&output.stderr);
        match expect {
            Refused(words) => {
                assert_eq!(output.status.code(), Some(2), "{name}");
                assert!(said.contains(words), "{name}: {said}");
                assert!(!said.contains('\u{1b}'), "{name}: {said}");
                assert_eq!(
                    scratch.names(),
                    ["a.tar", "canary"],
                    "{name}: something is left"
                );
            }
            Unpacked(files) => {
                assert_eq!(output.status.code(), Some(0), "{name}: {said}");
                let found = root_snapshot(&dir);
                for (path, content) in files {
                    assert_eq!(found[*path]["kind"], "file", "{name}: {path}");
                    assert_eq!(
                        fs::read_to_string(dir.join(path)).unwrap(),
                        *content,
                        "{name}: {path}"
                    );
                }
                fs::remove_dir_all(&dir).unwrap();
            }
        }
        assert_equal(&before, &root_snapshot(&canary), nothing);
    }
}

#[test]
fn hostile_archives_are_refused_in_the_namespace() {
    every_case(false);
}

#[test]
fn hostile_archives_are_refused_as_root() {
    every_case(true);
}

#[test]
fn no_archive_leaves_the_directory_where_links_are_followed() {
    let scratch = Scratch::new();
    let canary = canary(&scratch);
    let before = root_snapshot(&canary);
    let option = OsStr::new("--keep-directory-symlink");
    for (name, tar, expect) in cases(canary.to_str().unwrap()) {
        let (archive, dir) = (tar.write(&scratch, "a.tar"), scratch.join("dir"));
        let args = [option, archive.as_os_str(), dir.as_os_str()];
        let status = run(&mut command(false, &args)).status.code();
        let is_expected = match expect {
            Unpacked(_) => status == Some(0),
            Refused(_) => status == Some(2) || name.starts_with("symlink inside the tree"),
        };
        assert!(is_expected, "{name}: {status:?}");
        assert_equal(&before, &root_snapshot(&canary), nothing);
        let _ = Command::new("rm").arg("-rf").arg(&dir).status();
        assert_eq!(scratch.names(), ["a.tar", "canary"], "{name}");
    }
}

#[test]
fn owners_that_the_namespace_does_not_map_are_named() {
    let scratch = Scratch::new();
    for (index, (records, words)) in [
        (
            &[("uid", &b"70000"[..])][..],
            "./x: its owner 70000 is not mapped",
        ),
        (&[("gid", b"70000")], "./x: its group 70000 is not mapped"),
        (
            &[(
                "SCHILY.acl.access",
                b"user::rw-,user:70000:r--,group::r--,mask::r--,other::---",
            )],
            "./x: its ACL's user 70000 is not mapped",
        ),
        (
            &[(
                "SCHILY.acl.access",
                b"user::rw-,group::r--,group:70001:r--,mask::r--,other::---",
            )],
            "./x: its ACL's group 70001 is not mapped",
        ),
    ]
    .iter()
    .enumerate()
    {
        let archive = Tar::new()
            .pax(records)
            .file("./x", "x")
            .end()
            .write(&scratch, "a.tar");
        let dir = scratch.join(format!("dir{index}"));
        let output = run(&mut command(false, &[archive.as_os_str(), dir.as_os_str()]));
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output.stderr).contains(words),
            "{words}: {}",
            text(&output.stderr)
        );
        assert!(!dir.exists());
        assert!(
            run(&mut command(true, &[archive.as_os_str(), dir.as_os_str()]))
                .status
                .success(),
            "root has every id"
        );
    }
}

#[test]
fn attributes_beyond_the_policy_are_counted_and_not_set() {
    let scratch = Scratch::new();
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.security.capability", &capability(2, None)),
        ("SCHILY.xattr.user.kept", b"x"),
    ];
    let archive = Tar::new()
        .pax(records)
        .file("./x", "x")
        .end()
        .write(&scratch, "a.tar");
    for as_root in [false, true] {
        let dir = scratch.join(format!("dir-{as_root}"));
        let output = run(&mut command(
            as_root,
            &["--json".as_ref(), archive.as_os_str(), dir.as_os_str()],
        ));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["skipped"]["xattrs"], 2);
        let found = root_snapshot(&dir);
        let xattrs: Vec<&String> = found["x"]["xattrs"].as_object().unwrap().keys().collect();
        assert_eq!(xattrs, ["security.capability", "user.kept"]);
    }
}

#[test]
fn stripped_slashes_lead_below_the_directory() {
    let scratch = Scratch::new();
    let canary = canary(&scratch);
    let before = root_snapshot(&canary);
    let target = format!("{}/file", canary.display());
    let archive = Tar::new()
        .file(&target, "x")
        .hard_link("/link", &target)
        .end()
        .write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    let args = [
        "--strip-leading-slash".as_ref(),
        archive.as_os_str(),
        dir.as_os_str(),
    ];
    assert!(run(&mut command(true, &args)).status.success());
    assert_eq!(fs::read_to_string(dir.join("link")).unwrap(), "x");
    assert!(dir.join(target.trim_start_matches('/')).exists());
    assert_equal(&before, &root_snapshot(&canary), nothing);
}

#[test]
fn windows_wider_than_allowed_are_refused_unless_asked_for() {
    let scratch = Scratch::new();
    // Larger than a window of 128 MiB, of which zstd tells in the header; zeros, so that it is
    // quick.
    let plain = scratch.join("a.tar");
    let data = "0".repeat(1 << 20);
    Tar::new().file("./x", &data).end().write(&scratch, "a.tar");
    let compressed = scratch.join("a.tar.zst");
    let script = format!(
        "zstd -q -c --ultra -20 --long=29 < {} > {}",
        plain.display(),
        compressed.display()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let (narrow, wide) = (scratch.join("narrow"), scratch.join("wide"));
    let output = run(&mut command(
        false,
        &[compressed.as_os_str(), narrow.as_os_str()],
    ));
    assert_eq!(output.status.code(), Some(2));
    assert!(!narrow.exists());
    let args = [
        "--window-log=29".as_ref(),
        compressed.as_os_str(),
        wide.as_os_str(),
    ];
    assert!(run(&mut command(false, &args)).status.success());
}

/// Another process swaps directories for links while they are unpacked into.
#[test]
fn a_race_for_directories_leads_nowhere() {
    let scratch = Scratch::new();
    let canary = canary(&scratch);
    let before = root_snapshot(&canary);
    let mut tar = Tar::new();
    // Each is come back to, so that it may be a link by then.
    for round in 0..4 {
        for index in 0..40 {
            tar = tar
                .directory(&format!("./d{index}/"), 0o777)
                .file(&format!("./d{index}/file{round}"), "x");
            tar = tar
                .file(&format!("./d{index}/below/file"), "x")
                .symlink(&format!("./d{index}/link{round}"), "x");
            tar = tar.hard_link(
                &format!("./d{index}/hard{round}"),
                &format!("./d{index}/file0"),
            );
        }
    }
    let archive = tar.end().write(&scratch, "a.tar");
    for (as_root, option, target) in [
        (false, "--threads=2", canary.as_path()),
        (true, "--threads=2", canary.as_path()),
        (false, "--keep-directory-symlink", Path::new("../canary")),
    ] {
        let dir = scratch.join("dir");
        let stop = AtomicBool::new(false);
        let (mut swaps, mut refused, mut rounds) = (0, 0, 0);
        thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                let mut swaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    for index in 0..40 {
                        let (place, aside) = (
                            dir.join(format!("d{index}")),
                            dir.join(format!("aside{index}")),
                        );
                        if fs::rename(&place, &aside).is_ok() && symlink(target, &place).is_ok() {
                            swaps += 1;
                            let _ = fs::remove_file(&place);
                            let _ = fs::rename(&aside, &place);
                        }
                    }
                }
                swaps
            });
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(1) {
                let args = [
                    "--replace".as_ref(),
                    option.as_ref(),
                    archive.as_os_str(),
                    dir.as_os_str(),
                ];
                let output = command(as_root, &args).output().unwrap();
                assert!(matches!(output.status.code(), Some(0 | 2)), "{output:?}");
                refused += i32::from(!output.status.success());
                rounds += 1;
            }
            stop.store(true, Ordering::Relaxed);
            swaps = swapping.join().unwrap();
        });
        eprintln!("{rounds} rounds, {refused} refused, {swaps} swaps");
        assert!(swaps > 0, "nothing was swapped: this shows nothing");
        assert_equal(&before, &root_snapshot(&canary), nothing);
        let _ = Command::new("rm").arg("-rf").arg(&dir).status();
    }
    assert!(names(&canary).contains(&String::from("file")));
}
