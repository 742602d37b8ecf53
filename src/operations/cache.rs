//! The copies that imager runs keep, listed and removed.

use std::fs::{self, File};
use std::path::PathBuf;

use super::archive::{open_error, threads};
use super::session::{self, Session};
use crate::error::{Context, Error, ErrorKind, PathContext};
use crate::imager::cache::{self, Cache, CacheLimit, CachedCopy};
use crate::input::Digests;
use crate::observer::Observer;
use crate::pack::hex;
use crate::userns::{self, HeldSignals, Supervision};
use crate::workdir::shared::SharedDir;

/// Lists or removes the copies that [`super::Imager`] keeps in a cache: those for the id maps of
/// the session, which alone can read them.
#[derive(Clone, Debug)]
pub struct ImagerCache {
    /// The user namespace.
    pub session: Session,
    /// The cache.
    pub directory: PathBuf,
}

/// Which copies [`ImagerCache::prune`] removes, least recently used first. One that a run uses
/// stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Those beyond the limit.
    Beyond(CacheLimit),
    /// The copies of this archive.
    Archive(PathBuf),
}

impl ImagerCache {
    /// The cache in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> ImagerCache {
        ImagerCache {
            session: Session::default(),
            directory: directory.into(),
        }
    }

    /// The copies, the least recently used one first.
    pub fn list(&self, observer: &mut dyn Observer) -> Result<Vec<CachedCopy>, Error> {
        self.each_part(observer, |cache, xattrs| cache.copies(xattrs))
            .context(|| format!("cannot list the copies in {:?}", self.directory))
    }

    /// Removes copies, and returns them.
    pub fn prune(
        &self,
        which: &Prune,
        observer: &mut dyn Observer,
    ) -> Result<Vec<CachedCopy>, Error> {
        let mut prune = || {
            let (limit, sha256) = match which {
                Prune::Beyond(limit) => (*limit, None),
                Prune::Archive(path) => {
                    let file = File::open(path).map_err(|error| open_error("open", error));
                    let digests = file.and_then(|file| Ok(Digests::of(&file).at("", "read")?));
                    let digests = digests.context(|| format!("{path:?}"))?;
                    (CacheLimit::NOTHING, Some(hex(&digests.sha256())))
                }
            };
            let threads = threads(0);
            self.each_part(observer, |cache, xattrs| {
                cache.prune(limit, sha256.as_deref(), xattrs, threads)
            })
        };
        prune().context(|| format!("cannot remove copies from {:?}", self.directory))
    }

    /// Does this in the part of the cache for copies with extended attributes, and in the one for
    /// copies without.
    fn each_part(
        &self,
        observer: &mut dyn Observer,
        work: impl Fn(&Cache, bool) -> Result<Vec<CachedCopy>, Error>,
    ) -> Result<Vec<CachedCopy>, Error> {
        let namespaces = self.session.namespaces(observer)?;
        let maps = session::maps(&namespaces.work)?;
        let found = fs::metadata(&self.directory).map_err(|error| open_error("open", error))?;
        if !found.is_dir() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a directory"));
        }
        let _held = HeldSignals::new()?;
        let mut copies = Vec::new();
        for xattrs in [true, false] {
            let name = cache::name(&maps, xattrs);
            if !self.directory.join(&name).is_dir() {
                continue;
            }
            let shared = SharedDir::claim(&self.directory, &name, &namespaces)?;
            let supervision = Supervision::of_work(&namespaces.work, observer);
            copies.extend(userns::run(supervision, |_| {
                work(&Cache::open(shared.directory())?, xattrs)
            })?);
        }
        copies.sort_by_key(|copy| copy.last_use);
        Ok(copies)
    }
}
