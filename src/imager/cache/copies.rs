//! The copies of a cache, listed and removed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, fstat, renameat, unlinkat};
use serde::{Deserialize, Serialize};

use super::{Cache, size};
use crate::error::{Error, PathContext};
use crate::imager::index::is_digest;
use crate::workdir::lock::{self, Mode as LockMode};
use crate::workdir::opening::{names, open_directory as open};
use crate::workdir::removal;
use crate::workdir::runs::Run;

/// How much the copies of a cache may hold. The least recently used ones go first, and none that a
/// run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimit {
    /// Bytes of data in all of them; `None` for any amount.
    pub bytes: Option<u64>,
    /// Their number; `None` for any.
    pub copies: Option<u64>,
}

impl CacheLimit {
    /// No copy stays.
    pub const NOTHING: CacheLimit = CacheLimit {
        bytes: Some(0),
        copies: Some(0),
    };
}

impl Default for CacheLimit {
    /// 20 GiB and 16 copies: the chroots of some distributions and architectures, with their
    /// predecessors.
    fn default() -> CacheLimit {
        CacheLimit {
            bytes: Some(20 << 30),
            copies: Some(16),
        }
    }
}

/// A copy in a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedCopy {
    /// SHA-256 of its archive, in hexadecimal.
    pub sha256: String,
    /// Bytes of data.
    pub bytes: u64,
    /// Seconds since 1970 at its last use.
    pub last_use: i64,
    /// It has the extended attributes and ACLs of the archive.
    pub xattrs: bool,
    /// A run uses it.
    pub in_use: bool,
    /// Process ids of the runs that use it, as far as `/proc/locks` names them: none on a file
    /// system that shows another device to stat(2), such as btrfs.
    pub holders: Vec<u32>,
}

/// A copy and its directory, which is locked if no run uses it.
struct Found {
    copy: CachedCopy,
    last_use: (i64, u64),
    directory: OwnedFd,
}

impl Cache {
    /// The copies, the least recently used one first.
    pub fn copies(&self, xattrs: bool) -> Result<Vec<CachedCopy>, Error> {
        // The locks that `found` takes would look like a use to another process.
        let _lock = self.lock()?;
        let found = self.found(xattrs)?;
        Ok(found.into_iter().map(|found| found.copy).collect())
    }

    /// Removes the copies beyond the limit, and returns their number. Does nothing while another
    /// run changes the copies.
    pub fn prune_if_free(
        &self,
        limit: CacheLimit,
        run: &Run,
        threads: usize,
    ) -> Result<usize, Error> {
        let lock = open(self.copies.as_fd(), b".").at("copies", "open")?;
        if !lock::try_lock(&lock, LockMode::Exclusive).at("copies", "lock")? {
            return Ok(0);
        }
        let found = self.found(true)?;
        Ok(self.remove_beyond(found, limit, run, threads)?.len())
    }

    /// Removes the copies beyond the limit, and returns them. With `archive`, an SHA-256, looks at
    /// its copy alone.
    pub fn prune(
        &self,
        limit: CacheLimit,
        archive: Option<&str>,
        xattrs: bool,
        threads: usize,
    ) -> Result<Vec<CachedCopy>, Error> {
        let run = self.runs.begin()?;
        let pruned = self.lock().map_err(Error::from).and_then(|_lock| {
            let mut found = self.found(xattrs)?;
            if let Some(archive) = archive {
                found.retain(|found| found.copy.sha256 == archive);
            }
            self.remove_beyond(found, limit, &run, threads)
        });
        let ended = self.runs.end(run, threads);
        let removed = pruned?;
        ended?;
        Ok(removed)
    }

    /// All of them, those without a holder locked. Call it with the lock on the copies.
    fn found(&self, xattrs: bool) -> Result<Vec<Found>, Error> {
        let mut all = Vec::new();
        for name in names(&self.copies, "copies")? {
            let Some(sha256) = std::str::from_utf8(&name)
                .ok()
                .filter(|name| is_digest(name))
            else {
                continue;
            };
            let directory = open(self.copies.as_fd(), &name).at(&name, "open")?;
            let stat = fstat(&directory).at(&name, "stat")?;
            let in_use = !lock::try_lock(&directory, LockMode::Exclusive).at(&name, "lock")?;
            all.push(Found {
                copy: CachedCopy {
                    sha256: sha256.to_owned(),
                    bytes: size(&directory, &name)?,
                    last_use: stat.st_mtime,
                    xattrs,
                    in_use,
                    holders: match in_use {
                        true => lock::holders(&directory),
                        false => Vec::new(),
                    },
                },
                last_use: (stat.st_mtime, stat.st_mtime_nsec),
                directory,
            });
        }
        all.sort_by_key(|found| found.last_use);
        Ok(all)
    }

    /// Moves copies to the directory of `run` and removes them there. Call it with the lock on the
    /// copies.
    fn remove_beyond(
        &self,
        found: Vec<Found>,
        limit: CacheLimit,
        run: &Run,
        threads: usize,
    ) -> Result<Vec<CachedCopy>, Error> {
        let mut bytes = found
            .iter()
            .fold(0, |sum: u64, found| sum.saturating_add(found.copy.bytes));
        let mut copies = found.len() as u64;
        // The others are unlocked before the removal, which takes a while.
        let beyond: Vec<Found> = found
            .into_iter()
            .filter(|found| {
                let is_beyond = limit.bytes.is_some_and(|limit| bytes > limit)
                    || limit.copies.is_some_and(|limit| copies > limit);
                let goes = is_beyond && !found.copy.in_use;
                if goes {
                    bytes = bytes.saturating_sub(found.copy.bytes);
                    copies -= 1;
                }
                goes
            })
            .collect();
        let mut removed = Vec::new();
        for Found {
            copy, directory, ..
        } in beyond
        {
            let name = copy.sha256.as_str();
            // From here on it belongs to this run, and is a leftover if the run is killed.
            renameat(&self.copies, name, run.directory(), name).at(name, "move away")?;
            removal::contents(directory.as_fd(), &removal::Options::all(threads))?;
            unlinkat(run.directory(), name, AtFlags::REMOVEDIR).at(name, "remove")?;
            removed.push(copy);
        }
        Ok(removed)
    }
}
