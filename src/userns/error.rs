//! What keeps a process from entering a namespace, and what helps.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Classify, ErrorKind, Escaped, describe};

/// A step of the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Giving signals their default action.
    Signals,
    /// Asking to be killed when the parent dies.
    DeathSignal,
    /// StreamingCheck the namespaces.
    Unshare,
    /// Taking gid 0.
    Gid,
    /// Leaving the supplementary groups.
    Groups,
    /// Taking uid 0.
    Uid,
    /// Keeping mounts from spreading.
    Mounts,
    /// Giving `/proc/PID` back to the process.
    Dumpable,
}

impl Step {
    fn act(self) -> &'static str {
        match self {
            Step::Signals => "reset signals",
            Step::DeathSignal => "bind to the parent process",
            Step::Unshare => "create it",
            Step::Gid => "take gid 0",
            Step::Groups => "drop supplementary groups",
            Step::Uid => "take uid 0",
            Step::Mounts => "make mounts private",
            Step::Dumpable => "take back /proc/self",
        }
    }
}

/// Why no work was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fork, sockets, signals or waiting failed.
    #[error("cannot start or watch the working process: {}", describe(.0))]
    Supervise(io::Error),
    /// The process has several threads, so many of them.
    #[error(
        "cannot start the working process: this program has {0} threads, and only a program with \
         one can be forked: call this before other threads start, or in a helper process"
    )]
    Threads(usize),
    /// A step of the new process failed.
    #[error("cannot enter a user namespace: {}: {}{}", step.act(), describe(cause), tail(remedy))]
    Step {
        /// The step.
        step: Step,
        /// Why; part of the message and no `source()`.
        cause: io::Error,
        /// What forbids it and how to allow it, when that is known.
        remedy: Option<String>,
    },
    /// newuidmap or newgidmap is not there.
    #[error(
        "cannot enter a user namespace: {program} is not installed: install the package uidmap (shadow-utils elsewhere)"
    )]
    Missing {
        /// Which of the two.
        program: &'static str,
    },
    /// newuidmap or newgidmap cannot be started.
    #[error("cannot enter a user namespace: {}: run: {}", Escaped(path.as_os_str().as_bytes()), describe(cause))]
    NotRun {
        /// The program.
        path: PathBuf,
        /// Why; part of the message and no `source()`.
        cause: io::Error,
    },
    /// newuidmap or newgidmap runs without the privilege that it is there for.
    #[error(
        "cannot enter a user namespace: {} {why}{}",
        Escaped(path.as_os_str().as_bytes()),
        said(stderr)
    )]
    Powerless {
        /// The program.
        path: PathBuf,
        /// What takes the privilege away, and the remedy.
        why: Powerless,
        /// What the program said.
        stderr: String,
    },
    /// newuidmap or newgidmap refuses the map.
    #[error("cannot enter a user namespace: {} refuses the map ({status}){}{}", Escaped(path.as_os_str().as_bytes()), said(stderr), tail(remedy))]
    Refused {
        /// The program.
        path: PathBuf,
        /// `exit status: 1`.
        status: String,
        /// What the program said.
        stderr: String,
        /// What is the matter and what helps, when that is known.
        remedy: Option<String>,
    },
    /// Root cannot write the map itself.
    #[error("cannot enter a user namespace: write {}: {}", Escaped(path.as_os_str().as_bytes()), describe(cause))]
    WriteMap {
        /// `/proc/PID/uid_map` or `gid_map`.
        path: PathBuf,
        /// Why; part of the message and no `source()`.
        cause: io::Error,
    },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Supervise(_) => ErrorKind::Io,
            Error::Threads(_) => ErrorKind::MultiThreaded,
            _ => ErrorKind::Namespace,
        }
    }
}

/// What takes away the privilege of newuidmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Powerless {
    /// no_new_privs is set for this process.
    #[error(
        "cannot gain its privilege because no_new_privs is set: start without it (NoNewPrivileges= of systemd, --security-opt=no-new-privileges of containers)"
    )]
    NoNewPrivileges,
    /// The file has neither the bit nor capabilities.
    #[error(
        "is neither setuid root nor has file capabilities: as root, reinstall the package uidmap, or `chmod u+s` it"
    )]
    PlainFile,
    /// The file system is mounted nosuid.
    #[error("lies on a file system that is mounted nosuid: mount it without nosuid")]
    NoSuidMount,
    /// Setuid root, in a container whose processes cannot have CAP_SYS_ADMIN. The kernel then
    /// refuses what it writes.
    #[error(
        "is setuid root and may not set maps, because this container lacks CAP_SYS_ADMIN: start it with `--cap-add=SYS_ADMIN`, or in its image run `chmod u-s` and `setcap {0}+ep` on the program"
    )]
    BoundedSetuid(&'static str),
}

fn tail(remedy: &Option<String>) -> String {
    remedy
        .as_ref()
        .map(|remedy| format!(": {remedy}"))
        .unwrap_or_default()
}

fn said(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("; it says: {}", Escaped(&lines.join("; ")))
    }
}
