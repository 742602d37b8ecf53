//! The directory that is unpacked into, as the caller outside sees it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use isar_tarball::error::describe;
use isar_tarball::ids::IdMaps;
use isar_tarball::unpack::{OriginalAttributes, TargetState};
use isar_tarball::userns::{Isolation, handover};
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat};
use rustix::process::geteuid;

/// DIR, open with `O_PATH`.
pub struct Target<'a> {
    directory: OwnedFd,
    place: &'a Isolation,
    /// The directories that were made for it, itself the last.
    made: Vec<PathBuf>,
    /// It was the caller's, and now is root's.
    is_handed_over: bool,
    /// What it was like before.
    pub found: TargetState,
    /// Its attributes once it is handed over.
    attributes: Stat,
}

impl<'a> Target<'a> {
    /// Opens DIR, made where it is missing, and hands it over to root of the place when it is the
    /// caller's. On an error all is as it was.
    pub fn open(path: &Path, merge: bool, place: &'a Isolation) -> anyhow::Result<Target<'a>> {
        let mut made = Vec::new();
        let opened = make(path, &mut made)
            .map_err(|(path, error)| anyhow!("make the directory {path:?}: {}", describe(&error)))
            .and_then(|()| open(path));
        let looked = opened.and_then(|directory| Ok((fstat(&directory)?, directory)));
        let (attributes, directory) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                remove(&made);
                return Err(error);
            }
        };
        let found = match (made.is_empty(), merge) {
            (false, _) => TargetState::New,
            (true, true) => TargetState::Tree,
            (true, false) => TargetState::Empty,
        };
        let mut target = Target {
            directory,
            place,
            made,
            is_handed_over: false,
            found,
            attributes,
        };
        if let Err(error) = target.hand_over() {
            target.abandon()?;
            bail!("{path:?}: {error}");
        }
        Ok(target)
    }

    /// Another descriptor of it.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What it was like before it was unpacked into, with the ids of `maps`.
    pub fn before(&self, maps: &IdMaps) -> OriginalAttributes {
        OriginalAttributes {
            uid: maps.uids.to_inner(self.attributes.st_uid),
            gid: maps.gids.to_inner(self.attributes.st_gid),
            mode: Mode::from_raw_mode(self.attributes.st_mode),
        }
    }

    fn hand_over(&mut self) -> anyhow::Result<()> {
        let Isolation::Namespace(maps) = self.place else {
            return Ok(());
        };
        if self.attributes.st_uid == geteuid().as_raw() {
            handover::to_root(self.directory.as_fd(), maps)?;
            self.is_handed_over = true;
            self.attributes = fstat(&self.directory)?;
        }
        Ok(())
    }

    /// For a directory that is gone by now: removes those above that were made for it.
    pub fn remove_made(self) {
        remove(&self.made);
    }

    /// Gives the empty directory back, and removes it when it was made here.
    pub fn abandon(self) -> anyhow::Result<()> {
        if let (Isolation::Namespace(maps), true) = (self.place, self.is_handed_over) {
            handover::to_caller(self.directory.as_fd(), maps)?;
        }
        drop(self.directory);
        remove(&self.made);
        Ok(())
    }
}

/// Makes `path` and what is missing above it, outermost first. What was made is in `made` on an
/// error, too.
fn make<'p>(path: &'p Path, made: &mut Vec<PathBuf>) -> Result<(), (&'p Path, io::Error)> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|above| {
            !above.as_os_str().is_empty() && fs::symlink_metadata(above).is_err_and(is_not_found)
        })
        .collect();
    for (index, directory) in missing.iter().enumerate().rev() {
        // Until it belongs to root of the namespace nobody else is to look into DIR itself.
        let mode = if index == 0 { 0o700 } else { 0o777 };
        match fs::DirBuilder::new().mode(mode).create(directory) {
            Ok(()) => made.push(directory.to_path_buf()),
            // Somebody else was faster, or it is `a/..`.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err((directory, error)),
        }
    }
    Ok(())
}

fn is_not_found(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let opened = openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    opened.map_err(|error| anyhow!("{path:?}: open the directory: {}", describe(&error.into())))
}

/// Innermost first; one that is in use by now stays.
fn remove(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = fs::remove_dir(path);
    }
}

/// May users other than the caller go through all directories above `path`? Judged by the modes
/// alone.
pub fn is_reachable(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return true;
    };
    path.ancestors()
        .skip(1)
        .all(|above| fs::metadata(above).is_ok_and(|directory| directory.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_made_for_it_goes_with_it_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("old")).unwrap();
        let path = scratch.path().join("old/a/b");
        let target = Target::open(&path, false, &Isolation::None).unwrap();
        assert_eq!(target.found, TargetState::New);
        target.abandon().unwrap();
        assert!(scratch.path().join("old").exists() && !scratch.path().join("old/a").exists());
        let old = Target::open(&scratch.path().join("old"), false, &Isolation::None).unwrap();
        assert_eq!(old.found, TargetState::Empty);
        old.abandon().unwrap();
        assert!(scratch.path().join("old").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("file"), "").unwrap();
        for path in ["file", "file/a"] {
            assert!(
                Target::open(&scratch.path().join(path), false, &Isolation::None).is_err(),
                "{path}"
            );
        }
        let long = "n".repeat(300);
        assert!(
            Target::open(
                &scratch.path().join("new").join(long),
                false,
                &Isolation::None
            )
            .is_err()
        );
        assert!(!scratch.path().join("new").exists());
    }

    #[test]
    fn a_closed_directory_above_keeps_others_out() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        let set =
            |mode| fs::set_permissions(scratch.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        assert!(!is_reachable(&scratch.path().join("a/b")));
    }
}
