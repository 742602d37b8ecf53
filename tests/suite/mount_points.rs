//! Mount points that `chroot` creates are no part of the tree: what other commands make of it does
//! not depend on whether a command runs in it, has run in it, or was killed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::rootfs::made_by;
use crate::world::{Scratch, fail, isar_as_user, succeed};

/// What a small tree borrows from the host, and a mount point two levels below a missing directory.
const BINDS: [&str; 6] = [
    "--bind",
    "/usr:ro",
    "--bind",
    "/lib64:ro",
    "--bind",
    "/etc:/mnt/x/y",
];

struct Bench {
    scratch: Scratch,
    tree: PathBuf,
    /// The archive of the tree before anything ran in it.
    before: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new();
        // Without dev, proc and sys: the root of the tree gets mount points, too.
        let tree = made_by(
            &scratch,
            "tree",
            "mkdir -p usr lib64 etc srv; ln -s usr/bin bin; ln -s usr/lib lib; echo x >etc/hostname
             find . -depth -exec touch -h -d @1000000000.123456789 {} +",
        );
        let mut bench = Bench {
            scratch,
            tree,
            before: Vec::new(),
        };
        bench.before = bench.packed();
        bench
    }

    fn packed(&self) -> Vec<u8> {
        let archive = self.scratch.join("x.tar");
        succeed(isar_as_user(["pack"]).args([&self.tree, &archive]));
        fs::read(archive).unwrap()
    }

    fn chroot(&self, script: &str) -> Command {
        let mut command = isar_as_user(["chroot"]);
        command.args(BINDS).arg(&self.tree);
        command.args(["--", "sh", "-ec", script]);
        command
    }

    /// Starts a command that waits in the tree.
    fn started(&self, script: &str) -> Child {
        let mut command = self.chroot(&format!("{script}; echo ready; exec sleep 60"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut ready).unwrap();
        child
    }

    /// Asserts that the tree packs to the same bytes and differs in nothing.
    fn assert_same(&self, when: &str) {
        assert!(self.packed() == self.before, "{when}");
        fs::write(self.scratch.join("before.tar"), &self.before).unwrap();
        let mut diff = isar_as_user(["diff", "--mtime"]);
        let archive = self.scratch.join("before.tar");
        assert_eq!(succeed(diff.arg(&self.tree).arg(&archive)), "", "{when}");
    }
}

#[test]
fn an_archive_does_not_depend_on_whether_somebody_is_or_was_inside() {
    let bench = Bench::new();
    let mut one = bench.started("true");
    assert!(bench.tree.join("mnt/x/y").is_dir());
    bench.assert_same("while a command runs");
    let mut other = bench.started("true");
    bench.assert_same("while two commands run");
    // The last one would remove the mount points, but it is killed.
    for child in [&mut one, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(bench.tree.join("mnt/x/y").is_dir());
    bench.assert_same("after both were killed");
    succeed(&mut bench.chroot("true"));
    assert_eq!(crate::world::names(&bench.tree).len(), 6);
    bench.assert_same("after the next one has cleared up");
    let root = fs::metadata(&bench.tree).unwrap();
    assert_eq!(
        (root.mtime(), root.mtime_nsec()),
        (1_000_000_000, 123_456_789)
    );
}

#[test]
fn what_a_command_changes_is_packed() {
    let bench = Bench::new();
    let mut child = bench.started("sleep 0.1; touch /srv/new /new; mkdir /mnt/x/own");
    let listed = |archive: &[u8]| {
        fs::write(bench.scratch.join("y.tar"), archive).unwrap();
        succeed(
            Command::new("tar")
                .arg("-tf")
                .arg(bench.scratch.join("y.tar")),
        )
    };
    let times = || {
        let time = |path: &str| fs::metadata(bench.tree.join(path)).unwrap().mtime();
        [time("."), time("srv")]
    };
    let meanwhile = bench.packed();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(bench.packed() == meanwhile, "after it was killed");
    let names = listed(&meanwhile);
    for name in ["./srv/new\n", "./new\n", "./mnt/x/own/\n"] {
        assert!(names.contains(name), "{name}: {names}");
    }
    for name in ["./mnt/x/y/", "./proc", "./.isar"] {
        assert!(!names.contains(name), "{name}: {names}");
    }
    let changed = times();
    succeed(&mut bench.chroot("true"));
    assert_eq!(
        times(),
        changed,
        "the times of the command's own changes stay"
    );
    assert!(changed.iter().all(|time| *time > 1_000_000_000));
    assert!(
        bench.packed() == meanwhile,
        "after the next one has cleared up"
    );
}

#[test]
fn a_tree_that_belongs_to_the_caller_is_named_with_what_helps() {
    let scratch = Scratch::new();
    let empty = scratch.user_dir("empty", 0o755);
    let said = fail(
        125,
        isar_as_user(["chroot"]).arg(&empty).args(["--", "true"]),
    );
    for expected in [
        "cannot run a command in",
        "Permission denied",
        "ordinary directory of yours",
        "id layout `caller`",
        "--id-layout",
        "unpack an archive there first",
    ] {
        assert!(said.contains(expected), "{expected:?}: {said}");
    }
    assert!(crate::world::names(&empty).is_empty());
}
