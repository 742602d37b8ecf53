//! Random sequences of commands on a small tree, with random faults, against a model.
//!
//! The model knows the tree, the archive and the unpacked tree after each command. A command that a
//! fault hits leaves each of them as it was or as a whole command leaves it, and nothing beside
//! them. The program runs as the ordinary user, because what the commands do to each other is in
//! names, locks and owners, which a fuzz target within one process does not have.
//!
//! `ISAR_TARBALL_SEQUENCES=1000` runs that many sequences instead of a few.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use crate::kill::{State, state};
use crate::random::wanted;
use crate::world::{Scratch, as_namespace_root, as_user, isar_as_user, program, succeed, text};

const SEQUENCES: usize = 6;

/// The names that a sequence leaves, beside states for `--reuse`.
const NAMES: [&str; 4] = [".a.tar.zst.state", "a.tar.zst", "out", "src"];

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Changes a file of the source.
    Change(u8),
    Pack {
        reuse: bool,
        remove_source: bool,
    },
    Unpack(Over),
    Remove,
    Diff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Nothing,
    Merge,
    Replace,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The signal, so many milliseconds after the start.
    Signal(i32, u8),
    /// No file may be larger, as on a full disk.
    FileSize(u8),
    FullOutput,
    ClosedOutput,
}

fn act() -> impl Strategy<Value = Act> {
    let pack = |(reuse, remove_source)| Act::Pack {
        reuse,
        remove_source,
    };
    let over = prop::sample::select(&[Over::Nothing, Over::Merge, Over::Replace][..]);
    prop_oneof![
        2 => any::<u8>().prop_map(Act::Change),
        3 => (any::<bool>(), prop::bool::weighted(0.25)).prop_map(pack),
        4 => over.prop_map(Act::Unpack),
        1 => Just(Act::Remove),
        2 => Just(Act::Diff),
    ]
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    let signal = prop::sample::select(&[libc::SIGTERM, libc::SIGINT, libc::SIGKILL][..]);
    let fault = prop_oneof![
        4 => (signal, 0u8..60).prop_map(|(signal, after)| Fault::Signal(signal, after)),
        2 => (0u8..4).prop_map(Fault::FileSize),
        1 => Just(Fault::FullOutput),
        1 => Just(Fault::ClosedOutput),
    ];
    prop::option::of(fault)
}

/// What is there, and what should be.
struct Model {
    scratch: Scratch,
    src: State,
    /// The bytes, and the tree that was packed.
    archive: Option<(Vec<u8>, State)>,
    out: State,
}

impl Model {
    fn new() -> Model {
        let scratch = Scratch::new();
        let mut model = Model {
            scratch,
            src: None,
            archive: None,
            out: None,
        };
        model.make_source();
        model
    }

    fn join(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn make_source(&mut self) {
        let src = self.scratch.namespace_dir("src");
        let script = "cd \"$0\"; mkdir a b; echo one >a/1; head -c 20000 /dev/urandom >b/2; ln a/1 b/1; chown 3:4 b; chmod 4750 a/1";
        succeed(as_namespace_root("sh").args(["-euc", script]).arg(&src));
        self.src = state(&src);
    }

    /// Runs the program, with a fault.
    fn run(&self, args: &[&str], fault: Option<Fault>) -> Output {
        let script = match fault {
            Some(Fault::FullOutput) => "exec \"$0\" \"$@\" >/dev/full".to_owned(),
            Some(Fault::ClosedOutput) => "exec \"$0\" \"$@\" >&-".to_owned(),
            // In blocks of 512 bytes.
            Some(Fault::FileSize(blocks)) => format!("ulimit -f {blocks}; exec \"$0\" \"$@\""),
            _ => "exec \"$0\" \"$@\"".to_owned(),
        };
        let mut command = as_user("sh");
        command
            .args(["-c", &script])
            .arg(program())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(self.scratch.path());
        let child = command.spawn().unwrap();
        if let Some(Fault::Signal(signal, after)) = fault {
            sleep(Duration::from_millis(after.into()));
            let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
            let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
            let _ = rustix::process::kill_process(pid, signal);
        }
        child.wait_with_output().unwrap()
    }

    /// The archive that `src` should become.
    fn packed(&self) -> Option<(Vec<u8>, State)> {
        self.src.as_ref()?;
        let reference = Scratch::new();
        let mut pack = isar_as_user(["pack"]);
        pack.arg(self.join("src")).arg(reference.join("r.tar.zst"));
        succeed(&mut pack);
        let bytes = fs::read(reference.join("r.tar.zst")).unwrap();
        Some((bytes, self.src.clone()))
    }

    fn step(&mut self, act: Act, fault: Option<Fault>) -> Result<(), String> {
        if let Act::Change(seed) = act {
            if self.src.is_none() {
                self.make_source();
            }
            let script = format!(
                "echo {seed} >\"$0\"/{}/{seed}",
                ["a", "b"][usize::from(seed % 2)]
            );
            succeed(
                as_namespace_root("sh")
                    .args(["-euc", &script])
                    .arg(self.join("src")),
            );
            self.src = state(&self.join("src"));
            return Ok(());
        }
        let args: Vec<&str> = match act {
            Act::Pack {
                reuse,
                remove_source,
            } => ["pack"]
                .into_iter()
                .chain(
                    reuse
                        .then_some(["--reuse", "a.tar.zst"])
                        .into_iter()
                        .flatten(),
                )
                .chain(remove_source.then_some("--remove-source"))
                .chain(["src", "a.tar.zst"])
                .collect(),
            Act::Unpack(Over::Nothing) => vec!["unpack", "a.tar.zst", "out"],
            Act::Unpack(Over::Merge) => vec!["unpack", "--merge", "a.tar.zst", "out"],
            Act::Unpack(Over::Replace) => vec!["unpack", "--replace", "a.tar.zst", "out"],
            Act::Remove => vec!["remove", "out"],
            Act::Diff | Act::Change(_) => vec!["diff", "src", "out"],
        };
        let (status, src, archive, out) = self.expected(act);
        let output = self.run(&args, fault);
        let said = text(&output.stderr);
        let code = output.status.code();
        if said.contains("panicked") || code == Some(101) {
            return Err(format!("{args:?}: {said}"));
        }
        if fault.is_none() && code != Some(status) {
            return Err(format!("{args:?}: {}, not {status}: {said}", output.status));
        }
        if let (Some(Fault::Signal(sent, _)), Some(got)) = (fault, output.status.signal())
            && sent != got
        {
            return Err(format!("{args:?}: {}: {said}", output.status));
        }
        self.compare(act, fault, (src, archive, out))
            .map_err(|error| format!("{args:?}: {}: {said}: {error}", output.status))
    }

    /// The status and the states after a whole run.
    #[allow(clippy::type_complexity)]
    fn expected(&self, act: Act) -> (i32, State, Option<(Vec<u8>, State)>, State) {
        let (mut src, mut archive, mut out) =
            (self.src.clone(), self.archive.clone(), self.out.clone());
        let mut status = 0;
        match act {
            Act::Change(_) => {}
            Act::Pack { remove_source, .. } => match self.packed() {
                Some(packed) => {
                    archive = Some(packed);
                    if remove_source {
                        src = None;
                    }
                }
                None => status = 2,
            },
            Act::Unpack(over) => match (&self.archive, &self.out, over) {
                (None, ..) | (_, Some(_), Over::Nothing) => status = 2,
                (Some((_, tree)), Some(old), Over::Merge) => {
                    let mut merged = old.clone();
                    merged.extend(tree.clone().unwrap());
                    out = Some(merged);
                }
                (Some((_, tree)), ..) => out = tree.clone(),
            },
            Act::Remove => out = None,
            Act::Diff => {
                status = match (&self.src, &self.out) {
                    (Some(src), Some(out)) if src == out => 0,
                    (Some(_), Some(_)) => 1,
                    _ => 2,
                }
            }
        }
        (status, src, archive, out)
    }

    /// Compares what is there with the old and the new states, and takes what is there.
    fn compare(
        &mut self,
        act: Act,
        fault: Option<Fault>,
        new: (State, Option<(Vec<u8>, State)>, State),
    ) -> Result<(), String> {
        let (src, out) = (state(&self.join("src")), state(&self.join("out")));
        let bytes = fs::read(self.join("a.tar.zst")).ok();
        let is_archive = |archive: &Option<(Vec<u8>, State)>| {
            archive.as_ref().map(|(bytes, _)| bytes) == bytes.as_ref()
        };
        let may_be_old = fault.is_some();
        let mut wrong = Vec::new();
        if src != new.0 && !(may_be_old && src == self.src) {
            wrong.push("the source");
        }
        let is_old_archive = may_be_old && is_archive(&self.archive);
        if !is_archive(&new.1) && !is_old_archive {
            wrong.push("the archive");
        }
        if src.is_none() && self.src.is_some() && !is_archive(&new.1) {
            wrong.push("the source is gone before its archive is there:");
        }
        // A merge says that files it has replaced do not come back.
        let is_merge = matches!(act, Act::Unpack(Over::Merge)) && may_be_old;
        if out != new.2 && !is_merge && !(may_be_old && out == self.out) {
            wrong.push("the unpacked tree");
        }
        if !wrong.is_empty() {
            return Err(format!("wrong: {}", wrong.join(", ")));
        }
        if is_archive(&new.1) {
            self.archive = new.1;
        }
        (self.src, self.out) = (src, out);
        let was_killed = matches!(fault, Some(Fault::Signal(libc::SIGKILL, _)));
        let left = self.scratch.names();
        let left: Vec<_> = left
            .iter()
            .filter(|name| !NAMES.contains(&name.as_str()))
            .collect();
        match left.first() {
            Some(name) if !was_killed => Err(format!("left: {name}")),
            // The same command clears what it has left when it was killed.
            Some(_) => self.step(act, None),
            None => Ok(()),
        }
    }
}

#[test]
fn any_sequence_of_commands_and_faults_leaves_what_whole_commands_leave() {
    let config = Config {
        cases: wanted("ISAR_TARBALL_SEQUENCES").unwrap_or(SEQUENCES) as u32,
        max_shrink_iters: 60,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    let steps = prop::collection::vec((act(), fault()), 1..12);
    let ran = TestRunner::new(config).run(&steps, |steps| {
        let mut model = Model::new();
        for (number, (act, fault)) in steps.into_iter().enumerate() {
            let done = model.step(act, fault);
            prop_assert!(
                done.is_ok(),
                "step {number}, {fault:?}: {}",
                done.unwrap_err()
            );
        }
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}
