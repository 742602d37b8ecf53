//! Signals at random moments: whatever they hit, the old state or the new one is left, nothing
//! runs or is mounted any more, and the next run succeeds.
//!
//! TERM, INT or KILL goes to the program, to its child in the namespace, or to the whole process
//! group. By default each command is hit a few times. `ISAR_TARBALL_KILLS=1000` sends that many
//! signals, and prints the counts.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{AfterKill, BORROWED, Scenario, imager, with_old_tree};
use crate::random::{Random, wanted};
use crate::world::{succeed, text};

/// Signals per command, unless the environment asks for more.
const FEW: usize = 3;

/// How long the processes of a killed run may take to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who gets the signal.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Program,
    Child,
    Group,
}

/// All commands that write.
fn scenarios() -> Vec<Scenario> {
    let a_part = |mut scenario: Scenario| {
        scenario.after_kill = AfterKill::OrAPart;
        scenario
    };
    let with_archive = |args: &[&'static str], targets| {
        Scenario::new(args, targets).before(|scratch, before| {
            scratch.user_dir("before/state", 0o755);
            let mut pack = crate::world::isar_as_user(["pack", "--state", "state"]);
            succeed(pack.args(["tree", "new.tar.zst"]).current_dir(before));
            let mut change = crate::world::as_namespace_root("sh");
            succeed(
                change
                    .args(["-c", "echo new >\"$0\"/etc/new"])
                    .arg(before.join("tree")),
            );
        })
    };
    let mut removing = Scenario::new(
        &["pack", "--remove-source", "tree", "a.tar"],
        &["a.tar", "tree"],
    );
    removing.source = Some("tree");
    let chroot = [&["chroot"], &BORROWED[..], &["tree", "--", "true"]].concat();
    let reuse = [
        "pack",
        "--reuse",
        "new.tar.zst",
        "--state",
        "state",
        "tree",
        "new.tar.zst",
    ];
    vec![
        Scenario::new(&["pack", "tree", "a.tar"], &["a.tar"]),
        removing,
        with_archive(&reuse, &["new.tar.zst"]),
        Scenario::new(&["unpack", "a.tar", "rootfs"], &["rootfs"]),
        a_part(
            Scenario::new(&["unpack", "--merge", "a.tar", "rootfs"], &["rootfs"])
                .before(with_old_tree),
        ),
        Scenario::new(&["unpack", "--replace", "a.tar", "rootfs"], &["rootfs"])
            .before(with_old_tree),
        Scenario::new(&imager(&["--root", "rootfs"]), &[]),
        Scenario::new(&imager(&["--cache", "cache"]), &[]),
        a_part(Scenario::new(&chroot, &["tree"]).before(|_, before| {
            // The tree has what the host's programs need, and no /dev.
            let script = "mkdir -p \"$0\"/lib64 \"$0\"/proc \"$0\"/sys; rm -r \"$0\"/usr; mkdir \"$0\"/usr; ln -s usr/bin \"$0\"/bin; ln -s usr/lib \"$0\"/lib";
            let mut prepare = crate::world::as_namespace_root("sh");
            succeed(prepare.args(["-euc", script]).arg(before.join("tree")));
        })),
        Scenario::new(&["remove", "rootfs"], &["rootfs"]).before(with_old_tree),
        Scenario::new(&["export", "tree", "etc/passwd", "dest"], &["dest"]),
        a_part(Scenario::new(&["grant-acl", "--share", "shared"], &["shared"]).before(
            |scratch, before| {
                scratch.user_dir("before/shared", 0o755);
                let script = "cd \"$0\"; mkdir a b; touch a/1 a/2 b/3";
                let mut prepare = crate::world::as_user("sh");
                succeed(prepare.args(["-euc", script]).arg(before.join("shared")));
            },
        )),
    ]
}

#[test]
fn a_signal_at_any_moment_leaves_the_old_state_or_the_new_one() {
    let scenarios = scenarios();
    let each = wanted("ISAR_TARBALL_KILLS").map_or(FEW, |wanted| wanted.div_ceil(scenarios.len()));
    let mut random = Random::new();
    let (mut faults, mut hits) = (Vec::new(), 0);
    for scenario in &scenarios {
        let counted = scenario.hit(each, &mut random, &mut faults);
        eprintln!("{:?}: {counted} of {each} signals hit it", scenario.args);
        hits += counted;
    }
    assert!(hits > 0, "no signal hit a running command");
    assert!(
        faults.is_empty(),
        "{} faults of {hits} hits:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

impl Scenario {
    /// Sends `count` signals, each to a new run. Gives how many runs had not ended by then.
    fn hit(&self, count: usize, random: &mut Random, faults: &mut Vec<String>) -> usize {
        self.begin();
        let old = self.states();
        let begin = Instant::now();
        succeed(&mut self.command());
        let takes = begin.elapsed();
        let new = (self.states(), self.names());
        let mut hits = 0;
        for _ in 0..count {
            let signal = random.one_of(&[Signal::TERM, Signal::INT, Signal::KILL]);
            let victim = random.one_of(&[Victim::Program, Victim::Child, Victim::Group]);
            let after = takes.mul_f64(random.below(1000) as f64 / 1000.0);
            self.begin();
            let mut command = self.command();
            command.process_group(0).stdin(Stdio::null());
            let mut child = command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            sleep(after);
            let is_hit = child.try_wait().unwrap().is_none();
            send(&child, victim, signal);
            let (ended, said) = end(child);
            hits += usize::from(is_hit);
            let mut fault = |fault: String| {
                faults.push(format!(
                    "{:?}, {signal:?} to {victim:?} after {after:?}: {fault}",
                    self.args
                ));
            };
            if !ended.is_right(signal) || said.contains("panicked") {
                fault(format!("{ended:?} {said}"));
            }
            if ended.is_running {
                fault("a process is left".to_owned());
            }
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            if mounts.contains(&self.work().display().to_string()) {
                fault("a mount is left".to_owned());
            }
            // A plain unpack that had ended is refused the second time.
            let is_once = self.args[..2] == ["unpack", "a.tar"];
            if is_once && (self.states(), self.names()) == new {
                continue;
            }
            if let Err(left) = self.after_kill(&old, &new) {
                fault(left);
            }
        }
        hits
    }
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    /// Some process of it has not gone.
    is_running: bool,
}

impl Ended {
    /// Done before the signal came, or ended by it. A killed child is reported by a status.
    fn is_right(&self, signal: Signal) -> bool {
        let status = 128 + signal.as_raw();
        self.signal == Some(signal.as_raw()) || self.code == Some(0) || self.code == Some(status)
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

fn send(child: &Child, victim: Victim, signal: Signal) {
    let pid = pid(child);
    // What has just ended cannot be signalled.
    let _ = match victim {
        Victim::Program => kill_process(pid, signal),
        Victim::Group => kill_process_group(pid, signal),
        Victim::Child => {
            let raw = pid.as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{raw}/task/{raw}/children"));
            let children = children.unwrap_or_default();
            let first = children.split_whitespace().next();
            let first = first.and_then(|first| Pid::from_raw(first.parse().unwrap()));
            kill_process(first.unwrap_or(pid), signal)
        }
    };
}

/// Waits for all processes of the run.
fn end(child: Child) -> (Ended, String) {
    let group = child.id();
    let output = child.wait_with_output().unwrap();
    let begin = Instant::now();
    let is_running = loop {
        if !has_members(group) {
            break false;
        }
        if begin.elapsed() > PATIENCE {
            break true;
        }
        sleep(Duration::from_millis(2));
    };
    let ended = Ended {
        code: output.status.code(),
        signal: output.status.signal(),
        is_running,
    };
    (ended, text(&output.stderr))
}

/// Is any process in this process group, zombies aside?
fn has_members(group: u32) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // `pid (name) state ppid pgrp …`, where the name may have any characters.
    stats
        .filter_map(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()))
        .any(|rest| {
            let mut fields = rest.split(' ');
            fields.next() != Some("Z") && fields.nth(1) == Some(group.to_string().as_str())
        })
}
