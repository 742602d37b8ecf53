//! What `pack` leaves when something goes wrong: the old archive or none, no temporary file after
//! the next run, ROOTFS untouched.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};

use crate::rootfs::{made_by, rich, snapshot};
use crate::world::{
    Mounted, Scratch, as_namespace_root, fail, isar, isar_as_user, names, succeed, text, user,
};

/// Files of 1 MiB that no compressor makes smaller.
const NOISE: &str = "dd if=/dev/urandom of=noise bs=1M count=48 status=none; split --bytes=1M noise part-; rm noise";

fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

/// Waits until the temporary file is there: then work has begun.
fn wait_for_temporary(dir: &Path) {
    let begin = Instant::now();
    while !names(dir).iter().any(|name| name.ends_with(".part")) {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "no temporary file appears"
        );
        sleep(Duration::from_millis(1));
    }
}

/// The process that works for a run: in the namespace, or as the caller.
pub fn process_inside(child: &mut Child) -> Pid {
    // setpriv has become the program.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    loop {
        let text = fs::read_to_string(&children).unwrap();
        // newuidmap and newgidmap come first: wait until it is the one that works.
        let working = text.split_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("isar-tarball"))
                && fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
        });
        if let Some(pid) = working {
            return Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
    }
}

/// Waits until every process of the run, which had a group of its own, is gone with all that it
/// held.
pub fn wait_until_gone(group: Pid) {
    let begin = Instant::now();
    while test_kill_process_group(group).is_ok() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "a process of the killed run lives on"
        );
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_at_any_moment_it_leaves_the_old_archive_or_the_new_one() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", NOISE);
    let place = scratch.user_dir("place", 0o755);
    let archive = place.join("x.tar.zst");
    let before = snapshot(&tree);
    let begin = Instant::now();
    succeed(isar_as_user(["pack"]).args([&tree, &archive]));
    let took = begin.elapsed();
    let new = fs::read(&archive).unwrap();
    let mut seen = [false; 2];
    for moment in 0..=20 {
        fs::write(&archive, "old").unwrap();
        let mut child = start(
            isar_as_user(["pack"])
                .args([&tree, &archive])
                .process_group(0),
        );
        sleep(took * moment / 20);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until_gone(pid(&child));
        let found = fs::read(&archive).unwrap();
        assert!(
            found == b"old" || found == new,
            "after {moment}/20 of the time: {} bytes",
            found.len()
        );
        seen[usize::from(found == new)] = true;
        // At most the temporary file of this run is beside it: the one of the run before is gone.
        assert!(names(&place).len() <= 2, "{:?}", names(&place));
    }
    assert!(
        seen[0],
        "no run was killed before its end: the test shows nothing"
    );
    succeed(isar_as_user(["pack"]).args([&tree, &archive]));
    assert_eq!(names(&place), ["x.tar.zst"]);
    assert!(fs::read(&archive).unwrap() == new);
    assert_eq!(snapshot(&tree), before);
}

#[test]
fn when_the_process_inside_is_killed_the_status_says_so_and_nothing_is_left() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", NOISE);
    let place = scratch.user_dir("place", 0o755);
    let archive = place.join("x.tar.zst");
    fs::write(&archive, "old").unwrap();
    let mut child =
        start(isar_as_user(["pack", "--level=19", "--remove-source"]).args([&tree, &archive]));
    wait_for_temporary(&place);
    kill_process(process_inside(&mut child), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 9));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!(
            "cannot pack {tree:?}: the process that does the work was killed by signal 9"
        )),
        "{said}"
    );
    assert_eq!(
        (names(&place), fs::read(&archive).unwrap()),
        (vec!["x.tar.zst".to_owned()], b"old".to_vec())
    );
    assert_eq!(names(&tree).len(), 48, "the tree must stay");
}

#[test]
fn signals_that_ask_to_stop_leave_the_old_archive_and_nothing_beside_it() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", NOISE);
    let before = snapshot(&tree);
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    // kill(1) reaches one process, Ctrl-C on a terminal the whole group.
    for (number, (signal, to_group)) in signals
        .into_iter()
        .flat_map(|signal| [(signal, false), (signal, true)])
        .enumerate()
    {
        let place = scratch.user_dir(&format!("place-{number}"), 0o755);
        let archive = place.join("x.tar.zst");
        let options = ["pack", "--level=19", "--remove-source", "--digest"];
        if number % 3 > 0 {
            fs::write(&archive, "old").unwrap();
        }
        let left = names(&place);
        let mut child = start(
            isar_as_user(options)
                .arg(place.join("digest"))
                .args([&tree, &archive])
                .process_group(0),
        );
        wait_for_temporary(&place);
        sleep(Duration::from_millis(20 * number as u64));
        if to_group {
            kill_process_group(pid(&child), signal)
        } else {
            kill_process(pid(&child), signal)
        }
        .unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            (status.code(), status.signal()),
            (None, Some(signal.as_raw())),
            "{signal:?} {said}"
        );
        assert_eq!(names(&place), left, "{signal:?}");
        if number % 3 > 0 {
            assert_eq!(fs::read(&archive).unwrap(), b"old");
        }
    }
    assert_eq!(snapshot(&tree), before);
}

#[test]
fn a_full_disk_leaves_the_old_archive_and_nothing_beside_it() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", NOISE);
    let before = snapshot(&tree);
    let place = scratch.join("small");
    fs::create_dir(&place).unwrap();
    let _mounted = Mounted::new(["-t", "tmpfs", "-o", "size=20M,mode=0777", "none"], &place);
    for name in ["x.tar.zst", "x.tar"] {
        let archive = place.join(name);
        fs::write(&archive, "old").unwrap();
        let said = fail(
            2,
            isar_as_user(["pack", "--remove-source"]).args([&tree, &archive]),
        );
        assert!(
            said.contains("write the archive: No space left on device"),
            "{said}"
        );
        assert_eq!(fs::read(&archive).unwrap(), b"old");
    }
    assert_eq!(names(&place), ["x.tar", "x.tar.zst"]);
    let output = isar_as_user(["pack", "--format=tar"])
        .arg(&tree)
        .arg("-")
        .stdout(File::create("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(snapshot(&tree), before);
}

#[test]
fn no_room_for_a_file_at_all_is_said_so() {
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let place = scratch.join("small");
    fs::create_dir(&place).unwrap();
    // The root directory is the one inode.
    let _mounted = Mounted::new(
        ["-t", "tmpfs", "-o", "nr_inodes=1,mode=0777", "none"],
        &place,
    );
    let said = fail(
        2,
        isar_as_user(["pack"]).args([&tree, &place.join("x.tar")]),
    );
    assert!(
        said.contains("create a file beside it: No space left on device"),
        "{said}"
    );
}

#[test]
fn a_reader_that_goes_away_is_an_error_and_no_hang() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", NOISE);
    let mut child = start(isar_as_user(["pack", "--format=zst"]).arg(&tree).arg("-"));
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{said}");
    assert!(said.contains("write the archive: Broken pipe"), "{said}");
}

#[test]
fn a_read_error_names_the_file_and_leaves_the_old_archive() {
    let scratch = Scratch::new();
    let tree = made_by(
        &scratch,
        "tree",
        "mkdir usr; echo x >usr/bad; echo y >usr/good",
    );
    let archive = scratch.join("x.tar.zst");
    fs::write(&archive, "old").unwrap();
    // A regular file of 4096 bytes that can be opened but not read: the loopback device has no
    // speed.
    let _mounted = Mounted::new(["--bind", "/sys/class/net/lo/speed"], &tree.join("usr/bad"));
    let options = [
        "pack",
        "--cross-mounts",
        "--unmapped=squash",
        "--any-root-owner",
    ];
    for mut command in [isar(options), isar_as_user(options)] {
        let said = fail(2, command.args([&tree, &archive]));
        assert!(said.contains("usr/bad: read: Invalid argument"), "{said}");
        assert_eq!(fs::read(&archive).unwrap(), b"old");
        assert_eq!(
            (scratch.names(), names(&tree.join("usr"))),
            (
                ["tree", "x.tar.zst"].map(str::to_owned).to_vec(),
                ["bad", "good"].map(str::to_owned).to_vec()
            )
        );
    }
}

/// A run of `pack` whose output nobody takes yet: with little memory it stands still long before
/// the last member is read.
struct Stalled {
    child: Child,
}

impl Stalled {
    fn start(tree: &Path) -> Stalled {
        let child = start(
            isar_as_user(["pack", "--format=tar", "--threads=1", "--memory=128M"])
                .arg(tree)
                .arg("-"),
        );
        let mut stalled = Stalled { child };
        // The first bytes show that the tree has been walked.
        stalled
            .child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 512])
            .unwrap();
        stalled
    }

    /// Lets it go on, and gives its status and what it said.
    fn finish(mut self) -> (Option<i32>, String) {
        let mut output = self.child.stdout.take().unwrap();
        std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    // Far more than the memory allowed, in files of which none is large.
    let tree = made_by(
        &scratch,
        "tree",
        "for i in $(seq 100 399); do truncate --size=1M d; tr '\\0' x <d >file-$i; done; rm d; mkdir aside",
    );
    // Which member comes last is for the program to decide.
    let listing = scratch.join("order.tar");
    succeed(isar_as_user(["pack"]).args([&tree, &listing]));
    let order = succeed(Command::new("tar").arg("-tf").arg(&listing));
    fs::remove_file(&listing).unwrap();
    let last = order
        .lines()
        .rfind(|name| name.starts_with("./file-"))
        .unwrap()
        .trim_start_matches("./")
        .to_owned();
    let cases = [
        ("rm \"$1\"", "vanished while packing"),
        (
            "truncate --size=5 \"$1\"",
            "shrank from 1048576 to 5 bytes while packing",
        ),
        (
            "echo more >>\"$1\"",
            "grew from 1048576 to 1048581 bytes while packing",
        ),
        (
            "printf y | dd of=\"$1\" conv=notrunc status=none",
            "changed while packing",
        ),
        ("chmod 0600 \"$1\"", "changed while packing"),
        (
            "cp \"$1\" aside/x; mv aside/x \"$1\"",
            "replaced by another file while packing",
        ),
        (
            "ln -sf /etc/passwd \"$1\"",
            "replaced by another file while packing",
        ),
        (
            "rm \"$1\"; mkfifo \"$1\"",
            "replaced by another file while packing",
        ),
        (
            "rm \"$1\"; mkdir \"$1\"",
            "replaced by another file while packing",
        ),
    ];
    for (change, expected) in cases {
        let stalled = Stalled::start(&tree);
        succeed(
            as_namespace_root("sh")
                .args(["-euc", &format!("cd \"$0\"; {change}")])
                .args([tree.as_os_str(), last.as_ref()]),
        );
        let (status, said) = stalled.finish();
        assert_eq!(status, Some(2), "{change}: {said}");
        assert!(
            said.contains(&format!("{last}: {expected}")),
            "{change}: {said}"
        );
        succeed(
            as_namespace_root("sh")
                .args([
                    "-euc",
                    "cd \"$0\"; rm -rf \"$1\"; tr '\\0' x </dev/zero | head -c 1M >\"$1\"",
                ])
                .args([tree.as_os_str(), last.as_ref()]),
        );
    }
    let stalled = Stalled::start(&tree);
    let (status, said) = stalled.finish();
    assert_eq!(status, Some(0), "nothing has changed: {said}");
}

#[test]
fn a_source_with_a_mount_in_it_is_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    let tree: PathBuf = rich(&scratch, "tree");
    let archive = scratch.join("x.tar");
    // Something is mounted in it: what is mounted must not be removed.
    fs::create_dir(scratch.join("outside")).unwrap();
    fs::write(scratch.join("outside/kept"), "x").unwrap();
    chown(
        scratch.join("outside"),
        Some(user().base),
        Some(user().base),
    )
    .unwrap();
    let mount_point = tree.join("empty-dir");
    let _mounted = Mounted::new(
        ["--bind".as_ref(), scratch.join("outside").as_os_str()],
        &mount_point,
    );
    let said = fail(
        2,
        isar_as_user(["pack", "--remove-source"]).args([&tree, &archive]),
    );
    assert!(
        said.contains("something is mounted at") && said.contains("empty-dir"),
        "{said}"
    );
    assert!(!archive.exists() && scratch.join("outside/kept").exists());
}

#[test]
fn what_is_left_of_a_source_that_cannot_be_removed_is_named_and_the_archive_is_there() {
    let scratch = Scratch::new();
    let tree: PathBuf = rich(&scratch, "tree");
    let archive = scratch.join("x.tar");
    // Only real root may remove an immutable file.
    let kept = tree.join("etc/kept");
    fs::write(&kept, "x").unwrap();
    chown(&kept, Some(user().base), Some(user().base)).unwrap();
    succeed(Command::new("chattr").arg("+i").arg(&kept));
    let said = fail(
        2,
        isar_as_user(["pack", "--remove-source"]).args([&tree, &archive]),
    );
    succeed(
        Command::new("chattr")
            .arg("-i")
            .arg(scratch.join(".tree.isar-tarball-old/etc/kept")),
    );
    assert!(
        said.contains("the archive is complete, but the tree could not be removed")
            && said.contains(".tree.isar-tarball-old")
            && said.contains("etc/kept")
            && said.contains("chattr -i"),
        "{said}"
    );
    assert!(archive.exists() && scratch.join(".tree.isar-tarball-old/etc/kept").exists());
    assert_eq!(scratch.names(), [".tree.isar-tarball-old", "x.tar"]);
    // The next removal of the same name clears it away.
    succeed(isar_as_user(["remove"]).arg(&tree));
    assert_eq!(scratch.names(), ["x.tar"]);
}

#[test]
fn names_that_another_user_has_planted_in_a_sticky_directory_keep_nothing_from_its_name() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "mkdir d; echo x >d/file");
    let place = scratch.join("place");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o1777)).unwrap();
    for name in ["x.tar", "copy", "copies"] {
        for (planted, kind) in [
            ("01234567", "file"),
            ("1-0", "file"),
            ("89abcdef", "directory"),
        ] {
            let path = place.join(format!(".{name}.{planted}.part"));
            match kind {
                "file" => fs::write(&path, "planted").unwrap(),
                _ => fs::create_dir_all(path.join("full")).unwrap(),
            }
        }
    }
    // The lock of a running command, as it seems.
    let locked = File::open(place.join(".x.tar.01234567.part")).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let planted = names(&place).len();
    for _ in 0..2 {
        succeed(isar_as_user(["pack"]).arg(&tree).arg(place.join("x.tar")));
        succeed(
            isar_as_user(["export"])
                .arg(&tree)
                .arg("d/file")
                .arg(place.join("copy")),
        );
    }
    succeed(
        isar_as_user(["export"])
            .arg(&tree)
            .arg("d")
            .arg(place.join("copies")),
    );
    assert_eq!(names(&place).len(), planted + 3);
    assert_eq!(names(&place.join("copies")), ["file"]);
}
