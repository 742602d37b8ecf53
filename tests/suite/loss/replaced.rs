//! `unpack --replace` with what cannot be unpacked, and with signals.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::{Bench, assert_none, clear, outcome};
use crate::kill::trace::{Stop, To, trace};
use crate::rootfs::{made_by, root_snapshot};
use crate::world::{run, succeed};

/// Makes `rootfs` a copy of `old`.
fn copy_old(bench: &Bench) {
    clear(&bench.join("rootfs"));
    let mut copy = Command::new("cp");
    copy.arg("-a");
    succeed(copy.args([bench.join("old"), bench.join("rootfs")]));
}

/// The archive, with one member moved out of the tree.
fn with_a_member_outside(bench: &Bench) {
    let script = "mkdir x; tar -xf a.tar -C x; tar -C x -P --transform 's,^./data/name$,../outside,' -cf outside.tar .; rm -r x";
    let mut shell = Command::new("sh");
    succeed(
        shell
            .args(["-euc", script])
            .current_dir(bench.scratch.path()),
    );
}

#[test]
fn replace_keeps_the_old_tree_if_the_archive_cannot_be_unpacked() {
    let bench = Bench::new(200);
    let whole = fs::read(bench.join("a.tar")).unwrap();
    // Within a block: at the end of a member it would only lack the blocks that end an archive.
    let cut = whole.len() / 2 / 512 * 512 + 100;
    fs::write(bench.join("truncated.tar"), &whole[..cut]).unwrap();
    fs::write(bench.join("text.tar"), "no archive\n".repeat(100)).unwrap();
    with_a_member_outside(&bench);
    let script = "mkdir etc; echo old >etc/old; chown 5:6 etc/old";
    made_by(&bench.scratch, "old", script);
    copy_old(&bench);
    let before = (root_snapshot(&bench.join("rootfs")), bench.scratch.names());
    let mut faults = Vec::new();
    for args in [
        &["text.tar", "rootfs"][..],
        &["truncated.tar", "rootfs"],
        &["outside.tar", "rootfs"],
        &["missing.tar", "rootfs"],
        &["a.tar", "rootfs", "no/such/member"],
        &["a.tar", "rootfs", "data", "no/such/member"],
    ] {
        let options = ["unpack", "--replace"].iter().chain(args).copied();
        let (status, said) = outcome(&run(&mut bench.isar(options)));
        let after = bench
            .join("rootfs")
            .exists()
            .then(|| root_snapshot(&bench.join("rootfs")));
        if status != Some(2) {
            faults.push(format!("{args:?}: {status:?} {said}"));
        }
        if after.as_ref() != Some(&before.0) {
            let now = after.map_or("gone".to_owned(), |files| format!("{} files", files.len()));
            faults.push(format!("{args:?}: the old tree is lost: {now}"));
            copy_old(&bench);
        }
        if bench.scratch.names() != before.1 {
            faults.push(format!("{args:?}: left: {:?}", bench.scratch.names()));
        }
    }
    assert_none(&faults);
}

#[test]
fn replace_that_is_stopped_by_a_signal_leaves_the_old_tree_or_the_new_one() {
    let bench = Bench::new(600);
    let new = bench.unpacked("new");
    bench.unpacked("old");
    let script = "cd \"$0\"; for f in data/*; do echo old >>$f; done; touch old";
    let mut change = crate::world::as_namespace_root("sh");
    succeed(change.args(["-euc", script]).arg(bench.join("old")));
    let old = bench.state("old");
    let command = bench.isar(["unpack", "--replace", "a.tar", "rootfs"]);
    copy_old(&bench);
    let beside = bench.scratch.names();
    let calls = trace(command, None).calls.len();
    let mut faults = Vec::new();
    for (signal, to) in [
        (Signal::TERM, To::First),
        (Signal::TERM, To::Group),
        (Signal::INT, To::First),
        (Signal::INT, To::Group),
        (Signal::KILL, To::First),
        (Signal::KILL, To::Group),
    ] {
        for part in 1..5 {
            copy_old(&bench);
            let stop = Stop {
                at: calls * part / 5,
                of: |_| true,
                signal,
                to,
            };
            let command = bench.isar(["unpack", "--replace", "a.tar", "rootfs"]);
            let run = trace(command, Some(stop));
            let mut note =
                |fault: &str| faults.push(format!("{signal:?} {to:?} at {part}/5: {fault}"));
            let found = bench.state("rootfs");
            if found != old && found != new {
                let files = found.as_ref().map_or(0, |files| files.len());
                note(&format!("{files} files, neither old nor new"));
            }
            if signal == Signal::KILL {
                let mut again = bench.isar(["unpack", "--replace", "a.tar", "rootfs"]);
                let again = again.output().unwrap();
                if !again.status.success() || bench.state("rootfs") != new {
                    note(&format!("the next run: {:?}", outcome(&again)));
                }
            } else if found == old && run.status.success() {
                // With the new tree it may have been stopped while it removed the old one.
                note("status 0 with the old tree");
            }
            if bench.scratch.names() != beside {
                note(&format!("left: {:?}", bench.scratch.names()));
                for name in bench
                    .scratch
                    .names()
                    .iter()
                    .filter(|name| !beside.contains(name))
                {
                    clear(&bench.join(name));
                }
            }
        }
    }
    assert_none(&faults);
}
