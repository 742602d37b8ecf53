//! A command in a pid namespace of its own.
//!
//! ```text
//!  outside (the caller) ── root of the place ── process 1 ── the command
//! ```
//!
//! Process 1 of a pid namespace takes no signal that it has no handler for, and inherits every
//! orphan. So it is not the command that is process 1, but a process of ours that passes signals on
//! and collects orphans. When the command ends, so does process 1, and the kernel kills what the
//! command has left running.
//!
//! The command stays in the caller's process group and so has its terminal; the processes between
//! are in groups of their own. What a terminal sends (Ctrl-C, Ctrl-Z) reaches the command once and
//! directly; what others send to the program is passed along the chain. What they send to the whole
//! group (`kill -- -PGID`) reaches the command twice, as nothing in the signal tells whether the
//! group or the program alone was meant.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use super::signals::Watched;
use crate::error::{Escaped, describe};
use crate::sys::{self, Forked};

/// Why no command was run; `E` is what went wrong while it was set up.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The namespaces cannot be made.
    #[error("make the namespaces of the command: {}{}", describe(.0), denied(.0))]
    Unshare(io::Error),
    /// Fork, signals or waiting failed.
    #[error("start or watch the command: {}", describe(.0))]
    Watch(io::Error),
    /// The command could not be set up.
    #[error("{0}")]
    Setup(E),
    /// The program cannot be run.
    #[error("run {}: {}", Escaped(program), describe(cause))]
    NotRun {
        /// The program.
        program: Vec<u8>,
        /// Why; part of the message and no `source()`.
        cause: io::Error,
    },
}

impl<E> Error<E> {
    /// The exit status that stands for it, as env(1) and chroot(1) have it: 127 for a program that
    /// is not there, 126 for one that cannot be run, else 125.
    pub fn status(&self) -> u8 {
        match self {
            Error::NotRun { cause, .. } if cause.kind() == io::ErrorKind::NotFound => 127,
            Error::NotRun { .. } => 126,
            _ => 125,
        }
    }
}

fn denied(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            ": only root may; leave out `--userns off` to be root of a user namespace"
        }
        _ => "",
    }
}

/// The signals of a command that is going to be run.
pub struct Init {
    signals: Watched,
}

impl Init {
    /// Begins to keep signals for the command, so that they do not end this process, which may now
    /// make what it has to take away again.
    pub fn new() -> io::Result<Init> {
        Ok(Init {
            signals: Watched::passed_and_children()?,
        })
    }

    /// Runs the command that `setup` gives, and waits for its end. Gives its exit status, or 128 +
    /// N when signal N killed it.
    ///
    /// `setup` is called in process 1, which has a mount namespace of its own: mounts go when the
    /// command ends. What goes wrong there is said by `report`, and the status is that of
    /// [`Error::status`]; what goes wrong before comes back as the error.
    ///
    /// To be called by a process with one thread that is root of its user namespace.
    pub fn run<E>(
        &self,
        setup: impl FnOnce() -> Result<Command, E>,
        report: impl FnOnce(&Error<E>),
    ) -> Result<u8, Error<E>> {
        sys::unshare_pids().map_err(Error::Unshare)?;
        let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
        let parent = parent.map_err(|error| Error::Watch(error.into()))?;
        match sys::fork().map_err(Error::Watch)? {
            Forked::Child => std::process::exit(self.be_first(&parent, setup, report).into()),
            Forked::Parent(first) => {
                leave_group();
                self.watch(first).map_err(Error::Watch)
            }
        }
    }

    /// The life of process 1.
    fn be_first<E>(
        &self,
        parent: &OwnedFd,
        setup: impl FnOnce() -> Result<Command, E>,
        report: impl FnOnce(&Error<E>),
    ) -> u8 {
        let begun = die_with(parent).and_then(|()| own_mounts());
        let started = begun
            .map_err(Error::Unshare)
            .and_then(|()| setup().map_err(Error::Setup))
            .and_then(|mut command| {
                match sys::fork().map_err(Error::Watch)? {
                    // Only a failure comes back.
                    Forked::Child => {
                        self.signals.release().map_err(Error::Watch)?;
                        let cause = command.exec();
                        // `exec` has given it the default action, for the command. Whoever does not
                        // read the error is to be told by the status.
                        sys::ignore(libc::SIGPIPE).map_err(Error::Watch)?;
                        Err(not_run(command.get_program().as_bytes(), cause))
                    }
                    Forked::Parent(command) => Ok(command),
                }
            });
        let ended = started.and_then(|command| {
            leave_group();
            self.watch(command).map_err(Error::Watch)
        });
        ended.unwrap_or_else(|error| {
            report(&error);
            error.status()
        })
    }

    /// Passes signals on to `child` and collects children until it is gone.
    fn watch(&self, child: Pid) -> io::Result<u8> {
        loop {
            while let Some(signal) = self.signals.next()? {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    // It can fail only when the child is gone, which is seen next.
                    let _ = rustix::process::kill_process(child, signal);
                }
            }
            while let Some((ended, status)) = rustix::process::wait(WaitOptions::NOHANG)? {
                if ended == child {
                    return Ok(code(status));
                }
            }
            match poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The search path of the caller may have directories that root of the namespace cannot search; a
/// program that stands in none of the others is not there.
fn not_run<E>(program: &[u8], cause: io::Error) -> Error<E> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |dir: PathBuf| dir.join(OsStr::from_bytes(program)).exists();
    let denied = cause.kind() == io::ErrorKind::PermissionDenied;
    let missing =
        denied && !program.contains(&b'/') && !std::env::split_paths(&search).any(is_there);
    Error::NotRun {
        program: program.to_vec(),
        cause: if missing { Errno::NOENT.into() } else { cause },
    }
}

fn code(status: WaitStatus) -> u8 {
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// What a terminal sends to the command's group is not for the processes that pass signals on. A
/// leader of a session has no such group.
fn leave_group() {
    let _ = rustix::process::setpgid(None, None);
}

/// As the process above lies outside of the pid namespace, it cannot be told by its number.
fn die_with(parent: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ended = [PollFd::new(parent, PollFlags::IN)];
    match poll(
        &mut ended,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )? {
        0 => Ok(()),
        _ => Err(Errno::SRCH.into()),
    }
}

/// Moves this process into a mount namespace whose mounts nobody else sees. What was opened before
/// belongs to the one that it leaves.
pub fn own_mounts() -> io::Result<()> {
    sys::unshare_mounts()?;
    Ok(rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}
