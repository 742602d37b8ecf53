//! Trees of any depth, few open files, and what else a machine denies: the error is named, and nothing
//! is left.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};

use isar_tarball::internals::archive::header::Fields;

use crate::crafted::{Tar, content};
use crate::remove::make_deep;
use crate::rootfs::made_by;
use crate::unpack::{SITUATIONS, os};
use crate::world::{
    self, Scratch, as_user, fail, isar_as_user, names, program, require, run, succeed, text, user,
};

/// More levels than a path has room for in one system call, and than there are descriptors.
const LEVELS: usize = 3000;

/// As many as a path in an archive has room for: no program can extract longer ones.
const PACKED_LEVELS: usize = 2000;

/// The program as the test user, which may have so many files open.
fn limited(scratch: &Scratch, files: u32, args: &[&str]) -> Command {
    let mut command = as_user("prlimit");
    command
        .arg(format!("--nofile={files}:{files}"))
        .arg("--")
        .arg(world::program())
        .args(args)
        .current_dir(scratch.path());
    command
}

/// Runs the program with 64 open files, and gives what it printed.
fn with_few_files(scratch: &Scratch, args: &[&str]) -> String {
    let output = run(&mut limited(scratch, 64, args));
    let said = text(&output.stderr);
    // A path of thousands of names would hide the rest.
    let end: String = said
        .chars()
        .rev()
        .take(300)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    assert!(
        output.status.success(),
        "{args:?}: {}, …{end}",
        output.status
    );
    text(&output.stdout)
}

#[test]
fn every_command_reaches_every_depth_with_64_open_files() {
    let scratch = Scratch::new();
    let base = user().base;
    let tree = made_by(
        &scratch,
        "tree",
        "mkdir wide; for i in $(seq 300); do mkdir wide/$i; echo $i >wide/$i/file; done",
    );
    make_deep(&tree, PACKED_LEVELS, (base, base));
    let few = |args: &[&str]| with_few_files(&scratch, args);
    few(&["pack", "tree", "x.tar.zst"]);
    assert_eq!(few(&["diff", "tree", "x.tar.zst"]), "");
    make_deep(&tree.join("wide"), LEVELS, (base, base));
    assert_eq!(few(&["diff", "tree", "tree"]), "");
    let output = run(&mut limited(&scratch, 64, &["pack", "tree", "y.tar.zst"]));
    let said = text(&output.stderr);
    assert!(
        said.contains("no program can extract more than"),
        "{}",
        said.len()
    );
    few(&["export", "tree", "/", "copy"]);
    let found = Command::new("find")
        .arg(scratch.join("copy"))
        .arg("-printf")
        .arg(".")
        .output();
    assert_eq!(
        found.unwrap().stdout.len(),
        1 + PACKED_LEVELS + 1 + 600 + LEVELS
    );
    // Many members, one after the other.
    made_by(
        &scratch,
        "many",
        "for i in $(seq 300); do echo $i >$i; done",
    );
    scratch.user_dir("files", 0o755);
    few(&["export", "many", "*", "files"]);
    assert_eq!(world::names(&scratch.join("files")).len(), 300);
}

#[test]
fn acls_and_removal_reach_every_depth_with_64_open_files() {
    let scratch = Scratch::new();
    let top = scratch.user_dir("tree", 0o755);
    make_deep(&top, LEVELS, (user().uid, user().gid));
    let few = |args: &[&str]| with_few_files(&scratch, args);
    let counted = format!(
        "would remove tree: {} directories, 0 other files\n",
        LEVELS + 1
    );
    assert_eq!(few(&["remove", "--dry-run", "tree"]), counted);
    let changed = |args: &[&str]| {
        let said: serde_json::Value = serde_json::from_str(&few(args)).unwrap();
        said["directories"][0]["changed"].as_u64().unwrap()
    };
    let levels = LEVELS as u64 + 1;
    assert_eq!(changed(&["grant-acl", "--json", "--share", "tree"]), levels);
    assert_eq!(changed(&["grant-acl", "--json", "--share", "tree"]), 0);
    assert_eq!(
        changed(&["grant-acl", "--json", "--share", "--revoke", "tree"]),
        levels
    );
    // Owned by the namespace.
    make_deep(
        &scratch.user_dir("other", 0o755),
        LEVELS,
        (user().base, user().base),
    );
    chown(scratch.join("other"), Some(user().base), Some(user().base)).unwrap();
    few(&["grant-acl", "--share", "other"]);
    few(&["remove", "tree", "other"]);
    assert!(scratch.names().is_empty());
}

/// A command below another one that changes what it meets: strace, prlimit.
fn below(outer: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(outer[0]);
    command
        .args(&outer[1..])
        .arg(inner.get_program())
        .args(inner.get_args())
        .stdin(Stdio::null());
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    command
}

/// strace with an injection into one system call of every process.
fn injected(call: &str, what: &str, inner: &Command) -> Command {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
    below(
        &[
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ],
        inner,
    )
}

/// One member of each kind that needs a call of its own.
fn every_kind() -> Tar {
    Tar::new()
        .directory("./", 0o755)
        .directory("./d", 0o755)
        .pax(&[("SCHILY.xattr.user.comment", b"x")])
        .file("./d/file", &"x".repeat(10_000))
        .symlink("./d/link", "file")
        .hard_link("./d/linked", "./d/file")
        .end()
}

#[test]
fn a_failing_disk_is_named_and_nothing_is_left() {
    let Some(()) = require(&["strace"]) else {
        return;
    };
    let scratch = Scratch::new();
    let archive = every_kind().write(&scratch, "a.tar");
    let before = scratch.names();
    for (call, errno, expected) in [
        ("pwrite64", "EIO", "d/file: write: Input/output error"),
        ("pwrite64", "EDQUOT", "d/file: write: Disk quota exceeded"),
        (
            "fsetxattr",
            "EIO",
            "d/file: set an extended attribute: Input",
        ),
        ("symlinkat", "EIO", "d/link: create the symbolic link: "),
        (
            "linkat",
            "EMLINK",
            "d/linked: create the hard link: Too many",
        ),
        ("syncfs", "EIO", "sync the file system: Input/output error"),
    ] {
        for (situation, command) in SITUATIONS {
            let dir = scratch.join("new/dir");
            let unpack = command(&os(&["unpack", "--sync"], &[&archive, &dir]));
            let said = fail(2, &mut injected(call, &format!("error={errno}"), &unpack));
            assert!(said.contains(expected), "{situation} {call}: {said}");
            assert_eq!(scratch.names(), before, "{situation} {call}");
        }
    }
    let tree = made_by(&scratch, "tree", "echo x >file");
    let before = scratch.names();
    for (call, expected) in [
        ("fsync", "sync: Input/output error"),
        ("renameat", "rename the finished file: Input/output error"),
    ] {
        let pack = isar_as_user(os(&["pack"], &[&tree, &scratch.join("x.tar")]));
        let said = fail(2, &mut injected(call, "error=EIO", &pack));
        assert!(said.contains(expected), "{call}: {said}");
        assert_eq!(scratch.names(), before, "{call}");
    }
}

#[test]
fn resource_limits_are_met_or_named_and_nothing_is_left() {
    let Some(()) = require(&["prlimit"]) else {
        return;
    };
    let scratch = Scratch::new();
    let mut tar = every_kind().0;
    tar.truncate(tar.len() - 1024);
    let mut many = Tar(tar);
    for index in 0..200 {
        many = many.file(&format!("./many/{}/{index}", index % 20), "x");
    }
    let archive = many.end().write(&scratch, "a.tar");
    let deep = format!("./{}file", "deep/".repeat(200));
    let deep = Tar::new().file(&deep, "x").end().write(&scratch, "d.tar");
    let before = scratch.names();
    for (situation, command) in SITUATIONS {
        for threads in ["--threads=1", "--threads=0"] {
            for archive in [&archive, &deep] {
                let dir = scratch.join("dir");
                let unpack = command(&os(&["unpack", threads], &[archive, &dir]));
                succeed(&mut below(&["prlimit", "--nofile=64"], &unpack));
                succeed(Command::new("rm").arg("-rf").arg(&dir));
            }
        }
        let dir = scratch.join("dir");
        let unpack = command(&os(&["unpack"], &[&archive, &dir]));
        let said = fail(2, &mut below(&["prlimit", "--fsize=4096"], &unpack));
        let expected = "d/file: write: File too large";
        assert!(said.contains(expected), "{situation}: {said}");
        assert_eq!(scratch.names(), before, "{situation}");
        for megabytes in [32, 64, 128, 256] {
            let limit = format!("--as={}", megabytes << 20);
            let output = run(&mut below(&["prlimit", &limit], &unpack));
            if output.status.success() {
                succeed(Command::new("rm").arg("-rf").arg(&dir));
            } else {
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{situation} {limit}: {said}");
            }
            assert_eq!(scratch.names(), before, "{situation} {limit}");
        }
    }
}

#[test]
fn without_enough_processes_the_error_is_named_and_nothing_is_left() {
    let Some(()) = require(&["prlimit", "setpriv"]) else {
        return;
    };
    // No other process has this uid: the limit counts all processes of a user.
    const UID: u32 = 61_234;
    let scratch = Scratch::new();
    let member = Fields {
        name: b"./file",
        mode: 0o644,
        uid: UID,
        gid: UID,
        typeflag: b'0',
        ..Fields::default()
    };
    let archive = Tar::new()
        .member(member, b"x")
        .end()
        .write(&scratch, "a.tar");
    let work = scratch.user_dir("work", 0o755);
    chown(&work, Some(UID), Some(UID)).unwrap();
    let ids = format!("{UID}");
    let mut seen = [false; 2];
    for limit in 1..=6 {
        let dir = work.join("dir");
        let mut unpack = Command::new("setpriv");
        unpack
            .args(["--reuid", &ids, "--regid", &ids, "--clear-groups", "--"])
            .args(["prlimit".to_owned(), format!("--nproc={limit}")])
            .arg(program())
            .args(os(
                &["--userns=off", "unpack", "--threads=2"],
                &[&archive, &dir],
            ));
        let output = run(&mut unpack);
        seen[usize::from(output.status.success())] = true;
        if output.status.success() {
            assert_eq!(content(&dir, "file"), "x");
            fs::remove_dir_all(&dir).unwrap();
        } else {
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{limit}: {said}");
            let expected = "Resource temporarily unavailable";
            assert!(said.contains(expected), "{limit}: {said}");
        }
        assert_eq!(names(&work), [""; 0], "{limit}");
    }
    assert_eq!(seen, [true, true], "one limit is too low and one is not");
}
