//! What a command in the namespace can reach: its own processes and files, and nothing else.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use crate::imager::{BORROWED, pack_small};
use crate::world::{Scratch, as_namespace_root, isar_as_user, run, succeed, text, user};

/// What `tests/fixtures/what_leaks.py` may reach in a tree.
const ALLOWED: [&str; 9] = [
    "writable /",
    "writable /dev",
    "writable /dev/full",
    "writable /dev/null",
    "writable /dev/random",
    "writable /dev/shm",
    "writable /dev/urandom",
    "writable /dev/zero",
    // What the test covers it with.
    "writable /proc/version",
];

fn scratch_with_probe() -> Scratch {
    let scratch = Scratch::new();
    fs::write(
        scratch.join("what_leaks.py"),
        include_str!("../fixtures/what_leaks.py"),
    )
    .unwrap();
    pack_small(&scratch, "a.tar", 3);
    scratch
}

/// Runs the probe, and gives what it has reached that is not among `allowed`.
///
/// The program gets no descriptor of the process that runs the tests. With `is_masked`, `/proc` is
/// partly covered, as in a container, so that the command sees the processes of the host.
fn leaks(command: &Command, is_masked: bool, allowed: &[&str]) -> Vec<String> {
    let close = "import os, sys; os.closerange(3, 1 << 16); os.execvp(sys.argv[1], sys.argv[1:])";
    let mask = "mount --bind /dev/null /proc/version; exec \"$0\" \"$@\"";
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "python3", "-c", close]);
    if is_masked {
        outer.args(["sh", "-ec", mask]);
    }
    outer.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    let output = run(&mut outer);
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.last(), Some(&"done"), "the probe does not end");
    let is_leak = |line: &&&str| **line != "done" && !allowed.contains(*line);
    let leaks = lines.iter().filter(is_leak);
    leaks.map(|line| (*line).to_owned()).collect()
}

#[test]
fn a_command_in_a_tree_reaches_nothing_outside_of_it() {
    let scratch = scratch_with_probe();
    let tree = scratch.namespace_dir("tree");
    succeed(
        as_namespace_root("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-xf")
            .arg(scratch.join("a.tar")),
    );
    let own = scratch.path().to_str().unwrap();
    let probe = format!("{own}/what_leaks.py:/probe:ro");
    let cache = format!("{own}/cache");
    let (root, cached, chroot) = (
        ["imager", "--root", &format!("{own}/root"), "a.tar"].map(str::to_owned),
        ["imager", "--cache", &cache, "a.tar"].map(str::to_owned),
        ["chroot", "tree"].map(str::to_owned),
    );
    for (words, is_masked) in [
        (&root[..], false),
        (&cached, false),
        (&cached, true),
        (&chroot, false),
    ] {
        let (archive, options) = words.split_last().unwrap();
        let mut command = isar_as_user(options);
        command.args(BORROWED).args(["--bind", &probe]).arg(archive);
        command.args(["--", "python3", "/probe", own, "/var/tmp", "/home"]);
        command.current_dir(scratch.path());
        let leaks = leaks(&command, is_masked, &ALLOWED);
        assert!(leaks.is_empty(), "{words:?} {is_masked}: {leaks:#?}");
    }
    let found =
        run(Command::new("find")
            .arg(&cache)
            .args(["-name", "*made-by*", "-o", "-name", "below"]));
    assert_eq!(text(&found.stdout), "", "the copy in the cache has changed");
}

#[test]
fn an_unshared_command_reaches_no_process_and_no_descriptor_of_the_program() {
    let scratch = scratch_with_probe();
    chown(scratch.path(), Some(user().uid), Some(user().gid)).unwrap();
    let mut command = isar_as_user(["unshare", "--", "python3", "what_leaks.py"]);
    command.current_dir(scratch.path());
    for is_masked in [false, true] {
        let mut leaks = leaks(&command, is_masked, &[]);
        // The host's mounts are there on purpose.
        leaks.retain(|line| !line.starts_with("writable "));
        assert!(leaks.is_empty(), "{is_masked}: {leaks:#?}");
    }
}
