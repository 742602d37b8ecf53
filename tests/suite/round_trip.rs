//! Real chroots, there and back: `pack`, `unpack`, and `diff` finds nothing. Neither does a
//! comparison of snapshots, which knows nothing of tar or of `diff`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rootfs::{Snapshot, assert_equal, root_snapshot, snapshot};
use crate::unpack::but_extents;
use crate::world::{Scratch, chroot, isar, isar_as_user, succeed};

/// One who packs and unpacks.
struct Worker {
    command: fn() -> Command,
    /// What it sees of a tree.
    snapshot: fn(&Path) -> Snapshot,
}

/// In the namespace.
const USER: Worker = Worker {
    command: || isar_as_user(["--userns", "auto"]),
    snapshot,
};
/// As it is: the ids of the archive are those of the machine.
const ROOT: Worker = Worker {
    command: || isar(["--userns", "off"]),
    snapshot: root_snapshot,
};

impl Worker {
    fn pack(&self, threads: &str, tree: &Path, archive: &Path) {
        let options = [
            "pack",
            "--no-default-excludes",
            "--level",
            "1",
            "--threads",
            threads,
        ];
        succeed((self.command)().args(options).args([tree, archive]));
    }

    /// Unpacks the archive into a new directory of the scratch.
    fn unpack(&self, threads: &str, archive: &Path, scratch: &Scratch) -> PathBuf {
        let dir = scratch.join(format!("dir-{threads}"));
        succeed(
            (self.command)()
                .args(["unpack", "--threads", threads])
                .args([archive, &dir]),
        );
        dir
    }

    fn must_not_differ(&self, threads: &str, a: &Path, b: &Path) {
        let options = [
            "diff",
            "--no-default-excludes",
            "--mtime",
            "--threads",
            threads,
        ];
        assert_eq!(succeed((self.command)().args(options).args([a, b])), "");
    }
}

fn remove(tree: &Path) {
    succeed(Command::new("rm").arg("-rf").arg(tree));
}

/// What of a chroot an archive has: sockets are left out, and device nodes unless they are asked
/// for.
fn stored(tree: &Path) -> Snapshot {
    let mut stored = snapshot(tree);
    stored.retain(|_, file| !["char", "block", "socket"].contains(&file["kind"].as_str().unwrap()));
    assert!(
        stored.len() > 5000,
        "a chroot has more than {} files",
        stored.len()
    );
    stored
}

/// The ordinary user packs, unpacks and compares with each number of threads; the archive is the
/// same for any. Gives it.
fn through_the_namespace(
    tree: &Path,
    expected: &Snapshot,
    threads: &[&str],
    scratch: &Scratch,
) -> PathBuf {
    let first = scratch.join("first.tar.zst");
    for threads in threads {
        let archive = scratch.join("a.tar.zst");
        USER.pack(threads, tree, &archive);
        let dir = USER.unpack(threads, &archive, scratch);
        USER.must_not_differ(threads, tree, &dir);
        assert_equal(expected, &(USER.snapshot)(&dir), but_extents);
        remove(&dir);
        if first.exists() {
            assert!(
                fs::read(&archive).unwrap() == fs::read(&first).unwrap(),
                "--threads {threads}: another archive"
            );
        } else {
            fs::rename(&archive, &first).unwrap();
        }
    }
    first
}

/// Root unpacks the archive with each number of threads, and packs the same archive from what it
/// got.
fn as_root(archive: &Path, expected: &Snapshot, threads: &[&str], scratch: &Scratch) {
    for (index, threads) in threads.iter().enumerate() {
        let dir = ROOT.unpack(threads, archive, scratch);
        ROOT.must_not_differ(threads, &dir, archive);
        assert_equal(expected, &(ROOT.snapshot)(&dir), but_extents);
        if index == 0 {
            let again = scratch.join("again.tar.zst");
            ROOT.pack(threads, &dir, &again);
            assert!(
                fs::read(&again).unwrap() == fs::read(archive).unwrap(),
                "root packs another archive"
            );
        }
        remove(&dir);
    }
}

fn comes_back(suite: &str, user_threads: &[&str], root_threads: &[&str]) {
    let Some(tree) = chroot(suite) else { return };
    let scratch = Scratch::new();
    let expected = stored(&tree);
    let archive = through_the_namespace(&tree, &expected, user_threads, &scratch);
    as_root(&archive, &expected, root_threads, &scratch);
}

#[test]
fn a_chroot_of_bookworm_comes_back() {
    comes_back("bookworm", &["1", "2", "8"], &["2", "1", "8"]);
}

#[test]
fn a_chroot_of_trixie_comes_back() {
    comes_back("trixie", &["2"], &["8"]);
}
