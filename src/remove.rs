//! Removing trees, by descriptors: no symbolic link is followed, no mount entered.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, unlinkat};
use rustix::io::Errno;

use crate::error::{At, FileError, Shown};
use crate::tree::walk::{self, Mount};

/// A tree that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is mounted below the tree.
    #[error("{}: something is mounted there; unmount it first", Shown(path))]
    Mounted {
        /// The mount point.
        path: Vec<u8>,
    },
}

/// A directory on the way down. One descriptor each: a tree may be as deep as the process may have open files.
struct Level {
    directory: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// What is left to remove in it, and whether that is a directory.
    left: Vec<(CString, bool)>,
}

/// Removes everything below the directory `root`, but not the directory itself.
///
/// A mount stops the removal; what came before it is gone then.
pub fn contents(root: BorrowedFd<'_>) -> Result<(), Error> {
    let mount = Mount::of(&walk::stat(root, c"", b"")?);
    let mut levels = vec![enter(root, c".", b"")?];
    while let Some(level) = levels.last_mut() {
        let Some((name, is_directory)) = level.left.pop() else {
            let path = path(&levels, None);
            if let (Some(done), Some(above)) = (levels.pop(), levels.last()) {
                unlink(&above.directory, &done.name, AtFlags::REMOVEDIR, &path)?;
            }
            continue;
        };
        let path = path(&levels, Some(&name));
        let Some(Level { directory, .. }) = levels.last() else { break };
        if !is_directory {
            unlink(directory, &name, AtFlags::empty(), &path)?;
        } else if Mount::of(&walk::stat(directory.as_fd(), &name, &path)?) == mount {
            let below = enter(directory.as_fd(), &name, &path)?;
            levels.push(below);
        } else {
            return Err(Error::Mounted { path });
        }
    }
    Ok(())
}

/// The path of the lowest level, or of `name` in it, for messages.
fn path(levels: &[Level], name: Option<&CStr>) -> Vec<u8> {
    let above = levels.iter().skip(1).map(|level| level.name.as_c_str());
    let components: Vec<&[u8]> = above.chain(name).map(CStr::to_bytes).collect();
    components.join(&b'/')
}

fn enter(parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Level, Error> {
    let directory = walk::open(parent, name.to_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut left = Vec::new();
    for entry in Dir::read_from(&directory).at(path, "list the directory")? {
        let entry = entry.at(path, "list the directory")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let stat = walk::stat(directory.as_fd(), name, path)?;
                FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        left.push((name.to_owned(), is_directory));
    }
    Ok(Level { directory, name: name.to_owned(), left })
}

fn unlink(directory: &OwnedFd, name: &CStr, flags: AtFlags, path: &[u8]) -> Result<(), Error> {
    match unlinkat(directory, name, flags) {
        // Somebody else was faster.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(Error::Mounted { path: path.to_vec() }),
        Err(error) => Err(FileError::new(path, "remove", error).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_below_goes_and_links_are_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (tree, outside) = (scratch.path().join("tree"), scratch.path().join("outside"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        contents(fs::File::open(&tree).unwrap().as_fd()).unwrap();
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}
