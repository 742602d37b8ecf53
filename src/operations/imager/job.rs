//! The child's work, as root of the namespace: the tree, the packages, the command, and the removal
//! of all of it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::{Ask, Imager, Reply, TreeLocation};
use crate::chroot::points::{self, Kind};
use crate::chroot::{MountSources, resolv_conf, search_path};
use crate::error::{Context, Error, ErrorKind, Escaped, PathContext, describe};
use crate::imager::Archive;
use crate::imager::apt::{self, Archives, Step};
use crate::imager::cache::{Cache, CacheLimit, Origin};
use crate::observer::Notice;
use crate::operations::container::{command, init, run_in_tree};
use crate::progress::Progress;
use crate::userns::{self, Isolation, SignalPolicy, Supervision};
use crate::workdir::removal;
use crate::{input, unpack};

/// Time between two tries of a lock that another process holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);

/// Why apt finds no package.
const NO_LISTS: &str = "the tree has no package lists, so apt knows no package: fetch them first";

type Caller = userns::Caller<Ask, Reply>;

/// One run.
pub struct ImagerJob<'a> {
    pub imager: &'a Imager,
    pub location: &'a TreeLocation<'a>,
    pub archive: File,
    pub input: input::Options,
    pub options: unpack::Options,
    /// The text of the host's file.
    pub resolv_conf: Option<Vec<u8>>,
    pub progress: &'a Progress,
}

impl ImagerJob<'_> {
    /// Everything, in the directory and with the files of `sources`. Gives the exit status.
    pub fn run(&self, caller: &mut Caller, sources: &MountSources) -> Result<u8, Error> {
        match self.location {
            TreeLocation::Root(target) => {
                caller.ask(Ask::Begin)?;
                target.begin()?;
                self.run_at_root(caller, sources)
            }
            TreeLocation::Cache {
                directory, limit, ..
            } => self.run_in_cache(caller, sources, directory, *limit),
        }
    }

    fn run_at_root(&self, caller: &mut Caller, sources: &MountSources) -> Result<u8, Error> {
        let root = sources.root();
        let done = self
            .unpack(caller, |archive| archive.unpack(root, None))
            .and_then(|_| self.work(caller, sources, root));
        let options = removal::Options::all(self.options.threads);
        let cleared = removal::contents(root, &options).map(drop);
        caller.ask(Ask::Cleared)?;
        ended(done, cleared.context(|| "remove what the run has created"))
    }

    fn run_in_cache(
        &self,
        caller: &mut Caller,
        sources: &MountSources,
        directory: &Path,
        limit: CacheLimit,
    ) -> Result<u8, Error> {
        let threads = self.options.threads;
        let cache = Cache::open(sources.root())?;
        caller.ask(Ask::Begin)?;
        if let Err(error) = cache.clear_leftovers(threads) {
            caller.notice(Notice::LeftoversKept(error.to_string()));
        }
        let tree = self.unpack(caller, |archive| cache.tree(archive))?;
        caller.notice(match &tree.origin {
            Origin::Found => Notice::CopyFound,
            Origin::Unpacked => Notice::CopyCreated,
            Origin::NoOverlay(cause) => Notice::NoOverlay {
                cache: directory.to_string_lossy().into_owned(),
                reason: describe(cause),
            },
        });
        let done = self.work(caller, sources, tree.root());
        let pruned = cache.prune_if_free(limit, tree.run(), threads);
        if let Ok(count @ 1..) = pruned {
            caller.notice(Notice::CopiesRemoved(count));
        }
        let cleared = cache.end(tree, threads);
        caller.ask(Ask::Cleared)?;
        ended(done, pruned.and(cleared))
    }

    /// Does what may unpack the archive, and shows its progress.
    fn unpack<T>(
        &self,
        caller: &mut Caller,
        work: impl FnOnce(&Archive<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let length = self.archive.metadata().at("the archive", "stat")?.len();
        self.progress.total().store(length, Ordering::Relaxed);
        let done = work(&Archive {
            file: &self.archive,
            input: self.input,
            options: self.options.clone(),
            progress: self.progress,
        });
        // The terminal belongs to the command from here on.
        caller.progress_over();
        done
    }

    /// The packages and the command.
    fn work(
        &self,
        caller: &mut Caller,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
    ) -> Result<u8, Error> {
        if let Some(text) = &self.resolv_conf {
            resolv_conf::write(tree, text)?;
        }
        points::provide(tree, b"/isar-apt", Kind::Directory)?;
        if self.imager.update || !self.imager.packages.is_empty() {
            let status = self.install(caller, sources, tree)?;
            if status != 0 {
                return Ok(status);
            }
        }
        run_in_tree(&init()?, sources.for_tree(tree)?, caller, || {
            Ok(command(&self.imager.command, &self.imager.environment))
        })
    }

    /// Gives 0, or the status of a step that a signal ended.
    fn install(
        &self,
        caller: &mut Caller,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
    ) -> Result<u8, Error> {
        let keeps = self.imager.download_directory.is_some();
        if keeps {
            import(caller, &Archives::open(tree)?)?;
        }
        lock_repository(caller)?;
        let update = match self.imager.update {
            true => Step::UpdateAll,
            false => Step::Update,
        };
        let steps = match self.imager.packages.is_empty() {
            true => &[update][..],
            false => &[update, Step::Download],
        };
        for &step in steps {
            let status = self.step(caller, step, sources, tree)?;
            if status != 0 {
                return Ok(status);
            }
        }
        caller.ask(Ask::UnlockRepository)?;
        if keeps {
            export(caller, &Archives::open(tree)?)?;
        }
        match self.imager.packages.is_empty() {
            true => Ok(0),
            false => self.step(caller, Step::Install, sources, tree),
        }
    }

    /// Runs apt in a process of its own. Gives 0, or 128+N when signal N ended it.
    fn step(
        &self,
        caller: &mut Caller,
        step: Step,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
    ) -> Result<u8, Error> {
        caller.notice(Notice::Step(step.name().to_owned()));
        let apt = || {
            // It is looked for from within, because it may be bound into the tree.
            if step == Step::Update && !Path::new(apt::ISAR_LIST).exists() {
                return Ok(Command::new("true"));
            }
            let mut command = step
                .command(&self.imager.packages)
                .context(|| "start apt-get")?;
            command
                .env("PATH", search_path(std::env::var_os("PATH")))
                .envs(self.imager.environment.iter().cloned());
            Ok(command)
        };
        let supervision = Supervision {
            isolation: &Isolation::None,
            signals: SignalPolicy::Pass,
            observer: &mut (),
            progress: None,
        };
        // The child talks to the caller of this process, which waits.
        let status = userns::run(supervision, |_| {
            run_in_tree(&init()?, sources.for_tree(tree)?, caller, apt)
        })
        .context(|| step.name())?;
        match status {
            0 | 129.. => Ok(status),
            _ => {
                let cause = match step {
                    Step::Download | Step::Install if !apt::has_lists(tree) => NO_LISTS,
                    _ => "it knows the packages of the lists in the tree and of isar-apt",
                };
                let name = step.name();
                let text = format!("{name} failed with status {status}: see above; {cause}");
                Err(Error::new(ErrorKind::Io, text))
            }
        }
    }
}

fn lock_repository(caller: &mut Caller) -> Result<(), Error> {
    let mut has_told = false;
    while let Reply::Locked = caller
        .ask(Ask::LockRepository)
        .context(|| "lock the repository")?
    {
        if !has_told {
            caller.notice(Notice::WaitingForLock);
            has_told = true;
        }
        thread::sleep(LOCK_INTERVAL);
    }
    Ok(())
}

/// Copies the package files of the download directory into the tree.
fn import(caller: &mut Caller, archives: &Archives) -> Result<(), Error> {
    loop {
        let answer = caller
            .exchange(Ask::NextPackage, None)
            .context(|| "import the packages")?;
        match (answer.value, answer.descriptor) {
            (Reply::Package(name), Some(file)) => archives.put(&name, file.into())?,
            _ => return Ok(()),
        }
    }
}

/// Sends the package files of the tree to the download directory.
fn export(caller: &mut Caller, archives: &Archives) -> Result<(), Error> {
    for name in archives.names()? {
        let file = archives.get(&name)?;
        let context = format!("export the package {}", Escaped(&name));
        caller
            .exchange(Ask::KeepPackage(name), Some(file.as_fd()))
            .context(|| context)?;
    }
    Ok(())
}

/// The command's status, once all that was created for it is gone again.
fn ended(done: Result<u8, Error>, cleared: Result<(), Error>) -> Result<u8, Error> {
    match (done, cleared) {
        (Ok(status), cleared) => cleared.map(|()| status),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(also)) => Err(error.context(format!("{also}; before that"))),
    }
}
