//! A command in the tree of an archive, as an imager task of isar runs it.

mod job;
mod packages;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::archive::open_error;
use super::container::{CommandStatus, host_resolv_conf, mount_sources};
use super::session::{self, Session};
use super::unpack::plain_options;
use crate::chroot::{Bind, MountSources};
use crate::error::{Context, Error};
use crate::imager::cache::{self, Cache, CacheLimit};
use crate::observer::Observer;
use crate::progress::Progress;
use crate::unpack::Xattrs;
use crate::userns::init::Init;
use crate::userns::{self, Answer, HeldSignals, Isolation, SignalPolicy, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::directory::{Purpose, WorkDir};
use crate::workdir::rename::replaced;
use crate::workdir::shared::SharedDir;
use job::ImagerJob;
use packages::Packages;

/// Runs a command in the tree of an archive.
#[derive(Clone, Debug)]
pub struct Imager {
    /// The user namespace.
    pub session: Session,
    /// The archive, a file.
    pub archive: PathBuf,
    /// Where the tree is.
    pub directory: ImagerDirectory,
    /// Files and directories of the host that are mounted in the tree.
    pub binds: Vec<Bind>,
    /// Variables of the command's environment, which is otherwise the caller's.
    pub environment: Vec<(OsString, OsString)>,
    /// Restore extended attributes and ACLs.
    pub xattrs: bool,
    /// Fetch the package lists of all repositories first.
    pub update: bool,
    /// Packages to install first.
    pub packages: Vec<String>,
    /// A directory that provides package files and keeps new ones.
    pub download_directory: Option<PathBuf>,
    /// A file on which a shared lock is held while apt reads the repository and fetches packages.
    pub apt_lock: Option<PathBuf>,
    /// The command and its arguments; empty for `/bin/bash -s`.
    pub command: Vec<OsString>,
}

/// Where the tree of [`Imager`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagerDirectory {
    /// A new directory in `TMPDIR` or `/var/tmp`.
    Temporary,
    /// This directory, which is missing or empty, and removed in the end.
    Root(PathBuf),
    /// An overlay on a copy that is kept for later runs.
    Cache {
        /// The cache.
        directory: PathBuf,
        /// What its copies may hold.
        limit: CacheLimit,
    },
}

/// What the child asks the caller for.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// Something is about to be created: from here on there is something to remove.
    Begin,
    /// All of it is removed.
    Cleared,
    /// The next package file of the download directory.
    NextPackage,
    /// Keep the package file of this name, which comes with the request.
    KeepPackage(Vec<u8>),
    /// Lock the repository.
    LockRepository,
    /// Unlock it.
    UnlockRepository,
}

/// What the caller answers.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// It is done.
    Done,
    /// A package file, which comes with the answer.
    Package(Vec<u8>),
    /// There are no more package files.
    NoMorePackages,
    /// Another process holds the lock on the repository.
    Locked,
}

impl Imager {
    /// Runs `command` in the tree of `archive`, in a temporary directory.
    pub fn new<W: Into<OsString>>(
        archive: impl Into<PathBuf>,
        command: impl IntoIterator<Item = W>,
    ) -> Imager {
        Imager {
            session: Session::default(),
            archive: archive.into(),
            directory: ImagerDirectory::Temporary,
            binds: Vec::new(),
            environment: Vec::new(),
            xattrs: true,
            update: false,
            packages: Vec::new(),
            download_directory: None,
            apt_lock: None,
            command: command.into_iter().map(Into::into).collect(),
        }
    }

    /// Provides the tree, installs the packages, runs the command and removes everything again,
    /// after a failure and a signal too.
    ///
    /// # Errors
    ///
    /// `CommandNotFound`, `CommandNotExecutable`, or what kept the command from being run.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<CommandStatus, Error> {
        self.imager(observer)
            .context(|| format!("cannot run a command in the tree of {:?}", self.archive))
    }

    fn imager(&self, observer: &mut dyn Observer) -> Result<CommandStatus, Error> {
        let archive = File::open(&self.archive).map_err(|error| open_error("open", error))?;
        let namespaces = self.session.namespaces(observer)?;
        if namespaces.work == Isolation::None {
            // Nothing is unpacked for a command that cannot be run.
            Init::check()?;
        }
        let maps = session::maps(&namespaces.work)?;
        let (input, mut options) = plain_options(&namespaces.work)?;
        options.xattrs = match self.xattrs {
            true => Xattrs::AllButOverlays,
            false => Xattrs::None,
        };
        let threads = options.threads;
        let resolv_conf = host_resolv_conf()?;
        let mut packages = Packages::open(self, &namespaces)?;
        let progress = Progress::shared()?;
        // A signal that comes before there is a process to clean up waits for it.
        let _held = HeldSignals::new()?;
        let location = TreeLocation::claim(
            &self.directory,
            &namespaces,
            &cache::name(&maps, self.xattrs),
        )?;
        let job = ImagerJob {
            imager: self,
            location: &location,
            archive,
            input,
            options,
            resolv_conf,
            progress: &progress,
        };
        let (mut has_begun, mut is_cleared) = (false, false);
        let ended = userns::supervise(
            Supervision {
                isolation: &namespaces.work,
                signals: SignalPolicy::Pass,
                observer,
                progress: Some(&progress),
            },
            |ask, descriptor| {
                Ok(match ask {
                    Ask::Begin => {
                        has_begun = true;
                        Reply::Done.into()
                    }
                    Ask::Cleared => {
                        is_cleared = true;
                        Reply::Done.into()
                    }
                    Ask::NextPackage => match packages.next()? {
                        Some((name, file)) => Answer {
                            value: Reply::Package(name),
                            descriptor: Some(file),
                        },
                        None => Reply::NoMorePackages.into(),
                    },
                    Ask::KeepPackage(name) => {
                        packages.keep(&name, descriptor)?;
                        Reply::Done.into()
                    }
                    Ask::LockRepository => match packages.lock()? {
                        true => Reply::Done.into(),
                        false => Reply::Locked.into(),
                    },
                    Ask::UnlockRepository => {
                        packages.unlock();
                        Reply::Done.into()
                    }
                })
            },
            || sources(&location, &self.binds, &namespaces.work),
            |caller, sources| job.run(caller, &sources),
        );
        let tidied = location.tidy(&namespaces, has_begun, is_cleared, threads);
        // What kept the command from running is the first thing to report.
        let status = ended?;
        tidied?;
        Ok(CommandStatus::new(status))
    }
}

/// The directory of the tree, or of the cache, on the caller's side.
enum TreeLocation<'n> {
    /// For one tree.
    Root(Box<WorkDir<'n>>),
    /// For copies and runs.
    Cache {
        /// The part of the cache for the maps of this run.
        shared: SharedDir,
        /// The cache.
        directory: &'n Path,
        /// See [`ImagerDirectory::Cache`].
        limit: CacheLimit,
    },
}

impl<'n> TreeLocation<'n> {
    fn claim(
        directory: &'n ImagerDirectory,
        namespaces: &'n Namespaces,
        cache_name: &str,
    ) -> Result<TreeLocation<'n>, Error> {
        Ok(match directory {
            ImagerDirectory::Temporary => {
                let above = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
                let above = above.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
                TreeLocation::Root(Box::new(WorkDir::temporary(
                    &above,
                    "isar-tarball-imager",
                    namespaces,
                )?))
            }
            ImagerDirectory::Root(path) => {
                TreeLocation::Root(Box::new(WorkDir::claim(path, Purpose::Occupy, namespaces)?))
            }
            ImagerDirectory::Cache { directory, limit } => TreeLocation::Cache {
                shared: SharedDir::claim(directory, cache_name, namespaces)?,
                directory,
                limit: *limit,
            },
        })
    }

    fn path(&self) -> PathBuf {
        match self {
            TreeLocation::Root(target) => target.working_path(),
            TreeLocation::Cache { shared, .. } => shared.path().to_owned(),
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            TreeLocation::Root(target) => target.directory(),
            TreeLocation::Cache { shared, .. } => shared.directory(),
        }
    }

    /// Removes what the run has left: all of it, if it could not do so itself.
    fn tidy(
        self,
        namespaces: &Namespaces,
        has_begun: bool,
        is_cleared: bool,
        threads: usize,
    ) -> Result<(), Error> {
        match self {
            TreeLocation::Root(target) if has_begun => target.remove(),
            TreeLocation::Root(target) => target.abandon(|_| Ok(())),
            TreeLocation::Cache { shared, .. } if has_begun && !is_cleared => {
                userns::clean_up(&namespaces.work, || {
                    Cache::open(shared.directory())?.clear_leftovers(threads)
                })
                .context(|| "remove what the run has left")
            }
            TreeLocation::Cache { .. } => Ok(()),
        }
    }
}

/// Opens, in the mount namespace of the child, what it is going to work with.
fn sources(
    location: &TreeLocation<'_>,
    binds: &[Bind],
    isolation: &Isolation,
) -> Result<MountSources, Error> {
    let path = location.path();
    let sources = mount_sources(&path, binds, isolation)?;
    // The mount namespace is another one, so the directory is opened once more: it must be the
    // same.
    let id = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let is_same = matches!(
        (id(sources.root()), id(location.descriptor())),
        (Ok(opened), Ok(claimed)) if opened == claimed
    );
    match is_same {
        true => Ok(sources),
        false => Err(replaced(&path)),
    }
}
