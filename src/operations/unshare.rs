//! A command as root of the namespace.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::container::{CommandStatus, init};
use super::session::Session;
use crate::chroot::proc::{self, Proc};
use crate::error::{Context, Error, ErrorKind, PathContext};
use crate::observer::{Notice, Observer};
use crate::userns::{self, Caller, HeldSignals, SignalPolicy, Supervision};

/// Runs a command in a user, mount and pid namespace.
#[derive(Clone, Debug)]
pub struct Unshare {
    /// The user namespace.
    pub session: Session,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Unshare {
    /// Runs `command`.
    pub fn new<W: Into<OsString>>(command: impl IntoIterator<Item = W>) -> Unshare {
        Unshare {
            session: Session::default(),
            command: command.into_iter().map(Into::into).collect(),
        }
    }

    /// Runs the command, with the caller's descriptors, working directory and environment.
    ///
    /// # Errors
    ///
    /// `CommandNotFound`, `CommandNotExecutable`, or what kept the command from being run.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<CommandStatus, Error> {
        let Some((program, rest)) = self.command.split_first() else {
            return Err(Error::new(ErrorKind::InvalidInput, "no command is given"));
        };
        let namespaces = self.session.namespaces(observer)?;
        let _held = HeldSignals::new()?;
        let supervision = Supervision {
            signals: SignalPolicy::Pass,
            ..Supervision::of_work(&namespaces.work, observer)
        };
        let status = userns::run(supervision, |caller| {
            init()?.run(caller, |caller| {
                renew_proc(caller)?;
                let mut command = Command::new(program);
                command.args(rest);
                Ok(command)
            })
        })
        .context(|| "cannot run the command")?;
        Ok(CommandStatus::new(status))
    }
}

/// Mounts a `/proc` that shows the processes of this pid namespace.
fn renew_proc(caller: &mut Caller) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = openat(CWD, "/proc", flags, Mode::empty()).at("/proc", "open")?;
    if proc::mount(at.as_fd()).at("/proc", "mount")? == Proc::Masked {
        caller.notice(Notice::ProcMasked);
    }
    Ok(())
}
