//! Trees of any depth, and few open files.

use std::os::unix::fs::chown;
use std::process::Command;

use crate::remove::make_deep;
use crate::rootfs::made_by;
use crate::world::{self, Scratch, as_user, run, text, user};

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
