//! Several runs at once in one directory.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::{Bench, assert_none, clear, outcome, start};
use crate::imager::BORROWED;
use crate::world::{names, program, run, succeed, user};

const AT_ONCE: usize = 4;

#[test]
fn one_of_several_unpacks_into_one_directory_wins_and_the_others_touch_nothing() {
    let bench = Bench::new(2000);
    let whole = bench.unpacked("reference");
    let mut faults = Vec::new();
    for round in 0..8 {
        let dir = format!("round{round}/rootfs");
        bench.scratch.user_dir(&format!("round{round}"), 0o755);
        if round % 2 == 1 {
            bench.scratch.user_dir(&dir, 0o755);
        }
        let runs: Vec<Child> = (0..AT_ONCE)
            .map(|_| start(&mut bench.isar(["unpack", "a.tar", &dir])))
            .collect();
        let mut winners = 0;
        for run in runs {
            match outcome(&run.wait_with_output().unwrap()) {
                (Some(0), _) => winners += 1,
                (Some(2), said) if said.contains("in use") || said.contains("not empty") => {}
                (status, said) => faults.push(format!("round {round}: {status:?}: {said}")),
            }
        }
        if winners != 1 {
            faults.push(format!(
                "round {round}: {winners} of {AT_ONCE} runs succeed"
            ));
        }
        if bench.state(&dir) != whole {
            faults.push(format!("round {round}: the tree is not whole"));
        }
        let left = names(&bench.join(&format!("round{round}")));
        if left != ["rootfs"] {
            faults.push(format!("round {round}: {left:?}"));
        }
    }
    assert_none(&faults);
}

#[test]
fn several_imagers_with_one_root_see_a_whole_tree_or_are_refused() {
    let bench = Bench::new(1000);
    let mut faults = Vec::new();
    for round in 0..6 {
        let runs: Vec<Child> = (0..AT_ONCE)
            .map(|_| start(&mut bench.imager(&["--root", "rootfs"], "sleep 0.1")))
            .collect();
        let mut winners = 0;
        for run in runs {
            match outcome(&run.wait_with_output().unwrap()) {
                (Some(0), _) => winners += 1,
                (Some(125), said) if said.contains("in use") => {}
                (status, said) => faults.push(format!("round {round}: {status:?}: {said}")),
            }
        }
        if winners == 0 {
            faults.push(format!("round {round}: no run succeeds"));
        }
        let left = bench.scratch.names();
        if left != ["a.tar"] {
            faults.push(format!("round {round}: {left:?} is left"));
            clear(&bench.join("rootfs"));
        }
    }
    assert_none(&faults);
}

#[test]
fn imagers_in_different_pid_namespaces_share_a_temporary_directory() {
    let bench = Bench::new(10);
    bench.scratch.user_dir("tmp", 0o755);
    let imager = || {
        let mut command = Command::new("unshare");
        command
            .args([
                "--pid",
                "--fork",
                "--mount-proc",
                "setpriv",
                "--init-groups",
            ])
            .args(["--reuid", crate::world::USER, "--regid", crate::world::USER])
            .args(["--reset-env", "env"])
            .arg(format!("TMPDIR={}", bench.join("tmp").display()))
            .arg(program())
            .arg("imager")
            .args(BORROWED)
            .args(["a.tar", "--", "sh", "-ec"])
            .arg(format!("{}; sleep 1", bench.sees_all()))
            .stdin(Stdio::null())
            .current_dir(bench.scratch.path());
        command
    };
    user();
    let runs = [start(&mut imager()), start(&mut imager())];
    let mut faults = Vec::new();
    for run in runs {
        match outcome(&run.wait_with_output().unwrap()) {
            (Some(0), _) => {}
            (status, said) => faults.push(format!("{status:?}: {said}")),
        }
    }
    assert_none(&faults);
    assert_eq!(names(&bench.join("tmp")), [""; 0]);
}

/// A command that runs in the tree `rootfs` until its stdin ends, and then fails unless the tree is
/// whole.
fn holder(bench: &Bench, verb: &str) -> Child {
    let script = format!("echo ready; read line || true; {}", bench.sees_all());
    let mut command = match verb {
        "chroot" => {
            let chroot = ["chroot"].iter().chain(&BORROWED);
            let chroot = chroot.chain(&["rootfs", "--", "sh", "-ec"]).copied();
            bench.isar(chroot.chain([script.as_str()]))
        }
        _ => bench.imager(&["--root", "rootfs"], &script),
    };
    crate::imager::start(command.stdin(Stdio::piped()))
}

#[test]
fn a_tree_with_a_command_in_it_is_neither_removed_nor_replaced() {
    let bench = Bench::new(20);
    let mut faults = Vec::new();
    for verb in ["chroot", "imager --root"] {
        for intruder in [
            &["remove", "rootfs"][..],
            &["unpack", "--replace", "a.tar", "rootfs"],
            &["pack", "--remove-source", "rootfs", "packed.tar"],
        ] {
            if verb == "chroot" {
                bench.unpacked("rootfs");
            }
            let mut holder = holder(&bench, verb);
            let during = bench.state("rootfs");
            let (status, said) = outcome(&run(&mut bench.isar(intruder.iter().copied())));
            let mut note = |fault: String| faults.push(format!("{verb}, {intruder:?}: {fault}"));
            if status != Some(2) || !said.contains("in use") {
                note(format!("not refused: {status:?} {said}"));
            }
            if bench.state("rootfs") != during {
                note("the tree has changed".to_owned());
            }
            drop(holder.stdin.take());
            if !holder.wait().unwrap().success() {
                note("the command in the tree has failed".to_owned());
            }
            let removed = run(&mut bench.isar(["remove", "rootfs"]));
            if !removed.status.success() || bench.scratch.names() != ["a.tar"] {
                note(format!("left: {:?}", bench.scratch.names()));
                for name in bench.scratch.names().iter().filter(|name| *name != "a.tar") {
                    clear(&bench.join(name));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn a_cache_with_a_task_in_it_is_not_removed() {
    let bench = Bench::new(20);
    let script = format!(
        "echo ready; read line || true; ls /usr/bin/env; {}",
        bench.sees_all()
    );
    let mut imager = bench.imager(&["--cache", "cache"], &script);
    let mut task = crate::imager::start(imager.stdin(Stdio::piped()));
    let (status, said) = outcome(&run(&mut bench.isar(["remove", "cache"])));
    task.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let task = task.wait().unwrap();
    assert!(
        status == Some(2) && said.contains("in use") && task.success(),
        "remove: {status:?} {said}; the task: {task}"
    );
    succeed(&mut bench.isar(["remove", "cache"]));
    assert_eq!(bench.scratch.names(), ["a.tar"]);
}
