//! What `unpack` leaves when something goes wrong: nothing of what it made, and all of what was
//! there before.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use isar_tarball::internals::archive::header::Fields;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::crafted::{Tar, content};
use crate::pack_faults::{pid, process_inside, wait_until_gone};
use crate::rootfs::{assert_equal, nothing, root_snapshot};
use crate::unpack::{SITUATIONS, os, several};
use crate::world::{
    Mounted, Scratch, fail, isar_as_user, names, program, require, run, succeed, text,
};

/// 20 files, together twice as much as the file system of [`small`] holds.
fn too_large() -> Tar {
    let file = |tar: Tar, index| tar.file(&format!("./d/{index}"), &"x".repeat(100_000));
    (0..20).fold(Tar::new(), file).end()
}

/// A file system of 1 MiB that everybody may write to.
fn small(scratch: &Scratch) -> (PathBuf, Mounted) {
    let place = scratch.user_dir("small", 0o777);
    let mounted = Mounted::new(["-t", "tmpfs", "-o", "size=1m,mode=777", "none"], &place);
    (place, mounted)
}

#[test]
fn a_full_file_system_is_an_error_that_leaves_nothing() {
    let scratch = Scratch::new();
    let (place, _mounted) = small(&scratch);
    let archive = too_large().write(&scratch, "a.tar");
    for (situation, command) in SITUATIONS {
        let mut zstd = Command::new("zstd")
            .args(["-q", "-c"])
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // From a pipe nobody knows before how much it will be.
        let stdin = zstd.stdout.take().unwrap();
        let said = fail(
            2,
            command(&os(&["unpack"], &[Path::new("-"), &place.join("dir")])).stdin(stdin),
        );
        zstd.wait().unwrap();
        assert!(
            said.contains(": d/") && said.contains("No space left on device"),
            "{situation}: {said}"
        );
        assert_eq!(names(&place), [""; 0], "{situation}");
    }
}

#[test]
fn what_is_known_not_to_fit_is_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    let (place, _mounted) = small(&scratch);
    let plain = too_large().write(&scratch, "a.tar");
    let compressed = scratch.join("a.tar.zst");
    succeed(
        Command::new("zstd")
            .arg("-q")
            .arg(&plain)
            .arg("-o")
            .arg(&compressed),
    );
    let old = Tar::new()
        .file("./old", "old")
        .end()
        .write(&scratch, "old.tar");
    for (situation, command) in SITUATIONS {
        let (new, merged) = (place.join("new/dir"), place.join("merged"));
        succeed(&mut command(&os(&["unpack"], &[&old, &merged])));
        let before = root_snapshot(&merged);
        for archive in [&plain, &compressed] {
            for (dir, option) in [(&new, "--threads=2"), (&merged, "--merge")] {
                let said = fail(2, &mut command(&os(&["unpack", option], &[archive, dir])));
                let expected = format!(
                    "cannot unpack {archive:?}: {dir:?}: the archive unpacks to 2000000 bytes, and the file system has only "
                );
                assert!(said.contains(&expected), "{situation}: {said}");
                assert!(!place.join("new").exists(), "{situation}");
                assert_equal(&before, &root_snapshot(&merged), nothing);
            }
        }
        // What is left out needs no room.
        succeed(&mut command(&os(
            &["unpack", "--exclude=d/1*"],
            &[&compressed, &new],
        )));
        succeed(
            Command::new("rm")
                .arg("-rf")
                .args([merged, place.join("new")]),
        );
    }
}

#[test]
fn a_merge_into_a_file_system_that_gets_full_takes_only_its_own_files_away() {
    let Some(()) = require(&["gzip"]) else { return };
    let scratch = Scratch::new();
    let archive = too_large().write(&scratch, "a.tar");
    // The mount is the namespace's own, and so is the root that unpacks there. A stream does not
    // tell its size before.
    let script = "
        mount -t tmpfs -o size=1m none /mnt
        mkdir /mnt/d; echo old > /mnt/d/old; echo old > /mnt/d/kept
        status=0; gzip --stdout \"$1\" | \"$0\" unpack --merge - /mnt || status=$?
        echo status $status; cd /mnt; find . -type f -exec grep -H old {} +; find . | wc -l
    ";
    let mut command = isar_as_user(["unshare", "--", "sh", "-euc", script]);
    let output = run(command.arg(program()).arg(&archive));
    let said = text(&output.stderr);
    assert!(
        said.contains(": d/") && said.contains("No space left on device"),
        "{said}"
    );
    let mut lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["./d/kept:old", "./d/old:old", "4", "status 2"]);
}

#[test]
fn a_cut_off_archive_leaves_nothing() {
    let scratch = Scratch::new();
    let whole = several().0;
    for length in [100, 1100, 1600, 3000, whole.len() - 1025] {
        let archive = Tar(whole[..length].to_vec()).write(&scratch, "a.tar");
        for (situation, command) in SITUATIONS {
            let dir = scratch.join("new/dir");
            fail(2, &mut command(&os(&["unpack"], &[&archive, &dir])));
            assert!(!scratch.join("new").exists(), "{situation} {length}");
        }
    }
}

/// The time of a directory is that of the last change in it.
fn but_mtime(_: &str, attribute: &str, _: &Value, _: &Value) -> bool {
    attribute == "mtime"
}

/// An archive without its end: what reads it waits for the rest.
fn unfinished() -> Vec<u8> {
    let mut whole = several().0;
    // The end of what is there stays in the decoder's buffer.
    whole.truncate(whole.len() - 1024);
    whole.extend(Tar::new().file("./large", &"x".repeat(8 << 20)).0);
    whole
}

/// Where `dir` is filled: beside its name, or in place if it exists.
fn filled(dir: &Path) -> PathBuf {
    let name = format!(
        ".{}.isar-tarball-new",
        dir.file_name().unwrap().to_str().unwrap()
    );
    let beside = dir.with_file_name(name);
    if beside.exists() {
        beside
    } else {
        dir.to_owned()
    }
}

/// Starts to unpack [`unfinished`] into `dir` and waits until files are there. As long as the pipe
/// is held open, more may come.
fn begin(command: &mut Command, dir: &Path) -> (Child, ChildStdin) {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(&unfinished()).unwrap();
    let begin = Instant::now();
    while !filled(dir).join("usr/bin/ls").exists() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it does not begin"
        );
        sleep(Duration::from_millis(10));
    }
    (process, stdin)
}

#[test]
fn a_signal_leaves_nothing() {
    let scratch = Scratch::new();
    for (situation, command) in SITUATIONS {
        for signal in [Signal::TERM, Signal::INT] {
            let dir = scratch.join(format!("new-{situation}"));
            let (process, _stdin) = begin(
                &mut command(&os(&["unpack"], &[Path::new("-"), &dir])),
                &dir,
            );
            kill_process(Pid::from_child(&process), signal).unwrap();
            let output = process.wait_with_output().unwrap();
            assert_eq!(output.status.signal(), Some(signal.as_raw()), "{situation}");
            let said = text(&output.stderr);
            assert!(said.contains("stopped by SIG"), "{situation}: {said}");
            assert!(!filled(&dir).exists(), "{situation}");
        }
    }
}

#[test]
fn when_the_process_inside_is_killed_that_is_said_and_nothing_is_left() {
    let scratch = Scratch::new();
    for (situation, command) in SITUATIONS {
        let above = scratch.user_dir(situation, 0o755);
        let (new, empty, merged) = (
            above.join("new/dir"),
            scratch.user_dir(&format!("{situation}/empty"), 0o750),
            above.join("merged"),
        );
        succeed(&mut command(&os(
            &["unpack"],
            &[
                &Tar::new()
                    .file("./usr/old", "old")
                    .end()
                    .write(&scratch, "old.tar"),
                &merged,
            ],
        )));
        let before = [root_snapshot(&empty), root_snapshot(&merged)];
        for (dir, option) in [
            (&new, "--threads=2"),
            (&empty, "--threads=1"),
            (&merged, "--merge"),
        ] {
            let (mut process, _stdin) = begin(
                &mut command(&os(&["unpack", option], &[Path::new("-"), dir])),
                dir,
            );
            kill_process(process_inside(&mut process), Signal::KILL).unwrap();
            let output = process.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(128 + 9), "{situation} {dir:?}");
            let said = text(&output.stderr);
            assert!(
                said.contains(
                    "cannot unpack \"-\": the process that does the work was killed by signal 9"
                ),
                "{said}"
            );
        }
        assert!(!above.join("new").exists(), "{situation}");
        // The empty one is the caller's again.
        assert_equal(&before[0], &root_snapshot(&empty), but_mtime);
        assert_equal(&before[1], &root_snapshot(&merged), but_mtime);
    }
}

#[test]
fn a_directory_that_was_there_has_its_owner_and_mode_again() {
    let scratch = Scratch::new();
    let root = Fields {
        name: b"./",
        mode: 0o2775,
        uid: 5,
        gid: 6,
        typeflag: b'5',
        ..Fields::default()
    };
    // All is unpacked by the time that the digest of a stream is known.
    let archive = Tar::new()
        .header(root)
        .file("./new", "new")
        .end()
        .write(&scratch, "a.tar");
    for (situation, command) in SITUATIONS {
        let (empty, merged) = (
            scratch.user_dir(&format!("{situation}-empty"), 0o1750),
            scratch.namespace_dir(situation),
        );
        for (dir, option) in [(&empty, "--threads=1"), (&merged, "--merge")] {
            let before = root_snapshot(dir);
            let args = ["unpack", option, "--sha256", &"0".repeat(64)];
            let mut cat = Command::new("cat")
                .arg(&archive)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            fail(
                2,
                command(&os(&args, &[Path::new("-"), dir])).stdin(cat.stdout.take().unwrap()),
            );
            cat.wait().unwrap();
            assert_equal(&before, &root_snapshot(dir), but_mtime);
        }
    }
}

#[test]
fn when_the_whole_program_is_killed_the_next_run_clears_away_what_is_left() {
    let scratch = Scratch::new();
    let archive = several().write(&scratch, "a.tar");
    for (situation, command) in SITUATIONS {
        let dir = scratch.join(situation);
        let (mut process, _stdin) = begin(
            command(&os(&["unpack"], &[Path::new("-"), &dir])).process_group(0),
            &dir,
        );
        process.kill().unwrap();
        process.wait().unwrap();
        // The process inside goes with it.
        wait_until_gone(pid(&process));
        assert!(!dir.exists(), "{situation}");
        assert!(filled(&dir).join("usr/bin/ls").exists(), "{situation}");
        succeed(&mut command(&os(&["unpack"], &[&archive, &dir])));
        assert_eq!(filled(&dir), dir, "{situation}");
        let said = fail(2, &mut command(&os(&["unpack"], &[&archive, &dir])));
        assert!(
            said.contains("not empty") && said.contains("--replace"),
            "{situation}: {said}"
        );
        assert_eq!(
            (names(&dir), content(&dir, "usr/bin/ls")),
            (vec!["etc".to_owned(), "usr".to_owned()], "ls".to_owned())
        );
    }
}

#[test]
fn what_cannot_be_removed_again_is_said() {
    let scratch = Scratch::new();
    for (situation, command) in SITUATIONS {
        let dir = scratch.join(situation);
        let (mut process, _stdin) = begin(
            &mut command(&os(&["unpack"], &[Path::new("-"), &dir])),
            &dir,
        );
        let mounted = Mounted::new(["-t", "tmpfs", "none"], &filled(&dir).join("usr/lib"));
        kill_process(process_inside(&mut process), Signal::KILL).unwrap();
        let output = process.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{situation}: {said}");
        assert!(
            said.contains("killed by signal 9") && said.contains("usr/lib"),
            "{situation}: {said}"
        );
        assert!(
            said.contains("what was unpacked could not be removed"),
            "{situation}: {said}"
        );
        drop(mounted);
    }
}
