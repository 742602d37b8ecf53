//! Where the tree of a run lies, as the caller outside sees it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use isar_tarball::error::{FileError, PathContext, describe};
use isar_tarball::ids::IdMaps;
use isar_tarball::imager::cache::{self, Cache};
use isar_tarball::imager::root::Root;
use isar_tarball::userns::{Isolation, Outcome, clean_up, handover};
use isar_tarball::{imager, remove as removal};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

use super::Args;
use crate::cli::report::{self, Status};
use crate::cli::{remove, unpack};

/// A directory that belongs to root of the place.
pub enum Home<'a> {
    /// For one tree.
    Root(PathBuf, unpack::Target<'a>),
    /// For copies and runs.
    Cache(PathBuf, OwnedFd),
}

impl<'a> Home<'a> {
    /// Opens the directory that the user has named; what is missing of it is made.
    pub fn open(args: &Args, place: &'a Isolation, maps: &IdMaps) -> anyhow::Result<Home<'a>> {
        if let Some(cache) = &args.cache {
            let path = cache.join(cache::name(maps));
            make_cache(cache, &path, place).with_context(|| format!("{cache:?}"))?;
            let directory = open(&path, OFlags::PATH)?;
            return Ok(Home::Cache(path, directory));
        }
        let path = args.root.clone().unwrap_or_else(temporary);
        // What must not be removed must not be taken.
        removal::Target::open(&path, &remove::homes())?;
        refuse_files_of_the_caller(&path, place)?;
        let target = unpack::Target::open(&path, false, place)?;
        Ok(Home::Root(path, target))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Home::Root(path, _) | Home::Cache(path, _) => path,
        }
    }

    /// Removes what a run has left that could not do so itself.
    pub fn clear(&self, place: &Isolation, threads: usize) -> anyhow::Result<()> {
        let clear = || -> Result<(), imager::Error> {
            match self {
                Home::Root(_, target) => Root::lock(target.directory())?.clear(threads),
                Home::Cache(_, directory) => {
                    Cache::open(directory.as_fd())?.clear_leftovers(threads)
                }
            }
        };
        let outcome = clean_up(place, || match clear() {
            Ok(()) => Status::Done.code(),
            Err(error) => {
                report::error(&error.into());
                Status::Failed.code()
            }
        })?;
        if outcome == Outcome::Exited(0) {
            Ok(())
        } else {
            Err(anyhow!("what the run has made could not be removed"))
        }
    }

    /// Gives the directory back that no run has begun to use.
    pub fn abandon(self) -> anyhow::Result<()> {
        match self {
            Home::Root(_, target) => target.abandon(),
            Home::Cache(..) => Ok(()),
        }
    }

    /// Removes the empty directory of a tree. A cache stays.
    pub fn remove(self, place: &Isolation) -> anyhow::Result<()> {
        let Home::Root(path, target) = self else {
            return Ok(());
        };
        if let Some(directory) = removal::Target::open(&path, &remove::homes())? {
            let removed = remove::remove_root(&directory, place);
            removed.map_err(|error| anyhow!("{path:?}: remove: {}", describe(&error)))?;
        }
        target.remove_made();
        Ok(())
    }
}

/// What a run leaves is root's. So files in a directory of the caller are none of a run, and it is
/// not handed over.
fn refuse_files_of_the_caller(path: &Path, place: &Isolation) -> anyhow::Result<()> {
    let Isolation::Namespace(maps) = place else {
        return Ok(());
    };
    let caller = rustix::process::geteuid().as_raw();
    let is_callers = fs::metadata(path).is_ok_and(|found| found.uid() == caller)
        && maps.uids.to_outer(0) != Some(caller);
    if is_callers && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{path:?}: {}", imager::Error::NotEmpty);
    }
    Ok(())
}

fn temporary() -> PathBuf {
    let above = std::env::var_os("TMPDIR")
        .filter(|dir| !dir.is_empty())
        .map_or("/var/tmp".into(), PathBuf::from);
    above.join(format!("isar-tarball-imager.{}", std::process::id()))
}

/// Makes the cache's directory and in it the one for these maps. Any number of runs may do so at
/// once, and be killed while they do.
fn make_cache(cache: &Path, path: &Path, place: &Isolation) -> anyhow::Result<()> {
    let said = |act: &'static str| move |error: io::Error| anyhow!("{act}: {}", describe(&error));
    let owner = match place {
        Isolation::Namespace(maps) => maps.uids.to_outer(0),
        Isolation::None => Some(rustix::process::geteuid().as_raw()),
    };
    let is_ready = || {
        fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && Some(found.uid()) == owner)
    };
    if is_ready() {
        return Ok(());
    }
    fs::create_dir_all(cache).map_err(said("make the directory"))?;
    let lock = open(cache, OFlags::RDONLY)?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| said("lock the directory")(error.into()))?;
    if is_ready() {
        return Ok(());
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // A run that was killed right after this has left it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(said("make a directory in it"))?,
    }
    if let Isolation::Namespace(maps) = place {
        handover::to_root(open(path, OFlags::PATH)?.as_fd(), maps)?;
    }
    Ok(())
}

fn open(path: &Path, mode: OFlags) -> Result<OwnedFd, FileError> {
    let flags = mode | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).at(path.as_os_str().as_bytes(), "open")
}
