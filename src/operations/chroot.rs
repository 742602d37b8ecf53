//! A command in a tree.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::archive::open_tree;
use super::container::{
    CommandStatus, command, host_resolv_conf, init, mount_sources, run_in_tree,
};
use super::session::Session;
use super::tree_owner::ForeignOwner;
use crate::chroot::{Bind, resolv_conf};
use crate::error::{Context, Error, ErrorKind, PathContext};
use crate::observer::Observer;
use crate::userns::{self, HeldSignals, SignalPolicy, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::lock::{self, Mode};
use crate::workdir::opening::open_directory;

/// Runs a command in a tree.
#[derive(Clone, Debug)]
pub struct Chroot {
    /// The user namespace.
    pub session: Session,
    /// The tree.
    pub rootfs: PathBuf,
    /// Files and directories of the host that are mounted in the tree.
    pub binds: Vec<Bind>,
    /// Variables of the command's environment, which is otherwise the caller's.
    pub environment: Vec<(OsString, OsString)>,
    /// Write the host's resolv.conf into the tree first.
    pub resolv_conf: bool,
    /// The command and its arguments; empty for `/bin/bash -s`.
    pub command: Vec<OsString>,
}

impl Chroot {
    /// Runs `command` in `rootfs`.
    pub fn new<W: Into<OsString>>(
        rootfs: impl Into<PathBuf>,
        command: impl IntoIterator<Item = W>,
    ) -> Chroot {
        Chroot {
            session: Session::default(),
            rootfs: rootfs.into(),
            binds: Vec::new(),
            environment: Vec::new(),
            resolv_conf: false,
            command: command.into_iter().map(Into::into).collect(),
        }
    }

    /// Runs the command, with the caller's standard streams. Mount points that the tree lacked are
    /// gone afterwards. Any number of commands may run in one tree; nothing else may replace or
    /// remove it meanwhile.
    ///
    /// # Errors
    ///
    /// `CommandNotFound`, `CommandNotExecutable`, or what kept the command from being run.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<CommandStatus, Error> {
        self.chroot(observer)
            .map_err(|error| self.session.explain(error, &self.rootfs))
            .context(|| format!("cannot run a command in {:?}", self.rootfs))
    }

    fn chroot(&self, observer: &mut dyn Observer) -> Result<CommandStatus, Error> {
        let namespaces = self.session.namespaces(observer)?;
        let resolv_conf = match self.resolv_conf {
            true => host_resolv_conf()?,
            false => None,
        };
        let _held = HeldSignals::new()?;
        let status = userns::supervise(
            Supervision {
                signals: SignalPolicy::Pass,
                ..Supervision::of_work(&namespaces.work, observer)
            },
            |(), _| Ok(().into()),
            || mount_sources(&self.rootfs, &self.binds, &namespaces.work),
            |caller, sources| {
                let init = init()?;
                let locked = open_directory(sources.root(), b".").at("", "open the directory")?;
                lock::claim(&locked, Mode::Shared, &self.rootfs)?;
                if let Some(text) = &resolv_conf {
                    resolv_conf::write(sources.root(), text)?;
                }
                run_in_tree(&init, sources, caller, || {
                    Ok(command(&self.command, &self.environment))
                })
            },
        );
        match status {
            Err(error) if error.kind() == ErrorKind::ForeignTree => {
                Err(self.with_owner(error, &namespaces))
            }
            status => Ok(CommandStatus::new(status?)),
        }
    }

    /// The error with the owner of the tree.
    fn with_owner(&self, error: Error, namespaces: &Namespaces) -> Error {
        let owner = open_tree(&self.rootfs)
            .and_then(|root| ForeignOwner::of(root.as_fd(), &self.session, namespaces));
        match owner {
            Ok(Some(owner)) => {
                let text = format!("{error}: {}", owner.text());
                Error::new(ErrorKind::ForeignTree, text)
            }
            _ => error,
        }
    }
}
