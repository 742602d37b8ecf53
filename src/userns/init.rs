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
use std::path::Path;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::signals::{SignalPolicy, Watched};
use super::{Caller, diagnosis, obstacle};
use crate::error::{self, Classify, ErrorKind, Escaped, describe};
use crate::sys::{self, Forked};

/// Why no command was run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespaces cannot be created.
    #[error("create the namespaces of the command: {}", diagnosis::of_command_namespaces(.0))]
    Unshare(io::Error),
    /// Fork, signals or waiting failed.
    #[error("start or watch the command: {}", describe(.0))]
    Watch(io::Error),
    /// The program cannot be run.
    #[error("run {}: {}{}", Escaped(program), describe(cause), obstacle.iter().map(|text| format!(": {text}")).collect::<String>())]
    NotRun {
        /// The program.
        program: Vec<u8>,
        /// The reason; part of the message and no `source()`.
        cause: io::Error,
        /// More about a program that is there.
        obstacle: Option<String>,
    },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::NotRun {
                cause,
                obstacle: None,
                ..
            } if cause.kind() == io::ErrorKind::NotFound => ErrorKind::CommandNotFound,
            Error::NotRun { .. } => ErrorKind::CommandNotExecutable,
            Error::Unshare(cause) | Error::Watch(cause) => Classify::kind(cause),
        }
    }
}

/// The exit status of a process whose failure was reported to the caller.
const FAILED: u8 = 125;

/// Forks a process that has one thread.
fn fork() -> Result<Forked, error::Error> {
    match sys::fork().map_err(Error::Watch)? {
        Some(forked) => Ok(forked),
        None => Err(super::EnterError::Threads(sys::thread_count()).into()),
    }
}

/// The signals of a command that is going to be run.
pub struct Init {
    signals: Watched,
}

impl Init {
    /// Begins to keep signals for the command, so that they do not end this process, which may now
    /// make what it has to take away again.
    ///
    /// # Errors
    ///
    /// That of [`Init::check`], before anything is mounted.
    pub fn new() -> Result<Init, Error> {
        Init::check()?;
        Ok(Init {
            signals: SignalPolicy::Pass.watch().map_err(Error::Watch)?,
        })
    }

    /// Fails if this process may not create the namespaces of a command.
    pub fn check() -> Result<(), Error> {
        match diagnosis::has_admin() {
            true => Ok(()),
            false => Err(Error::Unshare(Errno::PERM.into())),
        }
    }

    /// Runs the command that `setup` gives, and waits for its end. Gives its exit status, or
    /// 128 + N when signal N killed it.
    ///
    /// `setup` is called in process 1, which has a mount namespace of its own: mounts go when the
    /// command ends. What goes wrong there is reported to `caller` as the failure of the work.
    ///
    /// To be called by a process with one thread that is root of its user namespace.
    pub fn run<A: Serialize, R: DeserializeOwned>(
        &self,
        caller: &mut Caller<A, R>,
        setup: impl FnOnce(&mut Caller<A, R>) -> Result<Command, error::Error>,
    ) -> Result<u8, error::Error> {
        // The command is root here, and could trace this process and process 1, or reach their
        // descriptors through /proc. Their address spaces belong to the namespace in which the
        // program was started, so no process of this one may inspect one that cannot be dumped.
        // exec takes that back for the command.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| Error::Watch(error.into()))?;
        sys::unshare_pids().map_err(Error::Unshare)?;
        // Only this process has the end for writing open for as long as it lives.
        let (ended, lives) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::Watch(error.into()))?;
        match fork()? {
            Forked::Child => {
                drop(lives);
                let status = self
                    .be_first(&ended, caller, setup)
                    .unwrap_or_else(|error| {
                        caller.fail(error);
                        FAILED
                    });
                sys::exit_now(status)
            }
            Forked::Parent(first) => {
                leave_group();
                let status = self.watch(first)?;
                drop(lives);
                match status.terminating_signal() {
                    Some(signal) => Err(lost(signal)),
                    None => Ok(code(status)),
                }
            }
        }
    }

    /// The life of process 1. An error of the process that becomes the command comes back too.
    fn be_first<A: Serialize, R: DeserializeOwned>(
        &self,
        parent_ended: &OwnedFd,
        caller: &mut Caller<A, R>,
        setup: impl FnOnce(&mut Caller<A, R>) -> Result<Command, error::Error>,
    ) -> Result<u8, error::Error> {
        die_with(parent_ended)
            .and_then(|()| own_mounts())
            .map_err(Error::Unshare)?;
        let mut command = setup(caller)?;
        match fork()? {
            // Only a failure comes back.
            Forked::Child => {
                self.signals.release().map_err(Error::Watch)?;
                sys::set_default_action(libc::SIGXFSZ).map_err(Error::Watch)?;
                let cause = command.exec();
                // `exec` gave SIGPIPE its default action, for the command.
                sys::ignore(libc::SIGPIPE).map_err(Error::Watch)?;
                Err(not_run(command.get_program().as_bytes(), cause).into())
            }
            Forked::Parent(command) => {
                leave_group();
                Ok(code(self.watch(command)?))
            }
        }
    }

    /// Passes signals on to `child` and collects children until it is gone.
    fn watch(&self, child: Pid) -> Result<WaitStatus, Error> {
        self.wait_for(child).map_err(Error::Watch)
    }

    fn wait_for(&self, child: Pid) -> io::Result<WaitStatus> {
        loop {
            while let Some(signal) = self.signals.next()? {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    // It can fail only when the child is gone, which is seen next.
                    let _ = rustix::process::kill_process(child, signal);
                }
            }
            while let Some((ended, status)) = rustix::process::wait(WaitOptions::NOHANG)? {
                if ended == child {
                    return Ok(status);
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
/// program that is in none of the others is missing.
fn not_run(program: &[u8], cause: io::Error) -> Error {
    let name = Path::new(OsStr::from_bytes(program));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let candidates = match program.contains(&b'/') {
        true => vec![name.to_owned()],
        false => std::env::split_paths(&search)
            .map(|dir| dir.join(name))
            .collect(),
    };
    let found = candidates.into_iter().find(|path| path.exists());
    let denied = cause.kind() == io::ErrorKind::PermissionDenied;
    let missing = denied && !program.contains(&b'/') && found.is_none();
    Error::NotRun {
        program: program.to_vec(),
        obstacle: found.and_then(|path| obstacle::of(&path, &cause)),
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

/// Binds this process's life to that of the process above, whose end of the pipe `ended` closes
/// when it ends. That process is outside of the pid namespace, so its number does not tell.
fn die_with(ended: &OwnedFd) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ended = [PollFd::new(ended, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut ended, Some(&now))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH.into()),
    }
}

/// The error for a process 1 that was killed, and the command with it.
fn lost(signal: i32) -> error::Error {
    error::Error::killed(
        "the command was killed because process 1 of its pid namespace was",
        signal,
    )
}

/// Moves this process into a mount namespace whose mounts no other process sees. What was opened before
/// belongs to the one that it leaves.
pub fn own_mounts() -> io::Result<()> {
    sys::unshare_mounts()?;
    Ok(rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}
