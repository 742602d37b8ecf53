//! `isar-tarball unpack`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::crafted::{Tar, content};
use crate::rootfs::{Snapshot, assert_equal, nothing, packed, rich, root_snapshot, snapshot};
use crate::world::{
    Mounted, Scratch, as_user, fail, isar, isar_as_user, names, program, require, run, succeed,
    text, user,
};

pub type Run = fn(&[&OsStr]) -> Command;

/// Both ways to work: as an ordinary user in the namespace, and as root.
pub const SITUATIONS: [(&str, Run); 2] = [
    ("user", |args| isar_as_user(args)),
    ("root", |args| isar(args)),
];

pub fn os<'a>(args: &'a [&'a str], paths: &'a [&'a Path]) -> Vec<&'a OsStr> {
    args.iter()
        .map(OsStr::new)
        .chain(paths.iter().map(|path| path.as_os_str()))
        .collect()
}

pub fn unpack(archive: &Path, dir: &Path, args: &[&str]) -> Command {
    isar_as_user(
        ["unpack"]
            .iter()
            .copied()
            .map(OsStr::new)
            .chain(os(args, &[archive, dir])),
    )
}

/// Blocks of zeros may be holes or not, as the file system pleases.
pub fn but_extents(_: &str, attribute: &str, _: &Value, _: &Value) -> bool {
    attribute == "extents"
}

fn packed_rich(scratch: &Scratch) -> (Snapshot, PathBuf) {
    let tree = rich(scratch, "tree");
    let archive = scratch.join("tree.tar.zst");
    succeed(&mut isar_as_user(os(&["pack"], &[&tree, &archive])));
    (packed(snapshot(&tree)), archive)
}

#[test]
fn everything_of_a_tree_comes_back_at_any_number_of_threads() {
    let scratch = Scratch::new();
    let (expected, archive) = packed_rich(&scratch);
    for threads in ["1", "2", "8"] {
        let dir = scratch.join(format!("dir{threads}"));
        succeed(&mut unpack(&archive, &dir, &["--threads", threads]));
        assert_equal(&expected, &snapshot(&dir), nothing);
    }
}

#[test]
fn root_unpacks_the_same_tree() {
    let scratch = Scratch::new();
    let (expected, archive) = packed_rich(&scratch);
    let dir = scratch.join("dir");
    succeed(&mut isar(os(&["unpack"], &[&archive, &dir])));
    assert_equal(&expected, &root_snapshot(&dir), nothing);
}

#[test]
fn archives_of_every_compression_are_read_from_a_file_and_from_a_pipe() {
    let Some(()) = require(&["zstd", "gzip", "xz"]) else {
        return;
    };
    let scratch = Scratch::new();
    // More than one piece of what is decoded at a time, and nothing that a compressor leaves out.
    let noise: String = (0..400_000u64)
        .map(|number| format!("{:x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect();
    let plain = Tar::new()
        .directory("./", 0o755)
        .file("./a", &noise)
        .file("./b", "last")
        .end()
        .write(&scratch, "a.tar");
    let twice = |filter: &str| {
        format!(
            "head -c 1000000 | {filter}; tail -c +1000001 < {} | {filter}",
            plain.display()
        )
    };
    for (index, filter) in [
        "cat",
        "zstd -q -c",
        "zstd -q -c --long=27",
        "gzip -1",
        "xz -0",
        "xz -0 -T2 --block-size=1MiB",
        &twice("gzip -1"),
        &twice("xz -0"),
    ]
    .iter()
    .enumerate()
    {
        // No suffix says what it is.
        let archive = scratch.join(format!("archive{index}"));
        let compress = format!("({filter}) < {} > {}", plain.display(), archive.display());
        succeed(Command::new("bash").args(["-euo", "pipefail", "-c", &compress]));
        let (from_file, from_pipe) = (
            scratch.join(format!("file{index}")),
            scratch.join(format!("pipe{index}")),
        );
        succeed(&mut unpack(&archive, &from_file, &[]));
        let script = format!(
            "cat {} | {} unpack - {}",
            archive.display(),
            program().display(),
            from_pipe.display()
        );
        succeed(as_user("bash").args(["-o", "pipefail", "-c", &script]));
        for dir in [from_file, from_pipe] {
            assert!(
                content(&dir, "a") == noise && content(&dir, "b") == "last",
                "{filter}: {dir:?}"
            );
        }
    }
}

#[test]
fn a_private_home_is_no_obstacle_and_needs_no_acl() {
    let scratch = Scratch::new();
    let home = scratch.user_dir("home", 0o700);
    let archive = Tar::new()
        .file("./a", "x")
        .end()
        .write(&scratch, "home/a.tar");
    std::os::unix::fs::chown(&archive, Some(user().uid), Some(user().gid)).unwrap();
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o600)).unwrap();
    let dir = home.join("build/tmp/rootfs");
    succeed(&mut unpack(&archive, &dir, &[]));
    let (made, above) = (
        fs::metadata(&dir).unwrap(),
        fs::metadata(home.join("build/tmp")).unwrap(),
    );
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o7777),
        (user().base, user().base, 0o755)
    );
    assert_eq!((above.uid(), above.gid()), (user().uid, user().gid));
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let scratch = Scratch::new();
    let archive = Tar::new().file("./a", "new").end().write(&scratch, "a.tar");
    let dir = scratch.user_dir("dir", 0o755);
    fs::write(dir.join("mine"), "kept").unwrap();
    let before = root_snapshot(&dir);
    let said = fail(2, &mut unpack(&archive, &dir, &[]));
    assert!(
        said.contains("not empty") && said.contains("--replace") && said.contains("--merge"),
        "{said}"
    );
    assert_equal(&before, &root_snapshot(&dir), nothing);
}

#[test]
fn replace_removes_what_was_there() {
    let scratch = Scratch::new();
    let archive = Tar::new().file("./a", "new").end().write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    succeed(&mut unpack(
        &Tar::new()
            .file("./old/file", "old")
            .end()
            .write(&scratch, "old.tar"),
        &dir,
        &[],
    ));
    succeed(&mut unpack(&archive, &dir, &["--replace"]));
    assert_eq!(names(&dir), ["a"]);
}

#[test]
fn replace_does_not_remove_the_archive_with_the_directory_that_it_lies_in() {
    let scratch = Scratch::new();
    let dir = scratch.namespace_dir("dir");
    fs::create_dir(dir.join("below")).unwrap();
    let archive = several().write(&scratch, "a.tar");
    let (inside, link) = (dir.join("below/a.tar"), scratch.join("link.tar"));
    fs::copy(&archive, &inside).unwrap();
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    for archive in [&inside, &link] {
        let said = fail(2, &mut unpack(archive, &dir, &["--replace"]));
        assert!(
            said.contains("lies inside") && said.contains("move it out of there"),
            "{said}"
        );
        assert!(inside.exists());
    }
}

#[test]
fn the_summary_counts_what_was_unpacked() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    let all: Value = serde_json::from_str(&succeed(&mut unpack(
        &archive,
        &scratch.join("all"),
        &["--json"],
    )))
    .unwrap();
    let root: Value = serde_json::from_str(&succeed(&mut unpack(
        &archive,
        &scratch.join("root"),
        &["--json", "--exclude", "/usr", "--exclude", "/etc"],
    )))
    .unwrap();
    assert_eq!(
        (
            &root["members"]["total"],
            &root["members"]["files"],
            &root["data_bytes"]
        ),
        (&1.into(), &0.into(), &0.into())
    );
    let number = |value: &Value| value.as_u64().unwrap();
    let left_out = number(&root["skipped"]["not_wanted"]);
    assert_eq!(number(&all["members"]["total"]), left_out + 1);
    assert!(
        number(&all["data_bytes"]) > 0 && all["skipped"]["not_wanted"] == 0,
        "{all}"
    );
}

#[test]
fn a_wrong_digest_or_pattern_is_found_before_anything_is_replaced() {
    let scratch = Scratch::new();
    let archive = Tar::new().file("./a", "new").end().write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    succeed(&mut unpack(&archive, &dir, &[]));
    let wrong = "0".repeat(64);
    for args in [
        &["--replace", "--sha256", &wrong][..],
        &["--replace", "--exclude", "["],
        &["--replace", "--sha256", "1"],
    ] {
        fail(2, &mut unpack(&archive, &dir, args));
        assert_eq!(content(&dir, "a"), "new");
    }
}

/// A tree with files of its own, and an archive that replaces one of them and adds others.
fn merged(scratch: &Scratch, end: fn(Tar) -> Tar) -> (PathBuf, PathBuf) {
    let dir = scratch.join("dir");
    let old = Tar::new()
        .directory("./", 0o700)
        .file("./etc/old", "old")
        .file("./etc/both", "old")
        .end();
    succeed(&mut unpack(&old.write(scratch, "old.tar"), &dir, &[]));
    let new = Tar::new()
        .file("./etc/both", "new")
        .file("./etc/new", "new")
        .file("./opt/deep/new", "new")
        .symlink("./link", "etc");
    (dir, end(new).write(scratch, "new.tar"))
}

#[test]
fn merge_replaces_and_adds_files() {
    let scratch = Scratch::new();
    let (dir, archive) = merged(&scratch, Tar::end);
    succeed(&mut unpack(&archive, &dir, &["--merge"]));
    for (name, expected) in [
        ("etc/old", "old"),
        ("etc/both", "new"),
        ("etc/new", "new"),
        ("opt/deep/new", "new"),
    ] {
        assert_eq!(content(&dir, name), expected, "{name}");
    }
    assert_eq!(
        fs::metadata(&dir).unwrap().mode() & 0o7777,
        0o700,
        "no member describes it"
    );
}

#[test]
fn a_merge_that_fails_takes_only_its_own_files_away() {
    let scratch = Scratch::new();
    let (dir, archive) = merged(&scratch, |tar| tar.file("../outside", "x").end());
    fail(2, &mut unpack(&archive, &dir, &["--merge"]));
    assert_eq!(names(&dir), ["etc"]);
    assert_eq!(names(&dir.join("etc")), ["both", "old"]);
}

#[test]
fn a_merge_follows_no_link_that_it_finds() {
    let scratch = Scratch::new();
    let dir = scratch.namespace_dir("dir");
    let canary = scratch.user_dir("canary", 0o777);
    symlink(&canary, dir.join("etc")).unwrap();
    fs::write(canary.join("file"), "canary").unwrap();
    symlink(canary.join("file"), dir.join("file")).unwrap();
    let before = root_snapshot(&canary);
    let said = fail(
        2,
        &mut unpack(
            &Tar::new()
                .file("./etc/x", "x")
                .end()
                .write(&scratch, "a.tar"),
            &dir,
            &["--merge"],
        ),
    );
    assert!(said.contains("./etc/x: etc is a symbolic link"), "{said}");
    fail(
        2,
        &mut unpack(
            &Tar::new()
                .directory("./etc", 0o777)
                .end()
                .write(&scratch, "b.tar"),
            &dir,
            &["--merge"],
        ),
    );
    fail(
        2,
        &mut unpack(
            &Tar::new()
                .hard_link("./x", "./file")
                .end()
                .write(&scratch, "c.tar"),
            &dir,
            &["--merge"],
        ),
    );
    succeed(&mut unpack(
        &Tar::new()
            .file("./file", "new")
            .end()
            .write(&scratch, "d.tar"),
        &dir,
        &["--merge"],
    ));
    assert_eq!(content(&dir, "file"), "new");
    assert_equal(&before, &root_snapshot(&canary), nothing);
}

pub fn several() -> Tar {
    Tar::new()
        .directory("./", 0o755)
        .directory("./usr/", 0o755)
        .file("./usr/bin/ls", "ls")
        .file("./usr/bin/[", "[")
        .file("./usr/lib/libc.so", "libc")
        .file("./etc/passwd", "root")
        .end()
}

#[test]
fn members_are_named_by_bytes() {
    let scratch = Scratch::new();
    let name = OsStr::from_bytes(b"./\xff");
    let pax = |tar: Tar, path: &[u8]| tar.pax(&[("path", path)]).file("./x", "x");
    let archive = pax(pax(Tar::new(), b"./\xff"), b"./d/\xfe")
        .file("./a", "a")
        .end()
        .write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    for (member, found) in [(&b"./\xff"[..], &b"\xff"[..]), (b"*/\xfe", b"d/\xfe")] {
        let member = OsStr::from_bytes(member);
        let mut command = unpack(&archive, &dir, &["--replace"]);
        succeed(command.arg(member));
        assert!(dir.join(OsStr::from_bytes(found)).exists(), "{member:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "{member:?}");
        let mut list = isar_as_user([OsStr::new("list"), archive.as_os_str(), member]);
        assert_eq!(succeed(&mut list).lines().count(), 1, "{member:?}");
    }
    let missing = OsStr::from_bytes(b"no\xff");
    let said = fail(
        2,
        unpack(&archive, &dir, &["--replace"]).args([name, missing]),
    );
    assert!(said.contains("not found in the archive: no\\xff"), "{said}");
}

#[test]
fn members_of_unknown_type_are_files_and_global_attributes_are_counted() {
    let scratch = Scratch::new();
    let archive = Tar::new()
        .pax(&[("SCHILY.xattr.user.k", b"v")])
        .file("./x", "x")
        .end();
    let global = {
        let mut tar = archive.clone();
        tar.0[156] = b'g';
        Tar(tar.0[..512].to_vec())
            .change_last(156, b"g")
            .raw(&tar.0[512..])
    };
    let archive = Tar::new()
        .header(isar_tarball::internals::archive::header::Fields {
            name: b"./z",
            mode: 0o644,
            size: 3,
            typeflag: b'Z',
            ..Default::default()
        })
        .raw(b"abc")
        .raw(&[0; 509])
        .raw(&global.0)
        .write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    let output = run(&mut unpack(&archive, &dir, &["--json"]));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["unknown_types"], &said["skipped"]["xattrs"]),
        (&1.into(), &1.into())
    );
    assert!(text(&output.stderr).contains("unknown type, unpacked as regular files: 1"));
    assert_eq!(
        (content(&dir, "z"), content(&dir, "x")),
        ("abc".into(), "x".into())
    );
}

#[test]
fn an_empty_archive_is_an_error_compressed_or_not() {
    if require(&["zstd", "gzip", "xz"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    fs::write(scratch.join("a.tar"), "").unwrap();
    for program in ["true", "zstd", "gzip", "xz"] {
        let script = format!("case {program} in true) cat;; *) {program};; esac <a.tar >a");
        succeed(
            Command::new("sh")
                .args(["-ec", &script])
                .current_dir(scratch.path()),
        );
        for command in [
            ["unpack", "a", "dir"],
            ["list", "a", "."],
            ["diff", "a", "a"],
        ] {
            let said = fail(2, isar_as_user(command).current_dir(scratch.path()));
            assert!(
                said.contains("empty (0 bytes)"),
                "{program} {command:?}: {said}"
            );
        }
        assert!(!scratch.join("dir").exists());
    }
}

#[test]
fn members_excludes_and_components_choose_what_is_unpacked() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    for (index, (options, members, expected)) in [
        (&[][..], &["usr/bin"][..], &["usr/bin/[", "usr/bin/ls"][..]),
        (&[], &["./usr/bin/["], &["usr/bin/["]),
        (
            &[],
            &["usr/**/l*", "/etc"],
            &["etc/passwd", "usr/bin/ls", "usr/lib/libc.so"],
        ),
        (
            &["--exclude", "usr/bin", "--exclude", "**/passwd"],
            &[],
            &["usr/lib/libc.so"],
        ),
        (
            &["--strip-components", "1"],
            &[],
            &["bin/[", "bin/ls", "lib/libc.so", "passwd"],
        ),
        (&["--strip-components=2"], &["ls"], &["ls"]),
    ]
    .iter()
    .enumerate()
    {
        let dir = scratch.join(format!("dir{index}"));
        succeed(unpack(&archive, &dir, options).args(*members));
        let found = snapshot(&dir);
        let files = found
            .iter()
            .filter(|(_, file)| file["kind"] == "file")
            .map(|(path, _)| path.as_str());
        assert_eq!(
            files.collect::<Vec<_>>(),
            *expected,
            "{options:?} {members:?}"
        );
    }
}

#[test]
fn a_member_that_is_not_there_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    let said = fail(
        2,
        unpack(&archive, &scratch.join("dir"), &[]).args(["usr", "usr/bin/nothing"]),
    );
    assert!(
        said.contains("not found in the archive: usr/bin/nothing"),
        "{said}"
    );
    assert!(!scratch.join("dir").exists());
}

#[test]
fn another_digest_is_refused_from_a_file_and_from_a_pipe() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    let right = succeed(Command::new("sha256sum").arg(&archive))
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    for (digest, status) in [(right.clone(), 0), (right.replace(|_: char| true, "0"), 2)] {
        for pipe in [false, true] {
            let dir = scratch.join(format!("dir-{status}-{pipe}"));
            let mut command = unpack(
                if pipe { Path::new("-") } else { &archive },
                &dir,
                &["--sha256", &digest],
            );
            if pipe {
                let mut cat = Command::new("cat")
                    .arg(&archive)
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                command.stdin(cat.stdout.take().unwrap());
                assert_eq!(run(&mut command).status.code(), Some(status));
                cat.wait().unwrap();
            } else {
                assert_eq!(run(&mut command).status.code(), Some(status));
            }
            assert_eq!(dir.exists(), status == 0, "{digest} from a pipe: {pipe}");
        }
    }
}

#[test]
fn limits_refuse_what_is_larger() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    let size = fs::metadata(&archive).unwrap().len().to_string();
    for (args, status) in [
        (["--limit-members", "6"], 0),
        (["--limit-members", "5"], 2),
        (["--limit-size", &size], 0),
        (["--limit-size", "4K"], 2),
    ] {
        let dir = scratch.join("dir");
        assert_eq!(
            run(&mut unpack(&archive, &dir, &args)).status.code(),
            Some(status),
            "{args:?}"
        );
        assert_eq!(dir.exists(), status == 0, "{args:?}");
        let _ = fs::remove_dir_all(dir);
    }
}

#[test]
fn devices_are_for_real_root() {
    let scratch = Scratch::new();
    let tar = Tar::new()
        .device("./dev/null")
        .hard_link("./dev/link", "./dev/null")
        .fifo("./fifo")
        .end();
    let archive = tar.write(&scratch, "a.tar");
    let (by_user, by_root, skipped) = (
        scratch.join("user"),
        scratch.join("root"),
        scratch.join("skipped"),
    );
    let summary: Value =
        serde_json::from_str(&succeed(&mut unpack(&archive, &by_user, &["--json"]))).unwrap();
    assert_eq!(
        (&summary["skipped"]["devices"], &summary["members"]["fifos"]),
        (&2.into(), &1.into())
    );
    assert_eq!(names(&by_user), ["fifo"]);
    succeed(&mut isar(os(&["unpack"], &[&archive, &by_root])));
    let found = root_snapshot(&by_root);
    assert_eq!(found["dev/null"]["device"], serde_json::json!([1, 3]));
    assert_eq!(
        (&found["dev/null"]["mode"], &found["dev/link"]["same as"]),
        (&"666".into(), &"dev/link".into())
    );
    succeed(&mut isar(os(
        &["unpack", "--devices", "skip"],
        &[&archive, &skipped],
    )));
    assert_eq!(names(&skipped), ["fifo"]);
    let said = fail(
        2,
        &mut unpack(&archive, &scratch.join("create"), &["--devices", "create"]),
    );
    assert!(
        said.contains("dev/null: create the device: Operation not permitted"),
        "{said}"
    );
}

#[test]
fn what_the_directory_above_would_pass_on_does_not_reach_the_tree() {
    let Some(()) = require(&["setfacl"]) else {
        return;
    };
    let scratch = Scratch::new();
    let above = scratch.user_dir("above", 0o2777);
    succeed(
        Command::new("setfacl")
            .args(["-d", "-m", "u:1234:rwx"])
            .arg(&above),
    );
    let archive = Tar::new()
        .directory("./a/", 0o750)
        .file("./a/f", "x")
        .file("./f", "x")
        .fifo("./p")
        .symlink("./l", "f");
    let archive = archive.end().write(&scratch, "a.tar");
    for (situation, command) in SITUATIONS {
        let (plain, odd) = (scratch.join(situation), above.join(situation));
        for dir in [&plain, &odd] {
            succeed(&mut command(&os(&["unpack"], &[&archive, dir])));
        }
        let but_new = |_: &str, attribute: &str, _: &Value, _: &Value| attribute == "mtime";
        assert_equal(&root_snapshot(&plain), &root_snapshot(&odd), but_new);
    }
}

#[test]
fn the_later_of_many_members_of_one_name_wins() {
    let scratch = Scratch::new();
    let large = "x".repeat(300_000);
    let mut tar = Tar::new();
    for round in 0..30 {
        for name in ["./a", "./d/b", "./d/c"] {
            tar = match round % 3 {
                0 => tar.file(name, &format!("{large}{round}")),
                1 => tar.symlink(name, "nowhere"),
                _ => tar.file(name, &format!("round {round}")),
            };
        }
        tar = tar.hard_link("./linked", "./a");
    }
    let archive = tar.end().write(&scratch, "a.tar");
    for threads in ["1", "8"] {
        let dir = scratch.join(threads);
        succeed(&mut unpack(&archive, &dir, &["--threads", threads]));
        for name in ["a", "d/b", "d/c", "linked"] {
            assert_eq!(content(&dir, name), "round 29", "{name}");
        }
        assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 2);
    }
}

#[test]
fn without_openat2_the_same_tree_is_unpacked() {
    let Some(()) = require(&["strace"]) else {
        return;
    };
    let scratch = Scratch::new();
    let canary = scratch.user_dir("canary", 0o777);
    let tar = several().0;
    // The archive comes back to directories that are closed by then, because no more may be open.
    let mut more = Tar::new();
    for round in 0..2 {
        for index in 0..40 {
            more = more.file(&format!("./deep/{index}/below/file{round}"), "x");
        }
    }
    let archive = Tar([more.0, tar].concat()).write(&scratch, "a.tar");
    let evil = Tar::new()
        .symlink("./link", canary.to_str().unwrap())
        .file("./link/x", "x")
        .end()
        .write(&scratch, "evil.tar");
    let limit = "ulimit -n 420 && exec \"$0\" \"$@\"";
    let strace = |inject: &str, archive: &Path, dir: &Path| {
        let mut command = Command::new("bash");
        command.args([
            "-c",
            limit,
            "strace",
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "trace=openat2",
            "-e",
            inject,
        ]);
        command.arg(program()).arg("unpack").arg(archive).arg(dir);
        command
    };
    let expected = scratch.join("expected");
    succeed(&mut strace("trace=openat2", &archive, &expected));
    for error in ["ENOSYS", "EPERM"] {
        let inject = format!("inject=openat2:error={error}");
        let dir = scratch.join(error);
        succeed(&mut strace(&inject, &archive, &dir));
        assert_equal(
            &root_snapshot(&expected),
            &root_snapshot(&dir),
            |path, attribute, _, _| {
                // Directories that no member describes have the time of the work.
                attribute == "mtime"
                    && (path == "."
                        || path.starts_with("deep")
                        || ["etc", "usr/bin", "usr/lib"].contains(&path))
            },
        );
        fail(2, &mut strace(&inject, &evil, &scratch.join("evil")));
        assert_eq!(names(&canary), [""; 0]);
    }
}

#[test]
fn setuid_files_are_named_where_other_users_reach_them() {
    let scratch = Scratch::new();
    let archive = Tar::new()
        .directory("./", 0o755)
        .file("./su", "")
        .change_last(100, b"0004755\0")
        .end()
        .write(&scratch, "a.tar");
    let (open, private) = (
        scratch.user_dir("open", 0o755),
        scratch.user_dir("private", 0o700),
    );
    for (above, layout) in [
        (&open, "caller"),
        (&open, "subid"),
        (&private, "caller"),
        (&private, "subid"),
    ] {
        let dir = above.join(layout);
        let output = run(&mut unpack(&archive, &dir, &["--id-layout", layout]));
        assert!(output.status.success());
        let owner = fs::metadata(&dir).unwrap().uid();
        assert_eq!(
            text(&output.stderr).contains(&format!("1 setuid files run as uid {owner} ")),
            above == &open,
            "{above:?} {layout}: {}",
            text(&output.stderr)
        );
    }
}

/// Headers take more than half of this archive, and its files no data at all.
#[test]
fn empty_files_need_no_free_space_for_their_headers() {
    let scratch = Scratch::new();
    let many = scratch.namespace_dir("many");
    let script =
        "import os,sys\nfor n in range(12000): os.mknod(f'{sys.argv[1]}/' + 'n' * 150 + str(n))";
    succeed(crate::world::namespace_python(script).arg(&many));
    let archive = scratch.join("a.tar.zst");
    succeed(isar_as_user(["pack"]).arg(&many).arg(&archive));
    let place = scratch.user_dir("memory", 0o755);
    let _memory = Mounted::new(["-t", "tmpfs", "-o", "size=16m,mode=0777", "none"], &place);
    succeed(&mut unpack(&archive, &place.join("tree"), &[]));
    assert_eq!(names(&place.join("tree")).len(), 12000);

    let full = Tar::new()
        .directory("./", 0o755)
        .file("./f", &"x".repeat(20 << 20))
        .end()
        .write(&scratch, "b.tar");
    let said = fail(2, &mut unpack(&full, &place.join("full"), &[]));
    assert!(said.contains("unpacks to 20971520 bytes"), "{said}");
    assert_eq!(names(&place), ["tree"]);
}

#[test]
fn an_attribute_that_the_file_system_has_no_room_for_is_named() {
    let scratch = Scratch::new();
    let archive = Tar::new()
        .directory("./", 0o755)
        .pax(&[("SCHILY.xattr.user.big", &[b'x'; 60_000])])
        .file("./f", "")
        .end()
        .write(&scratch, "a.tar");
    let (image, place) = (scratch.join("ext4"), scratch.user_dir("disk", 0o755));
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    succeed(
        Command::new("mkfs.ext4")
            .args(["-q", "-O", "^ea_inode"])
            .arg(&image),
    );
    let _disk = Mounted::new(["-o".as_ref(), "loop".as_ref(), image.as_os_str()], &place);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let said = fail(2, &mut unpack(&archive, &place.join("tree"), &[]));
    assert!(
        said.contains("no room for user.big, which has 60000 bytes; --no-xattrs leaves"),
        "{said}"
    );
    assert_eq!(names(&place), ["lost+found"]);
    succeed(&mut unpack(&archive, &place.join("tree"), &["--no-xattrs"]));
}

#[test]
fn sixty_four_descriptors_are_enough() {
    let scratch = Scratch::new();
    let mut tar = Tar::new().directory("./", 0o755);
    for number in 0..300 {
        tar = tar
            .directory(&format!("./{number}/"), 0o755)
            .file(&format!("./{number}/f"), "data")
            .file(&format!("./{number}/g"), &"x".repeat(5000));
    }
    tar.end().write(&scratch, "a.tar");
    let script = "ulimit -n 64; exec \"$0\" unpack --threads 16 a.tar tree";
    let mut limited = as_user("bash");
    limited.args(["-c", script]).arg(crate::world::program());
    succeed(limited.current_dir(scratch.path()));
    assert_eq!(names(&scratch.join("tree")).len(), 300);
}

#[test]
fn help_shows_an_example() {
    let help = succeed(&mut isar(["unpack", "--help"]));
    assert!(
        help.contains("Example: isar-tarball unpack schroot.tar.zst rootfs"),
        "{help}"
    );
}
