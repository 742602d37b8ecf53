//! Faults that lost data, or let another user in: one test for each input that showed one.
//!
//! The program is used as a black box: command lines, exit statuses, messages, and what is on disk
//! afterwards.

mod at_once;
mod durable;
mod exchanged;
mod interrupted;
mod others;
mod outputs;
mod races;
mod replaced;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::imager::{BORROWED, pack_small};
use crate::kill::{State, state};
use crate::world::{Scratch, isar_as_user, succeed, text};

/// A directory of the test user with an archive `a.tar` in it.
struct Bench {
    scratch: Scratch,
    /// How many files the archive has in `data`.
    files: usize,
}

impl Bench {
    fn new(files: usize) -> Bench {
        let scratch = Scratch::new();
        pack_small(&scratch, "a.tar", files - 1);
        Bench { scratch, files }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The program as the test user, in the directory.
    fn isar<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = isar_as_user(args);
        command.current_dir(self.scratch.path());
        command
    }

    /// `imager` with these options and a script, which runs only in a whole tree.
    fn imager(&self, options: &[&str], script: &str) -> Command {
        let script = format!("{}; {script}", self.sees_all());
        let imager = ["imager"].iter().chain(options).chain(&BORROWED);
        let imager = imager.chain(&["a.tar", "--", "sh", "-ec"]).copied();
        self.isar(imager.chain([script.as_str()]))
    }

    /// Shell commands that fail unless the tree is whole.
    fn sees_all(&self) -> String {
        format!(
            "cd /data; [ $(cat name) = a.tar ]; [ $(ls | wc -l) = {} ]; for f in [0-9]*; do [ -s $f ]; done",
            self.files
        )
    }

    /// Unpacks the archive into a new directory, and gives what it should hold from now on.
    fn unpacked(&self, name: &str) -> State {
        succeed(&mut self.isar(["unpack", "a.tar", name]));
        let whole = self.state(name);
        assert!(whole.is_some());
        whole
    }

    fn state(&self, name: &str) -> State {
        state(&self.join(name))
    }
}

/// Starts a command whose output is read later.
fn start(command: &mut Command) -> std::process::Child {
    use std::process::Stdio;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The status of a run and what it said on stderr.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stderr))
}

/// Removes a tree of any owner.
fn clear(path: &Path) {
    succeed(Command::new("rm").arg("-rf").arg(path));
}

/// Fails with all faults that were noted.
fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
