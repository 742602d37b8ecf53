//! What all commands have in common when they speak: who speaks, on which stream, and that nothing
//! depends on anybody listening.

use std::io::pipe;

use crate::world::{fail, isar, run, succeed, text};

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
