//! Running a command in a tree: what `chroot` and `imager` share.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::fs::fstat;
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::archive::{open_error, open_tree};
use crate::chroot::proc::Proc;
use crate::chroot::{MountSources, Prepared, search_path};
use crate::error::{Classify, Error, ErrorKind, PathContext};
use crate::observer::Notice;
use crate::userns::init::{Init, own_mounts};
use crate::userns::{Caller, Isolation};

/// How a command ended: its exit status, or 128 + N if signal N killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandStatus(u8);

impl CommandStatus {
    pub(super) fn new(code: u8) -> CommandStatus {
        CommandStatus(code)
    }

    /// The number, as a shell has it in `$?`.
    pub fn code(self) -> u8 {
        self.0
    }

    /// True for 0.
    pub fn is_success(self) -> bool {
        self.0 == 0
    }
}

/// The command, or a shell that reads stdin, with its environment.
pub(super) fn command(words: &[OsString], environment: &[(OsString, OsString)]) -> Command {
    let mut command = match words.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest);
            command
        }
        None => {
            let mut shell = Command::new("/bin/bash");
            shell.arg("-s");
            shell
        }
    };
    command.env("PATH", search_path(std::env::var_os("PATH")));
    command.envs(environment.iter().cloned());
    command
}

/// Runs a command in the tree of `sources`, and removes the mount points that it needed. Gives its
/// exit status. This can be done once in a process.
///
/// # Errors
///
/// `ForeignTree` if the mount points cannot be created in a tree that does not belong to root of
/// the namespace.
pub(super) fn run_in_tree<A: Serialize, R: DeserializeOwned>(
    init: &Init,
    sources: MountSources,
    caller: &mut Caller<A, R>,
    command: impl FnOnce() -> Result<Command, Error>,
) -> Result<u8, Error> {
    let is_foreign =
        fstat(sources.root()).is_ok_and(|stat| !geteuid().is_root() || stat.st_uid != 0);
    let prepared = Prepared::new(sources).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied if is_foreign => {
            Error::new(ErrorKind::ForeignTree, error.to_string())
        }
        _ => error.into(),
    })?;
    let status = init.run(caller, |caller| {
        if prepared.enter()? == Proc::Masked {
            caller.notice(Notice::ProcMasked);
        }
        command()
    });
    let cleared = prepared.clear();
    let status = status?;
    cleared?;
    Ok(status)
}

/// The text of the host's resolv.conf; `None` if it has none.
pub(super) fn host_resolv_conf() -> Result<Option<Vec<u8>>, Error> {
    const PATH: &str = "/etc/resolv.conf";
    match fs::read(PATH) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Ok(Err(error).at(PATH, "read")?),
    }
}

/// Starts to keep signals for the command.
pub(super) fn init() -> Result<Init, Error> {
    Ok(Init::new()?)
}

/// Opens the tree at `path` as the caller, in the mount namespace of the child, which gets one of
/// its own if it has none yet.
pub(super) fn mount_sources(
    path: &Path,
    binds: &[crate::chroot::Bind],
    isolation: &Isolation,
) -> Result<MountSources, Error> {
    if *isolation == Isolation::None {
        Init::check()?;
        own_mounts().map_err(|error| open_error("create a mount namespace", error))?;
    }
    Ok(MountSources::open(open_tree(path)?, binds)?)
}
