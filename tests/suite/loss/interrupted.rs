//! Removals that a signal stops.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use super::{Bench, assert_none, clear, outcome};
use crate::kill::trace::{Call, Stop, To, trace};
use crate::world::succeed;

fn removes(call: &Call) -> bool {
    matches!(call.name, "unlinkat" | "unlink" | "rmdir")
}

#[test]
fn a_source_that_pack_was_removing_is_never_packed_again() {
    let bench = Bench::new(1500);
    let tree = bench.unpacked("whole");
    succeed(&mut bench.isar(["pack", "whole", "full.tar.zst"]));
    let archive = fs::read(bench.join("full.tar.zst")).unwrap();
    let pack = || bench.isar(["pack", "--remove-source", "tree", "packed.tar.zst"]);
    let beside = ["a.tar", "full.tar.zst", "packed.tar.zst", "whole"];
    let mut faults = Vec::new();
    for (signal, at) in [
        (Signal::KILL, 1),
        (Signal::KILL, 2),
        (Signal::KILL, 200),
        (Signal::KILL, 1400),
        (Signal::TERM, 2),
        (Signal::TERM, 200),
        (Signal::TERM, 1400),
    ] {
        clear(&bench.join("packed.tar.zst"));
        let mut copy = Command::new("cp");
        succeed(
            copy.arg("-a")
                .args([bench.join("whole"), bench.join("tree")]),
        );
        let stop = Stop {
            at,
            of: removes,
            signal,
            to: To::Group,
        };
        let stopped = trace(pack(), Some(stop));
        let mut note = |fault: &str| faults.push(format!("{signal:?} at file {at}: {fault}"));
        assert!(stopped.stopped_at.is_some(), "{}", stopped.said);
        let found = bench.state("tree");
        if found.is_some() && found != tree {
            let files = found.as_ref().map_or(0, |files| files.len());
            note(&format!("the source has {files} files left"));
        }
        let (status, said) = outcome(&pack().output().unwrap());
        let is_right = match &found {
            Some(_) => status == Some(0),
            None => {
                status == Some(2) && said.contains("\"tree\"") && said.contains("packed.tar.zst")
            }
        };
        if !is_right {
            note(&format!("the next run: {status:?} {said}"));
        }
        let packed = fs::read(bench.join("packed.tar.zst")).unwrap_or_default();
        if packed != archive {
            note(&format!(
                "the archive has lost files: {} bytes",
                packed.len()
            ));
        }
        if bench.scratch.names() != beside {
            note(&format!("left: {:?}", bench.scratch.names()));
            for name in bench.scratch.names() {
                if !beside.contains(&name.as_str()) {
                    clear(&bench.join(&name));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_copy_that_remove_was_removing_is_never_used() {
    let bench = Bench::new(12);
    let mut faults = Vec::new();
    for to in [To::Caller, To::Group] {
        for at in 1.. {
            succeed(&mut bench.imager(&["--cache", "cache"], "true"));
            let stop = Stop {
                at,
                of: |_| true,
                signal: Signal::KILL,
                to,
            };
            let stopped = trace(bench.isar(["remove", "cache"]), Some(stop));
            let Some(call) = stopped.stopped_at else {
                break;
            };
            let next = bench
                .imager(&["--cache", "cache"], "true")
                .output()
                .unwrap();
            if !next.status.success() {
                faults.push(format!("{to:?}, call {at}, {call}: {:?}", outcome(&next)));
                clear(&bench.join("cache"));
            }
            let removed = bench.isar(["remove", "cache"]).output().unwrap();
            if !removed.status.success() || bench.scratch.names() != ["a.tar"] {
                let left = bench.scratch.names();
                faults.push(format!("{call}: left {left:?}: {:?}", outcome(&removed)));
                clear(&bench.join("cache"));
            }
        }
    }
    assert_none(&faults);
}
