//! The undo journal: a list of new files that outlives the process that unpacks, so that another
//! process can remove them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, memfd_create, openat, unlinkat,
};
use rustix::io::Errno;

use super::error::Error;
use super::names;
use super::root::{self, Root};
use crate::error::{FileError, of_call};
use crate::workdir::removal;

/// A list of new files and directories, in memory shared with forked processes. It does not list
/// files below a new directory.
#[derive(Debug)]
pub struct UndoJournal {
    list: File,
}

impl UndoJournal {
    /// Creates an empty list.
    pub fn new() -> io::Result<UndoJournal> {
        let list = match memfd_create("made", MemfdFlags::CLOEXEC) {
            // A seccomp filter blocks it: a file without a name does as well.
            Err(Errno::NOSYS | Errno::PERM) => {
                let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
                openat(CWD, std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|error| of_call("memfd_create", "3.17", error))?
            }
            made => made?,
        };
        Ok(UndoJournal { list: list.into() })
    }

    /// Adds the path of a file or directory that is about to be created.
    pub fn note(&self, path: &[u8]) -> io::Result<()> {
        // A single write, so a process killed in between has either noted the file or not created
        // it.
        (&self.list).write_all(&[path, b"\0"].concat())
    }

    /// Removes the listed files from the directory `root`, the latest first. Missing files are not
    /// an error.
    pub fn remove(&self, root: BorrowedFd<'_>, options: &removal::Options) -> Result<(), Error> {
        let mut paths = Vec::new();
        (&self.list)
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.list).read_to_end(&mut paths))
            .map_err(Error::Note)?;
        let root = Root::new(root);
        for path in paths
            .split(|byte| *byte == 0)
            .rev()
            .filter(|path| !path.is_empty())
        {
            remove_one(&root, path, options)?;
        }
        Ok(())
    }
}

fn remove_one(root: &Root<'_>, path: &[u8], options: &removal::Options) -> Result<(), Error> {
    let (above, name) = names::split(path);
    let failed = |act, error: Errno| FileError::new(path, act, error);
    let above = match root.open_directory(above) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|error| failed("open the directory above it", error))?,
    };
    let kind = match root::kind(above.as_fd(), name) {
        Err(Errno::NOENT) => return Ok(()),
        kind => kind.map_err(|error| failed("stat", error))?,
    };
    let mut flags = AtFlags::empty();
    if kind == FileType::Directory {
        let directory =
            root::open_directory_in(above.as_fd(), name).map_err(|error| failed("open", error))?;
        removal::contents(directory.as_fd(), options)?;
        flags = AtFlags::REMOVEDIR;
    }
    match unlinkat(&above, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove", error).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_on_the_list_goes_and_all_else_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("tree/old/new/below")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        fs::write(at("outside/kept"), "").unwrap();
        fs::write(at("tree/old/kept"), "").unwrap();
        fs::write(at("tree/old/new/below/file"), "").unwrap();
        symlink(at("outside"), at("tree/link")).unwrap();
        let made = UndoJournal::new().unwrap();
        for path in ["old/new", "link", "gone/already", "gone"] {
            made.note(path.as_bytes()).unwrap();
        }
        let options = removal::Options::all(1);
        made.remove(File::open(at("tree")).unwrap().as_fd(), &options)
            .unwrap();
        assert!(at("outside/kept").exists() && at("tree/old/kept").exists());
        assert!(!at("tree/old/new").exists() && fs::symlink_metadata(at("tree/link")).is_err());
    }
}
