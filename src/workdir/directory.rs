//! A directory that an operation fills.
//!
//! The directory is opened once and locked, then handed over to root of the namespace, filled, and
//! published. Its states, and what a crash leaves in each:
//!
//! ```text
//! beside   NAME is missing, or is to be replaced
//!
//!            create                  publish: rename, or exchange with NAME
//!   (none) ─────────> .NAME.isar-tarball-new ─────────────────────────────> NAME
//!                     a crash leaves the hidden directory, and NAME as it was:
//!                     the next operation on NAME finds it without a lock and
//!                     removes it
//!
//! in place NAME exists and is empty, or files go over those in it
//!
//!            mark                   unmark
//!   NAME ───────────> NAME, marked ─────────> NAME
//!                     a crash leaves a marked NAME: the next operation on NAME
//!                     knows that its content is a leftover and removes it
//! ```
//!
//! The mark is the extended attribute [`MARK`]. It lives and dies with the directory, so a
//! directory of the user is never taken for a leftover. On a file system without such attributes
//! leftovers in place are not recognised, and refused like any other files. Files that go over
//! others ([`Purpose::Merge`]) have no mark.
//!
//! The process that holds the exclusive lock on NAME, or on the hidden directory while NAME is
//! missing, owns the name. An operation that does not get the lock touches nothing.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, Stat, XattrFlags, fgetxattr, fremovexattr, fsetxattr, fstat, mkdirat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::leftovers::{self, NEW};
use super::location::{self, Location};
use super::lock::in_use;
use super::opening::{lock_directory, names, open_path};
use super::output::{is_random_name, random_name};
use super::rename::{discard, exchange, remove_contents, rename_new};
use super::trust::Trust;
use super::{Namespaces, handover};
use crate::error::{Context, Error, ErrorKind, FileError, PathContext, bytes};
use crate::userns::{self, Isolation};

/// The extended attribute of a directory whose content is not complete; its value is empty.
const MARK: &str = "user.isar-tarball.unfinished";

/// What the directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new tree. The directory is missing or empty.
    Fill,
    /// A new tree in place of one that may be there.
    Replace,
    /// Files that go over those in the directory.
    Merge,
    /// A tree for one run. The directory is missing or empty, and removed in the end.
    Occupy,
}

/// How often a name is tried that other processes create and remove.
const ATTEMPTS: usize = 16;

/// A directory that this operation owns: it holds the exclusive lock.
pub struct WorkDir<'n> {
    namespaces: &'n Namespaces,
    path: PathBuf,
    /// Open for reading; carries the lock.
    directory: OwnedFd,
    place: Place,
    /// Directories that were created above it, outermost first.
    parents: Vec<PathBuf>,
    /// Its attributes before it is filled, owned by root of the namespace.
    original: Stat,
    is_handed_over: bool,
}

/// Where a directory is filled.
enum Place {
    /// As `.NAME.isar-tarball-new`. With the directory that has the name now, open for reading and
    /// locked.
    Beside(Location, Option<OwnedFd>),
    /// Under its own name.
    InPlace { is_marked: bool },
}

impl<'n> WorkDir<'n> {
    /// Takes possession of the directory at `path`. What is missing above it is created.
    ///
    /// # Errors
    ///
    /// `InUse`, `NotEmpty`, `Untrusted`, or what opening and creating gives. Nothing has changed
    /// then.
    pub fn claim(
        path: &Path,
        purpose: Purpose,
        namespaces: &'n Namespaces,
    ) -> Result<WorkDir<'n>, Error> {
        let mut parents = Vec::new();
        let claimed = (0..ATTEMPTS)
            .find_map(|_| WorkDir::try_claim(path, purpose, namespaces, &mut parents).transpose());
        match claimed.unwrap_or_else(|| Err(in_use(path, ""))) {
            Ok(claimed) => Ok(WorkDir { parents, ..claimed }),
            // Another operation that owns the directory may have been given it by this one.
            Err(error) if error.kind() == ErrorKind::InUse => Err(error),
            Err(error) => {
                remove_parents(&parents);
                Err(error)
            }
        }
    }

    /// `None` when another process removed or created the directory meanwhile.
    fn try_claim(
        path: &Path,
        purpose: Purpose,
        namespaces: &'n Namespaces,
        parents: &mut Vec<PathBuf>,
    ) -> Result<Option<WorkDir<'n>>, Error> {
        if let Ok(Some(location)) = Location::of(path) {
            leftovers::clear(&location, namespaces)?;
        }
        match open_path(path) {
            Ok(found) => match purpose {
                Purpose::Replace => replace(path, &found, namespaces),
                _ => in_place(path, found, purpose, namespaces),
            },
            Err(Errno::NOENT) => {
                create_parents(path, parents)?;
                match purpose {
                    Purpose::Occupy => {
                        if create(path, 0o700)? {
                            parents.push(path.to_owned());
                        }
                        // Claimed at once: if another operation were found to work beside it now,
                        // this one would leave the empty directory.
                        match open_path(path) {
                            Ok(found) => in_place(path, found, purpose, namespaces),
                            Err(_) => Ok(None),
                        }
                    }
                    // A missing directory has nothing to go over: that is a new tree.
                    Purpose::Fill | Purpose::Replace | Purpose::Merge => {
                        beside(path, None, namespaces)
                    }
                }
            }
            Err(error) => Err(FileError::new(bytes(path), "open the directory", error).into()),
        }
    }

    /// A directory of a new name `PREFIX.XXXXXXXX` in `above`, for one run. What killed runs of
    /// this caller left there under such names is removed.
    pub fn temporary(
        above: &Path,
        prefix: &str,
        namespaces: &'n Namespaces,
    ) -> Result<WorkDir<'n>, Error> {
        remove_abandoned(above, prefix, namespaces);
        for _ in 0..ATTEMPTS {
            let path = above.join(format!("{prefix}.{}", random_name()));
            if !create(&path, 0o700)? {
                continue;
            }
            match WorkDir::claim(&path, Purpose::Occupy, namespaces) {
                // Another run took the empty directory for an abandoned one.
                Err(error) if error.kind() == ErrorKind::InUse => {}
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
                claimed => return claimed,
            }
        }
        Err(FileError::new(bytes(above), "create a directory in it", Errno::EXIST).into())
    }

    /// Takes possession of a directory that is open for reading and locked.
    fn own(
        path: &Path,
        directory: OwnedFd,
        place: Place,
        namespaces: &'n Namespaces,
    ) -> Result<WorkDir<'n>, Error> {
        let stat = |fd: &OwnedFd| fstat(fd).at(bytes(path), "stat");
        let original = stat(&directory)?;
        let mut owned = WorkDir {
            namespaces,
            path: path.to_owned(),
            directory,
            place,
            parents: Vec::new(),
            original,
            is_handed_over: false,
        };
        if let Isolation::Namespace(maps) = &namespaces.work
            && original.st_uid == geteuid().as_raw()
        {
            handover::to_root(owned.directory.as_fd(), maps).context(|| format!("{path:?}"))?;
            owned.is_handed_over = true;
            owned.original = stat(&owned.directory)?;
        }
        Ok(owned)
    }

    /// The directory to fill, open for reading.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The path that leads to it while it is filled.
    pub fn working_path(&self) -> PathBuf {
        match &self.place {
            Place::Beside(location, _) => leftovers::hidden_path(location, &location.sibling(NEW)),
            Place::InPlace { .. } => self.path.clone(),
        }
    }

    /// Its owner, group and mode before it is filled, as numbered outside the namespace.
    pub fn original(&self) -> &Stat {
        &self.original
    }

    /// True if the directory is filled beside its name.
    pub fn is_beside(&self) -> bool {
        matches!(self.place, Place::Beside(..))
    }

    /// True if an old directory goes when this one gets its name.
    pub fn replaces_another(&self) -> bool {
        matches!(self.place, Place::Beside(_, Some(_)))
    }

    /// To be called inside, before the directory is filled.
    pub fn begin(&self) -> Result<(), FileError> {
        if !matches!(self.place, Place::InPlace { is_marked: true }) {
            return Ok(());
        }
        mark(&self.directory).at(bytes(&self.path), "mark the directory")
    }

    /// To be called inside, once the directory is complete.
    pub fn finish(&self) -> Result<(), FileError> {
        if self.is_beside() {
            return Ok(());
        }
        // The mark may be there without us: files went over the rest of a killed operation.
        unmark(&self.directory).at(bytes(&self.path), "remove the mark of the directory")
    }

    /// Gives the complete directory its name. An old tree of that name is removed.
    ///
    /// # Errors
    ///
    /// Before the directory has its name, all that was created is removed. If only the old tree
    /// cannot be removed, the error says so.
    pub fn publish(self) -> Result<(), Error> {
        let Place::Beside(location, old) = &self.place else {
            return Ok(());
        };
        let new = location.sibling(NEW);
        let named = match old {
            None => rename_new(location, &new, self.namespaces),
            Some(old) => match exchange(location, &new, old.as_fd(), self.namespaces) {
                // NFS cannot exchange, nor an overlay with a directory of its lower layer.
                Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => {
                    return self.replace_stepwise(location, &new, old);
                }
                named => named,
            },
        };
        match named {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY | Errno::NOENT) => {
                let error = in_use(&self.path, "; another process has changed it meanwhile");
                return self.abandon(no_undo).and(Err(error));
            }
            Err(error) => {
                let error =
                    FileError::new(bytes(&self.path), "rename the finished directory", error);
                return self.abandon(no_undo).and(Err(error.into()));
            }
        }
        match old {
            None => Ok(()),
            Some(old) => discard(location, &new, old.as_fd(), self.namespaces).context(|| {
                format!(
                    "{:?} is complete, but the old tree cannot be removed",
                    self.path
                )
            }),
        }
    }

    /// Removes the old tree, then gives the new one its name. The old one is marked before its
    /// first file goes, so that a crash leaves a recognised leftover.
    fn replace_stepwise(
        &self,
        location: &Location,
        new: &CStr,
        old: &OwnedFd,
    ) -> Result<(), Error> {
        let replace = || -> Result<(), Error> {
            userns::clean_up(&self.namespaces.whole, || {
                // Without a mark the rest of the old tree is not recognised, which is no reason to
                // keep it.
                let _ = mark(old);
                Ok(())
            })?;
            discard(location, location.name(), old.as_fd(), self.namespaces)?;
            Ok(rename_new(location, new, self.namespaces)
                .at(bytes(&self.path), "rename the finished directory")?)
        };
        replace().context(|| {
            format!(
                "the complete new tree is {:?}",
                leftovers::hidden_path(location, new)
            )
        })
    }

    /// Undoes everything. `undo` runs inside on a directory in place, which it empties; one that
    /// was created is removed.
    pub fn abandon(
        self,
        undo: impl FnOnce(BorrowedFd<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match &self.place {
            Place::Beside(location, _) => {
                let new = location.sibling(NEW);
                discard(location, &new, self.directory.as_fd(), self.namespaces)?;
            }
            Place::InPlace { is_marked } => {
                userns::clean_up(&self.namespaces.work, || {
                    undo(self.directory.as_fd())?;
                    if *is_marked {
                        unmark(&self.directory).at("", "remove the mark of the directory")?;
                    }
                    Ok(())
                })?;
                if let (Isolation::Namespace(maps), true) =
                    (&self.namespaces.work, self.is_handed_over)
                {
                    handover::to_caller(self.directory.as_fd(), maps)?;
                }
            }
        }
        remove_parents(&self.parents);
        Ok(())
    }

    /// Removes a directory in place with all that is in it, and those that were created for it.
    pub fn remove(self) -> Result<(), Error> {
        let location = Location::of(&self.path)?.ok_or_else(|| in_use(&self.path, ""))?;
        discard(
            &location,
            location.name(),
            self.directory.as_fd(),
            self.namespaces,
        )?;
        remove_parents(&self.parents);
        Ok(())
    }
}

/// For [`WorkDir::abandon`] of a directory that is filled beside its name.
fn no_undo(_: BorrowedFd<'_>) -> Result<(), Error> {
    Ok(())
}

/// An existing directory that is filled under its own name.
fn in_place<'n>(
    path: &Path,
    found: OwnedFd,
    purpose: Purpose,
    namespaces: &'n Namespaces,
) -> Result<Option<WorkDir<'n>>, Error> {
    // It is removed in the end, so it must be one that may be removed.
    if purpose == Purpose::Occupy && removable(path)?.is_none() {
        return Ok(None);
    }
    let trust = Trust::new(&namespaces.whole);
    let stat = trust.own(found.as_fd(), path)?;
    let Some(directory) = lock_directory(found.as_fd(), path, namespaces)? else {
        return Ok(None);
    };
    if purpose != Purpose::Merge && !names(&directory, path)?.is_empty() {
        if !is_marked(&directory, namespaces)? || is_other_owner(&stat, namespaces) {
            return Err(Error::new(
                ErrorKind::NotEmpty,
                format!("{path:?}: the directory is not empty"),
            ));
        }
        remove_contents(directory.as_fd(), namespaces)
            .context(|| format!("{path:?}: remove what a killed operation has left"))?;
    }
    let place = Place::InPlace {
        is_marked: purpose != Purpose::Merge,
    };
    WorkDir::own(path, directory, place, namespaces).map(Some)
}

/// Opens the directory at `path`, which must be one that may be removed; `None` if it is gone.
fn removable(path: &Path) -> Result<Option<OwnedFd>, Error> {
    let location = Location::of(path)?.ok_or_else(|| in_use(path, ""))?;
    let named = location.open()?;
    if let Some(named) = &named {
        location.refuse_precious(named.as_fd(), &location::homes())?;
    }
    Ok(named)
}

/// True for a directory of the caller where a namespace with another root works: an operation
/// leaves only files of that root.
fn is_other_owner(stat: &Stat, namespaces: &Namespaces) -> bool {
    match &namespaces.work {
        Isolation::None => false,
        Isolation::Namespace(maps) => maps.uids.to_outer(0) != Some(stat.st_uid),
    }
}

/// The directory `found` is to be replaced by a new one.
fn replace<'n>(
    path: &Path,
    found: &OwnedFd,
    namespaces: &'n Namespaces,
) -> Result<Option<WorkDir<'n>>, Error> {
    let Some(named) = removable(path)? else {
        return Ok(None);
    };
    Trust::new(&namespaces.whole).own(named.as_fd(), path)?;
    let Some(old) = lock_directory(found.as_fd(), path, namespaces)? else {
        return Ok(None);
    };
    beside(path, Some(old), namespaces)
}

/// A directory `.NAME.isar-tarball-new`, for a NAME that is missing or is to be replaced.
fn beside<'n>(
    path: &Path,
    old: Option<OwnedFd>,
    namespaces: &'n Namespaces,
) -> Result<Option<WorkDir<'n>>, Error> {
    let Some(location) = Location::of(path)? else {
        return Ok(None);
    };
    if old.is_none() && location.open()?.is_some() {
        // It was created meanwhile, or is a symbolic link to nowhere.
        return match open_path(path) {
            Ok(_) => Ok(None),
            Err(error) => {
                Err(FileError::new(bytes(path), "follow the symbolic link", error).into())
            }
        };
    }
    let new = location.sibling(NEW);
    match mkdirat(location.parent(), &new, Mode::RWXU) {
        Ok(()) => {}
        // Another operation was faster. It is in use, or a leftover by now.
        Err(Errno::EXIST) => return Ok(None),
        Err(error) => {
            return Err(FileError::new(bytes(path), "create a directory beside it", error).into());
        }
    }
    let Some(created) = location.open_name(&new)? else {
        return Ok(None);
    };
    let hidden = leftovers::hidden_path(&location, &new);
    Trust::new(&namespaces.whole).created(created.as_fd(), &hidden)?;
    let Some(directory) = lock_directory(created.as_fd(), path, namespaces)? else {
        return Ok(None);
    };
    if !location.is_name_of(&new, directory.as_fd()) {
        return Ok(None);
    }
    match WorkDir::own(
        path,
        directory,
        Place::InPlace { is_marked: false },
        namespaces,
    ) {
        Ok(owned) => Ok(Some(WorkDir {
            place: Place::Beside(location, old),
            ..owned
        })),
        Err(error) => {
            // It is empty. The first error is the one to report.
            let _ = unlinkat(location.parent(), &new, AtFlags::REMOVEDIR);
            Err(error)
        }
    }
}

/// True if a killed operation left the content of the directory, which is open for reading.
fn is_marked(directory: &OwnedFd, namespaces: &Namespaces) -> Result<bool, Error> {
    let look = || fgetxattr(directory, MARK, &mut [0; 0]);
    match look() {
        Ok(_) => Ok(true),
        // The kernel checks the mode of the directory, not that of the descriptor.
        Err(Errno::ACCESS) if namespaces.whole != Isolation::None => {
            userns::clean_up(&namespaces.whole, || Ok(look().is_ok()))
        }
        Err(_) => Ok(false),
    }
}

/// True if `directory`, open for reading, holds an unfinished tree. For processes that may read its
/// attributes.
pub fn is_unfinished(directory: BorrowedFd<'_>) -> bool {
    fgetxattr(directory, MARK, &mut [0; 0]).is_ok()
}

/// Marks the directory as incomplete, where the file system can.
pub fn mark(directory: impl AsFd) -> Result<(), Errno> {
    match fsetxattr(directory, MARK, b"", XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the mark, if there is one.
pub fn unmark(directory: impl AsFd) -> Result<(), Errno> {
    match fremovexattr(directory, MARK) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates the directories above `path`, outermost first, and notes them.
fn create_parents(path: &Path, created: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let is_missing = |above: &Path| {
        fs::symlink_metadata(above).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|above| !above.as_os_str().is_empty() && is_missing(above))
        .collect();
    for directory in missing.into_iter().rev() {
        if create(directory, 0o777)? {
            created.push(directory.to_owned());
        }
    }
    Ok(())
}

/// False if it exists, or is `a/..`.
fn create(directory: &Path, mode: u32) -> Result<bool, FileError> {
    match fs::DirBuilder::new().mode(mode).create(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(FileError::new(
            bytes(directory),
            "create the directory",
            error,
        )),
    }
}

/// Innermost first; one that is in use by now stays.
fn remove_parents(created: &[PathBuf]) {
    for path in created.iter().rev() {
        let _ = fs::remove_dir(path);
    }
}

/// Removes directories `PREFIX.*` of killed runs in `above`. Others' and those in use stay, and no
/// error counts: the next run tries again.
fn remove_abandoned(above: &Path, prefix: &str, namespaces: &Namespaces) {
    let Ok(entries) = fs::read_dir(above) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let is_run = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"."))
            .is_some_and(is_random_name);
        if is_run {
            let _ = WorkDir::claim(&entry.path(), Purpose::Occupy, namespaces)
                .and_then(WorkDir::remove);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NONE: &Namespaces = &Namespaces::NONE;

    fn listed(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_tree_has_its_name_only_once_it_is_complete() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/tree");
        let claimed = WorkDir::claim(&path, Purpose::Fill, NONE).unwrap();
        assert_eq!(
            listed(&scratch.path().join("a")),
            [".tree.isar-tarball-new"]
        );
        fs::write(claimed.working_path().join("file"), "").unwrap();
        let refused = WorkDir::claim(&path, Purpose::Fill, NONE).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InUse);
        claimed.publish().unwrap();
        assert_eq!(listed(&scratch.path().join("a")), ["tree"]);
        assert_eq!(listed(&path), ["file"]);
    }

    #[test]
    fn what_was_created_goes_with_an_abandoned_directory() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("old")).unwrap();
        let path = scratch.path().join("old/a/b");
        let claimed = WorkDir::claim(&path, Purpose::Occupy, NONE).unwrap();
        claimed.remove().unwrap();
        assert_eq!(listed(&scratch.path().join("old")), Vec::<String>::new());
        let claimed = WorkDir::claim(&scratch.path().join("old"), Purpose::Fill, NONE).unwrap();
        assert!(!claimed.is_beside());
        drop(claimed);
    }

    #[test]
    fn a_directory_that_cannot_be_created_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("file"), "").unwrap();
        for path in ["file", "file/a", "."] {
            let path = scratch.path().join(path);
            assert!(
                WorkDir::claim(&path, Purpose::Fill, NONE).is_err(),
                "{path:?}"
            );
        }
        let long = scratch.path().join("new").join("n".repeat(300));
        assert!(WorkDir::claim(&long, Purpose::Fill, NONE).is_err());
        assert_eq!(listed(scratch.path()), ["file"]);
    }

    #[test]
    fn a_leftover_beside_is_removed_and_files_in_place_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("tree");
        fs::create_dir_all(scratch.path().join(".tree.isar-tarball-new/half")).unwrap();
        WorkDir::claim(&path, Purpose::Fill, NONE)
            .unwrap()
            .publish()
            .unwrap();
        assert_eq!(listed(&path), Vec::<String>::new());
        fs::write(path.join("file"), "").unwrap();
        for purpose in [Purpose::Fill, Purpose::Occupy] {
            let refused = WorkDir::claim(&path, purpose, NONE).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::NotEmpty);
        }
        assert_eq!(listed(&path), ["file"]);
    }
}
