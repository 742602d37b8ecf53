//! What the process inside does, as root of the place: the tree, the packages, the command, and the
//! end of all of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use isar_tarball::chroot::points::{self, Kind};
use isar_tarball::chroot::{MountSources, Prepared, resolv_conf, search_path};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::export::{receive, send};
use isar_tarball::imager::Archive;
use isar_tarball::imager::apt::{self, Archives, Step};
use isar_tarball::imager::cache::{Cache, Origin};
use isar_tarball::imager::root::Root;
use isar_tarball::progress::Progress;
use isar_tarball::userns::init::Init;
use isar_tarball::userns::{Isolation, Outcome, Outside, supervise_command};
use isar_tarball::{imager, input, unpack};

use super::packages::{GIVE, LOCK, TAKE, UNLOCK};
use super::{Args, BEGIN, CLEARED};
use crate::cli::report::{self, Status};
use crate::cli::{Globals, chroot, progress};

/// How often a lock is tried that somebody else has.
const LOCK_TRIED: Duration = Duration::from_millis(100);

/// One run.
pub struct Inside<'a> {
    pub args: &'a Args,
    pub globals: &'a Globals,
    pub context: &'a str,
    pub archive: File,
    pub input: input::Options,
    pub options: unpack::Options,
    /// The text of the host's file.
    pub resolv_conf: Option<Vec<u8>>,
    /// Package files come and go here.
    pub socket: OwnedFd,
}

impl Inside<'_> {
    /// Everything, in the directory and with the files of `sources`. Gives the exit status.
    pub fn run(&self, outside: &mut Outside, sources: &MountSources) -> anyhow::Result<u8> {
        match self.args.cache {
            None => self.run_at_root(outside, sources),
            Some(_) => self.run_in_cache(outside, sources),
        }
    }

    fn run_at_root(&self, outside: &mut Outside, sources: &MountSources) -> anyhow::Result<u8> {
        let root = Root::lock(sources.root())?;
        root.occupy(self.options.threads)?;
        outside.ask(BEGIN)?;
        let done = self.unpack(|archive| archive.unpack(root.directory()));
        let done = done.and_then(|_| self.work(outside, sources, sources.root()));
        let cleared = root.clear(self.options.threads);
        outside.ask(CLEARED)?;
        ended(done, cleared.map_err(Into::into))
    }

    fn run_in_cache(&self, outside: &mut Outside, sources: &MountSources) -> anyhow::Result<u8> {
        let threads = self.options.threads;
        let cache = Cache::open(sources.root())?;
        outside.ask(BEGIN)?;
        if let Err(error) = cache.clear_leftovers(threads) {
            self.warn(&format!(
                "what an earlier run has left cannot be removed: {error}"
            ));
        }
        let tree = self.unpack(|archive| cache.tree(archive))?;
        match &tree.origin {
            Origin::Found => self.note("the copy in the cache is used"),
            Origin::Unpacked => self.note("unpacked into the cache"),
            Origin::NoOverlay(cause) => {
                self.warn(&format!(
                    "no overlay can be mounted in {:?} ({}), so the tarball was unpacked for this run alone: \
                     put the cache on a file system like ext4, xfs or btrfs",
                    self.args.cache.as_deref().unwrap_or("".as_ref()),
                    describe(cause)
                ));
            }
        }
        let done = self.work(outside, sources, tree.root());
        let pruned = match self.args.cache_limit {
            Some(limit) => cache.prune(limit, &tree, threads),
            None => Ok(0),
        };
        if let Ok(count @ 1..) = pruned {
            self.note(&format!("copies removed from the cache: {count}"));
        }
        let cleared = cache.end(tree, threads);
        outside.ask(CLEARED)?;
        ended(done, pruned.and(cleared).map_err(Into::into))
    }

    /// Does what may unpack the archive, and shows how far it is.
    fn unpack<T>(
        &self,
        work: impl FnOnce(&Archive<'_>) -> Result<T, imager::Error>,
    ) -> anyhow::Result<T> {
        let progress = Arc::new(Progress::default());
        progress.total.store(
            self.archive
                .metadata()
                .context("look at the archive")?
                .len(),
            Ordering::Relaxed,
        );
        let _shown = progress::Shown::begin(
            self.globals.progress,
            self.globals.quiet,
            Arc::clone(&progress),
        );
        let options = self.options.clone();
        Ok(work(&Archive {
            file: &self.archive,
            input: self.input,
            options,
            progress: &progress,
        })?)
    }

    /// The packages and the command.
    fn work(
        &self,
        outside: &mut Outside,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
    ) -> anyhow::Result<u8> {
        if let Some(text) = &self.resolv_conf {
            resolv_conf::write(tree, text)?;
        }
        points::provide(tree, b"/isar-apt", Kind::Directory)?;
        let packages = self.args.packages();
        if !packages.is_empty() {
            let status = self.install(outside, sources, tree, &packages)?;
            if status != 0 {
                return Ok(status);
            }
        }
        self.run_command(sources, tree, || {
            Ok(chroot::command(&self.args.command, &self.args.env))
        })
    }

    /// Runs a command in the tree, with this process to look after it. That can be done once in a
    /// process.
    fn run_command(
        &self,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
        command: impl FnOnce() -> io::Result<Command>,
    ) -> anyhow::Result<u8> {
        let init = Init::new()?;
        let prepared = Prepared::new(sources.for_tree(tree)?)?;
        let enter = || {
            chroot::enter_tree(&prepared, self.globals)?;
            Ok::<_, anyhow::Error>(command()?)
        };
        let status = init.run(enter, |error| {
            report::error(&anyhow!("{}: {error}", self.context))
        });
        let cleared = prepared.clear();
        let status = status?;
        cleared?;
        Ok(status)
    }

    /// Gives 0, or the status of a step that a signal ended.
    fn install(
        &self,
        outside: &mut Outside,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
        packages: &[String],
    ) -> anyhow::Result<u8> {
        if self.args.download_dir.is_some() {
            self.import(outside, &Archives::open(tree)?)?;
        }
        self.lock(outside)?;
        for step in [Step::Update, Step::Download] {
            let status = self.step(step, sources, tree, packages)?;
            if status != 0 {
                return Ok(status);
            }
        }
        outside.ask(UNLOCK)?;
        if self.args.download_dir.is_some() {
            self.export(outside, &Archives::open(tree)?)?;
        }
        self.step(Step::Install, sources, tree, packages)
    }

    fn lock(&self, outside: &mut Outside) -> anyhow::Result<()> {
        let mut has_said = false;
        loop {
            match outside.ask(LOCK) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                answer => return answer.context("lock the repository"),
            }
            if !has_said {
                self.note("waiting for the lock on the repository");
                has_said = true;
            }
            thread::sleep(LOCK_TRIED);
        }
    }

    fn import(&self, outside: &mut Outside, archives: &Archives) -> anyhow::Result<()> {
        loop {
            match outside.ask(GIVE) {
                Err(error) if error.raw_os_error() == Some(libc::ENODATA) => return Ok(()),
                answer => answer.context("import the packages")?,
            }
            let (name, file) = receive(self.socket.as_fd()).context("import the packages")?;
            archives.put(&name, file.into())?;
        }
    }

    fn export(&self, outside: &mut Outside, archives: &Archives) -> anyhow::Result<()> {
        for name in archives.names()? {
            let file = archives.get(&name)?;
            let sent = send(self.socket.as_fd(), &name, file.as_fd());
            sent.and_then(|()| outside.ask(TAKE))
                .with_context(|| format!("export the package {}", Escaped(&name)))?;
        }
        Ok(())
    }

    /// Runs apt in a process of its own. Gives 0, or 128+N when signal N ended it.
    fn step(
        &self,
        step: Step,
        sources: &MountSources,
        tree: BorrowedFd<'_>,
        packages: &[String],
    ) -> anyhow::Result<u8> {
        self.note(step.name());
        let apt = || {
            // It is looked for from within, because it may be bound into the tree.
            if step == Step::Update && !Path::new(apt::ISAR_LIST).exists() {
                return Ok(Command::new("true"));
            }
            let mut command = step.command(packages)?;
            command
                .env("PATH", search_path(std::env::var_os("PATH")))
                .envs(self.args.env.iter().cloned());
            Ok(command)
        };
        let ended = supervise_command(
            &Isolation::None,
            |_| Ok(()),
            || (),
            |_, ()| {
                self.run_command(sources, tree, apt)
                    .unwrap_or_else(|error| {
                        report::error(&error.context(step.name()));
                        Status::TOOL_FAILED.code()
                    })
            },
        )?;
        match ended {
            Outcome::Exited(status @ (0 | 129..)) => Ok(status),
            Outcome::Exited(status) => bail!(
                "{} failed with status {status}: see above; it knows the packages of the lists in the tree and of isar-apt",
                step.name()
            ),
            Outcome::Killed(_) => Ok(Status::from(ended).code()),
        }
    }

    fn note(&self, text: &str) {
        if self.globals.verbose {
            report::note(&format!("{text}\n"));
        }
    }

    fn warn(&self, text: &str) {
        if !self.globals.quiet {
            report::warning(text);
        }
    }
}

/// The command's status, when all that was made for it is gone again.
fn ended(done: anyhow::Result<u8>, cleared: anyhow::Result<()>) -> anyhow::Result<u8> {
    match (done, cleared) {
        (Ok(status), Ok(())) => Ok(status),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), cleared) => {
            if let Err(also) = cleared {
                report::error(&also);
            }
            Err(error)
        }
    }
}
