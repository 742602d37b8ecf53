//! A kill before every state transition leaves the old state or the new one.
//!
//! Each command runs once to its end under a tracer that lists the system calls which change names,
//! owners, modes, content, locks or mounts. Then it runs once per such call, and SIGKILL before the
//! call ends the process that makes it, or the whole run. After each kill the targets are compared
//! with the states before and after a whole run, and the same command runs again: it must succeed
//! and leave what a run leaves that was never killed, with no other name beside it.

mod at_random;
pub mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use crate::imager::{BORROWED, pack_small};
use crate::rootfs::made_by;
use crate::world::{Scratch, as_user, isar_as_user, program, succeed, text, user};
use trace::{Call, Stop, To, trace};

/// About how often a command is killed in each way, where it has more calls.
const RUNS: usize = 40;

/// The calls that change what a name leads to, what is valid, or who owns it as a whole. A command
/// has few of them, and is killed before each; the others come once per member or mount.
const STEPS: [&str; 11] = [
    "rename",
    "renameat",
    "renameat2",
    "linkat",
    "flock",
    "fsync",
    "fdatasync",
    "syncfs",
    "fsetxattr",
    "fremovexattr",
    "rmdir",
];

/// A command, and the directory that it works in.
struct Scenario {
    scratch: Scratch,
    args: Vec<&'static str>,
    /// What the command changes, in this order.
    targets: &'static [&'static str],
    after_kill: AfterKill,
    /// A directory that the command removes at its end. Once it is gone, the next run must refuse.
    source: Option<&'static str>,
}

/// What a kill may leave under the names of the targets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterKill {
    OldOrNew,
    /// Also a part of the new state, which the next run recognises, clears and makes anew.
    OrAPart,
}

/// Every file of a tree: path and what is known of it. `None` where there is no tree.
pub type State = Option<BTreeMap<PathBuf, String>>;

impl Scenario {
    /// With a directory of the test user that holds an archive, its tree, and another tree.
    fn new(args: &[&'static str], targets: &'static [&'static str]) -> Scenario {
        let scratch = Scratch::new();
        let before = scratch.user_dir("before", 0o755);
        scratch.user_dir("before/tmp", 0o755);
        let small = Scratch::new();
        fs::copy(pack_small(&small, "small.tar", 3), before.join("a.tar")).unwrap();
        chown(before.join("a.tar"), Some(user().uid), Some(user().gid)).unwrap();
        made_by(
            &scratch,
            "before/tree",
            "mkdir -p etc usr/bin; echo root >etc/passwd; echo ls >usr/bin/ls; ln -s ls usr/bin/dir; chown 5:6 etc/passwd",
        );
        Scenario {
            scratch,
            args: args.to_vec(),
            targets,
            after_kill: AfterKill::OldOrNew,
            source: None,
        }
    }

    /// Something in the directory before the command.
    fn before(self, prepare: impl FnOnce(&Scratch, &Path)) -> Scenario {
        prepare(&self.scratch, &self.scratch.join("before"));
        self
    }

    fn work(&self) -> PathBuf {
        self.scratch.join("work")
    }

    /// Makes the directory anew.
    fn begin(&self) {
        succeed_quietly(Command::new("rm").arg("-rf").arg(self.work()));
        let mut copy = Command::new("cp");
        succeed_quietly(
            copy.arg("-a")
                .args([self.scratch.join("before"), self.work()]),
        );
    }

    fn command(&self) -> Command {
        let mut command = as_user("env");
        command
            .arg(format!("TMPDIR={}/tmp", self.work().display()))
            .arg(program())
            .args(&self.args)
            .current_dir(self.work());
        command
    }

    fn states(&self) -> Vec<State> {
        let state = |name: &&str| state(&self.work().join(name));
        self.targets.iter().map(state).collect()
    }

    /// All names below the directory. The index of a cache is written only for an archive that has
    /// not changed for some seconds.
    fn names(&self) -> BTreeSet<PathBuf> {
        let names = state(&self.work()).unwrap().into_keys();
        names.filter(|path| !path.ends_with("index")).collect()
    }

    /// Kills the command at every point, in both ways.
    fn check(&self) {
        let begin = Instant::now();
        self.begin();
        let old = self.states();
        let whole = trace(self.command(), None);
        assert!(whole.status.success(), "{}", whole.said);
        let new = (self.states(), self.names());
        let mut failures = Vec::new();
        let mut points_met = 0;
        for (to, offset) in [(To::Caller, 0), (To::Group, 1)] {
            for at in points(&whole.calls, offset) {
                self.begin();
                let stop = Stop {
                    at,
                    of: |_| true,
                    signal: Signal::KILL,
                    to,
                };
                let killed = trace(self.command(), Some(stop));
                let Some(call) = killed.stopped_at else {
                    // Threads do not always make the same calls.
                    continue;
                };
                points_met += 1;
                if let Err(fault) = self.after_kill(&old, &new) {
                    failures.push(format!("{to:?}, call {at}, {call}: {fault}"));
                }
            }
        }
        eprintln!(
            "{:?}: {} calls, killed at {points_met} points in {:.1} s",
            self.args,
            whole.calls.len(),
            begin.elapsed().as_secs_f32()
        );
        assert!(points_met > 0, "the command was never killed");
        assert!(
            failures.is_empty(),
            "{} of {points_met} points:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }

    /// Looks at what a kill has left, and runs the command again.
    fn after_kill(
        &self,
        old: &[State],
        new: &(Vec<State>, BTreeSet<PathBuf>),
    ) -> Result<(), String> {
        let states = self.states();
        let again = self.run_again(new);
        if self.after_kill == AfterKill::OldOrNew && !is_a_step(&states, old, &new.0) {
            let left = self.shown(&states, old, &new.0);
            let then = again.err().map(|fault| format!("; then {fault}"));
            return Err(format!("it left {left}{}", then.unwrap_or_default()));
        }
        again
    }

    /// Runs the command again, to its end, and compares what is there then with `new`: the states
    /// of the targets, and all names.
    fn run_again(&self, new: &(Vec<State>, BTreeSet<PathBuf>)) -> Result<(), String> {
        let is_refused = self
            .source
            .is_some_and(|source| !self.work().join(source).exists());
        let output = self.command().output().unwrap();
        let said = text(&output.stderr);
        let mut faults = Vec::new();
        if is_refused {
            let names_both = ["\"tree\"", "\"a.tar\""]
                .iter()
                .all(|name| said.contains(name));
            if output.status.code() != Some(2) || !names_both {
                faults.push(format!(
                    "the source is gone, but: {}: {said}",
                    output.status
                ));
            }
        } else if !output.status.success() {
            faults.push(format!("the next run fails: {}: {said}", output.status));
        }
        let states = self.states();
        if states != new.0 {
            faults.push(format!(
                "the next run leaves something else: {}",
                self.shown(&states, &new.0, &new.0)
            ));
        }
        let names = self.names();
        for (what, names) in [
            ("left over", names.difference(&new.1)),
            ("missing", new.1.difference(&names)),
        ] {
            let names: Vec<_> = names.collect();
            if let Some(first) = names.first() {
                faults.push(format!("{what}: {first:?} ({} names)", names.len()));
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults.join("; "))
        }
    }

    /// The targets that are neither old nor new, in few words.
    fn shown(&self, states: &[State], old: &[State], new: &[State]) -> String {
        let mut shown = Vec::new();
        for (index, name) in self.targets.iter().enumerate() {
            let word = match &states[index] {
                state if *state == new[index] => "new".to_owned(),
                state if *state == old[index] => "old".to_owned(),
                None => "gone".to_owned(),
                Some(files) => format!("{} files, neither old nor new", files.len()),
            };
            shown.push(format!("{name} {word}"));
        }
        shown.join(", ")
    }
}

/// Before which calls the command is killed, from 1.
fn points(calls: &[Call], offset: usize) -> Vec<usize> {
    let step = calls.len().div_ceil(RUNS);
    let is_point =
        |at: &usize| (at + offset).is_multiple_of(step) || STEPS.contains(&calls[at - 1].name);
    (1..=calls.len()).filter(is_point).collect()
}

/// Has the command changed the first targets, and none behind them?
fn is_a_step(states: &[State], old: &[State], new: &[State]) -> bool {
    (0..=states.len()).any(|done| states[..done] == new[..done] && states[done..] == old[done..])
}

/// What is there under a path.
pub fn state(path: &Path) -> State {
    fs::symlink_metadata(path).ok()?;
    let entry = |entry: walkdir::DirEntry| {
        let below = entry.path().strip_prefix(path).unwrap().to_owned();
        (below, described(entry.path()))
    };
    let entries = walkdir::WalkDir::new(path).into_iter();
    Some(entries.map(|found| entry(found.unwrap())).collect())
}

/// What must not change of a file; `rootfs::snapshot` starts Python, which takes too long here.
fn described(path: &Path) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let owner = format!("{}:{} {:o}", stat.uid(), stat.gid(), stat.mode());
    let kind = stat.file_type();
    let content = if kind.is_file() {
        text(&fs::read(path).unwrap())
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().display().to_string()
    } else if kind.is_dir() {
        String::new()
    } else {
        assert!(kind.is_fifo() || kind.is_char_device(), "{path:?}");
        kind.is_fifo().to_string()
    };
    format!("{owner} {content}")
}

fn succeed_quietly(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The tree that `unpack --replace` and `remove` find.
fn with_old_tree(_: &Scratch, before: &Path) {
    let script = "mkdir etc; echo old >etc/old; echo old >old; chown 7:8 old";
    let old = Scratch::new();
    let tree = made_by(&old, "old", script);
    succeed_quietly(
        Command::new("cp")
            .arg("-a")
            .args([tree, before.join("rootfs")]),
    );
}

#[test]
fn pack_leaves_the_old_archive_or_the_new_one() {
    Scenario::new(&["pack", "tree", "a.tar"], &["a.tar"]).check();
}

#[test]
fn a_digest_appears_only_after_its_archive() {
    let args = ["pack", "--digest", "digest", "tree", "new.tar.zst"];
    Scenario::new(&args, &["new.tar.zst", "digest"]).check();
}

#[test]
fn pack_removes_a_source_as_a_whole_and_only_after_its_archive_is_in_place() {
    let args = ["pack", "--remove-source", "tree", "a.tar"];
    let mut scenario = Scenario::new(&args, &["a.tar", "tree"]);
    scenario.source = Some("tree");
    scenario.check();
}

#[test]
fn unpack_creates_a_whole_directory_or_none() {
    Scenario::new(&["unpack", "a.tar", "rootfs"], &["rootfs"]).check();
}

#[test]
fn unpack_clears_what_a_killed_run_has_left_in_an_empty_directory() {
    let mut scenario = Scenario::new(&["unpack", "a.tar", "rootfs"], &["rootfs"])
        .before(|scratch, _| _ = scratch.user_dir("before/rootfs", 0o755));
    scenario.after_kill = AfterKill::OrAPart;
    scenario.check();
}

#[test]
fn unpack_replace_leaves_the_old_tree_or_the_new_one() {
    let args = ["unpack", "--replace", "a.tar", "rootfs"];
    Scenario::new(&args, &["rootfs"])
        .before(with_old_tree)
        .check();
}

#[test]
fn remove_leaves_a_whole_tree_or_none() {
    Scenario::new(&["remove", "rootfs"], &["rootfs"])
        .before(with_old_tree)
        .check();
}

#[test]
fn export_leaves_the_old_file_or_the_new_one() {
    Scenario::new(&["export", "tree", "etc/passwd", "dest"], &["dest"])
        .before(|_, before| {
            fs::write(before.join("dest"), "old").unwrap();
            chown(before.join("dest"), Some(user().uid), Some(user().gid)).unwrap();
        })
        .check();
}

/// A command of imager that ends with 0 only in a whole tree of the archive.
const SEES_ALL: [&str; 5] = [
    "a.tar",
    "--",
    "sh",
    "-ec",
    "cd /data; [ $(cat name) = small.tar ]; [ $(cat 0 1 2 | wc -c) = 300 ]; [ $(ls / | wc -l) -ge 7 ]",
];

fn imager(place: &[&'static str]) -> Vec<&'static str> {
    [&["imager"], place, &BORROWED[..], &SEES_ALL].concat()
}

#[test]
fn imager_clears_the_root_of_a_killed_run() {
    Scenario::new(&imager(&["--root", "rootfs"]), &[]).check();
}

#[test]
fn imager_clears_the_temporary_directory_of_a_killed_run() {
    Scenario::new(&imager(&[]), &[]).check();
}

#[test]
fn imager_never_uses_a_copy_that_a_killed_run_has_not_finished() {
    Scenario::new(&imager(&["--cache", "cache"]), &[]).check();
}

#[test]
fn imager_uses_a_cache_whose_last_run_was_killed() {
    let args = imager(&["--cache", "cache"]);
    Scenario::new(&args, &[])
        .before(|_, before| {
            succeed(isar_as_user(&args).current_dir(before));
        })
        .check();
}
