//! What all commands have in common when they speak: who speaks, on which stream, and that nothing
//! depends on anybody listening.

use std::fs;
use std::io::pipe;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use crate::imager::pack_small;
use crate::world::{Scratch, as_user, fail, isar, isar_as_user, program, run, succeed, text};

#[test]
fn a_line_that_is_not_understood_is_answered_by_the_program() {
    for (args, status, expected) in [
        (
            &["pack", "--nope"][..],
            2,
            "isar-tarball: unexpected argument '--nope'",
        ),
        (&["nope"], 2, "isar-tarball: unrecognized subcommand 'nope'"),
        (
            &["check"],
            2,
            "isar-tarball: the following required arguments were not provided",
        ),
        (
            &["pack", "--level", "0", "a", "b"],
            2,
            "isar-tarball: invalid value '0' for '--level",
        ),
        (
            &["unshare", "--nope", "true"],
            125,
            "isar-tarball: \"--nope\" is an unknown option",
        ),
        (
            &["chroot", "/", "--nope", "true"],
            125,
            "isar-tarball: \"--nope\" is an unknown option",
        ),
        (
            &["imager", "a.tar", "--nope", "true"],
            125,
            "isar-tarball: \"--nope\" is an unknown option",
        ),
    ] {
        let said = fail(status, &mut isar(args));
        assert!(said.starts_with(expected), "{args:?}: {said}");
        assert!(said.contains("--help"), "{args:?}: {said}");
    }
}

#[test]
fn help_that_was_asked_for_is_a_result_and_else_it_is_an_answer() {
    let help = succeed(&mut isar(["--help"]));
    assert!(help.starts_with("Packs the root file systems"), "{help}");
    assert!(succeed(&mut isar(["--version"])).starts_with("isar-tarball "));
    let said = fail(2, &mut isar([""; 0]));
    assert!(said.starts_with("Packs the root file systems"), "{said}");
}

#[test]
fn the_status_tells_when_nobody_reads_stderr() {
    for (args, status) in [
        (&["pack", "--nope"][..], 2),
        (&["list", "/no/such.tar"], 2),
        (&["chroot", "/no/such", "true"], 125),
        (&["unshare", "/no/such"], 127),
        (&["--userns", "off", "idmap"], 0),
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = run(isar(args).stderr(writer));
        assert_eq!(
            output.status.code(),
            Some(status),
            "{args:?}: {}",
            text(&output.stdout)
        );
    }
}

/// A shell ends a loop only if a signal has killed the command in it. A status of 130 would let it
/// go on.
#[test]
fn ctrl_c_ends_the_loop_of_a_shell() {
    let scratch = Scratch::new();
    // The archive never comes, so each round waits for the signal.
    let script = "trap 'echo trapped' TERM; mkfifo a; sleep 30 >a & waits=$!
        for round in 1 2; do
            echo $round >>rounds
            (sleep 0.5; kill -INT -- -$$) &
            \"$0\" unpack a tree
        done";
    let mut shell = as_user("setsid");
    shell.args(["bash", "-c", script]).arg(program());
    let output = run(shell.current_dir(scratch.path()));
    assert_eq!(output.status.signal(), Some(2), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(scratch.join("rounds")).unwrap(), "1\n");
    assert!(
        text(&output.stderr).contains("cannot unpack \"a\": stopped by SIGINT"),
        "{}",
        text(&output.stderr)
    );
}

/// As the reader of `list | head` does.
#[test]
fn a_reader_that_has_seen_enough_ends_the_program_in_silence() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 5000);
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut child = isar_as_user(["list"])
        .arg(&archive)
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1));
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(13), "{status}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_user_with_too_many_processes_is_told_so() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 3);
    succeed(isar_as_user(["unpack", "a.tar", "tree"]).current_dir(scratch.path()));
    let archive = archive.to_str().unwrap();
    for args in [
        &["list", archive][..],
        &["info", archive],
        &["check", archive],
        &["diff", archive, archive],
        &["pack", "tree", "b.tar"],
        &["unpack", archive, "other"],
        &["unpack", "--sha256", &"0".repeat(64), archive, "other"],
        &["imager", archive, "--", "true"],
        &["chroot", "tree", "--", "true"],
        &["unshare", "true"],
        &["remove", "tree"],
        &["export", "tree", "data/name", "name"],
    ] {
        let mut limited = as_user("bash");
        limited
            .args(["-c", "ulimit -u 1; exec \"$0\" \"$@\""])
            .arg(program())
            .args(args);
        let output = run(limited.current_dir(scratch.path()));
        let said = text(&output.stderr);
        assert!(
            matches!(output.status.code(), Some(2 | 125)) && !said.contains("panicked"),
            "{args:?}: {}: {said}",
            output.status
        );
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
    assert_eq!(scratch.names(), ["a.tar", "tree"]);
}
