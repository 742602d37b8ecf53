//! The caller's copy of a directory that [`super::Export`] reads inside.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fchmod, mkdirat, openat, symlinkat};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, FileError, PathContext};
use crate::export;
use crate::tree::{holes, walk};
use crate::workdir::output_directory::OutputDirectory;

/// What is added to the copy.
#[derive(Serialize, Deserialize)]
pub(super) enum Content {
    /// A directory with these permissions.
    Directory(u32),
    /// The regular file that comes with it, open.
    File,
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
}

/// A copy that is being filled.
pub(super) struct CopiedDirectory {
    output: OutputDirectory,
    /// Permissions of all copies of files, if the user gave them.
    mode: Option<u32>,
    /// The directories and their permissions, which they get in the end.
    directories: Vec<(Vec<u8>, u32)>,
}

impl CopiedDirectory {
    /// Begins a copy that will have the name `place`. `own` are the permissions of the original.
    pub(super) fn create(
        place: &Path,
        own: u32,
        mode: Option<u32>,
    ) -> Result<CopiedDirectory, Error> {
        Ok(CopiedDirectory {
            output: OutputDirectory::create(place)?,
            mode,
            directories: vec![(Vec::new(), own)],
        })
    }

    /// Adds what has this path below the directory. Gives the bytes of a file.
    pub(super) fn add(
        &mut self,
        path: &[u8],
        content: Content,
        file: Option<OwnedFd>,
    ) -> Result<u64, Error> {
        let name = export::name(path);
        let above = path.len().saturating_sub(name.len() + 1);
        let above = path.get(..above).unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = walk::open(self.output.directory(), above, flags)?;
        match content {
            Content::Directory(own) => {
                mkdirat(&directory, name, Mode::RWXU).at(path, "create the directory")?;
                self.directories.push((path.to_vec(), own));
            }
            Content::Symlink(target) => {
                symlinkat(OsStr::from_bytes(&target), &directory, name)
                    .at(path, "create the link")?;
            }
            Content::File => {
                let file = file.ok_or_else(|| {
                    Error::new(ErrorKind::Died, "a file was announced and not sent")
                })?;
                return Ok(self.copy(path, &directory, name, file)?);
            }
        }
        Ok(0)
    }

    fn copy(
        &self,
        path: &[u8],
        directory: &OwnedFd,
        name: &OsStr,
        file: OwnedFd,
    ) -> Result<u64, FileError> {
        let own = export::mode_of(file.as_fd(), path)?;
        let mode = Mode::from_raw_mode(self.mode.unwrap_or(own));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = File::from(openat(directory, name, flags, mode).at(path, "create")?);
        let bytes = holes::copy(&File::from(file), &to).at(path, "copy")?;
        if let Some(mode) = self.mode {
            to.set_permissions(Permissions::from_mode(mode))
                .at(path, "change the permissions")?;
        }
        Ok(bytes)
    }

    /// Gives the directories their permissions and the copy its name.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let umask = rustix::process::umask(Mode::empty());
        rustix::process::umask(umask);
        // A directory may be closed to its owner: those below it first.
        for (path, own) in self.directories.iter().rev() {
            let mode = match self.mode {
                // Users who may read a directory may also search it.
                Some(mode) => mode | (mode & 0o444) >> 2,
                None => own & !umask.as_raw_mode(),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = walk::open(self.output.directory(), path, flags)?;
            fchmod(&directory, Mode::from_raw_mode(mode)).at(path, "change the permissions")?;
        }
        Ok(self.output.publish()?)
    }
}
