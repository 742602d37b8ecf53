//! The caller's side of installing packages: package files go in and out as open files, and the
//! repository is locked.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat};

use super::Imager;
use crate::error::{Error, ErrorKind, FileError, PathContext, bytes};
use crate::export;
use crate::imager::apt::is_package;
use crate::operations::export::copy_out;
use crate::workdir::Namespaces;
use crate::workdir::lock::{self, Mode as LockMode};
use crate::workdir::trust::Trust;

/// What the caller does for the child.
pub struct Packages<'a> {
    directory: Option<&'a Path>,
    lock_file: Option<&'a Path>,
    /// Those still to give, once they are asked for.
    waiting: Option<Vec<PathBuf>>,
    lock: Option<File>,
}

impl<'a> Packages<'a> {
    /// # Errors
    ///
    /// `Untrusted` for a download directory that another user could exchange.
    pub fn open(imager: &'a Imager, namespaces: &Namespaces) -> Result<Packages<'a>, Error> {
        let directory = imager.download_directory.as_deref();
        if let Some(directory) = directory {
            Trust::new(&namespaces.whole).open_or_create(directory)?;
        }
        Ok(Packages {
            directory,
            lock_file: imager.apt_lock.as_deref(),
            waiting: None,
            lock: None,
        })
    }

    /// The next package file; `None` when all are given.
    pub fn next(&mut self) -> Result<Option<(Vec<u8>, OwnedFd)>, Error> {
        let Some(directory) = self.directory else {
            return Ok(None);
        };
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => none.insert(
                packages(directory)
                    .map_err(|error| failed(directory, "list the directory", error))?,
            ),
        };
        let Some(path) = waiting.pop() else {
            return Ok(None);
        };
        let file = File::open(&path).map_err(|error| failed(&path, "open", error))?;
        let name = path.file_name().unwrap_or_default();
        Ok(Some((name.as_encoded_bytes().to_vec(), file.into())))
    }

    /// Keeps a package file in the download directory, unless one of its name and size is there.
    pub fn keep(&mut self, name: &[u8], file: Option<OwnedFd>) -> Result<(), Error> {
        let Some(directory) = self.directory else {
            return Ok(());
        };
        let file = file
            .ok_or_else(|| Error::new(ErrorKind::Died, "a package was announced and not sent"))?;
        let place = directory.join(export::name(name));
        let size = fstat(&file).at(name, "stat")?.st_size;
        let is_known =
            fs::metadata(&place).is_ok_and(|known| i64::try_from(known.size()) == Ok(size));
        if !is_known {
            copy_out(name, file, &place, None)?;
        }
        Ok(())
    }

    /// Locks the repository. False while another process has the lock for itself.
    pub fn lock(&mut self) -> Result<bool, Error> {
        let Some(path) = self.lock_file else {
            return Ok(true);
        };
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666));
        let file = File::from(opened.map_err(|error| failed(path, "open", error))?);
        let is_locked =
            lock::try_lock(&file, LockMode::Shared).map_err(|error| failed(path, "lock", error))?;
        // bitbake removes its lock files: then the lock is on a file without a name.
        let is_current = is_locked && is_same(file.metadata(), fs::metadata(path));
        if is_current {
            self.lock = Some(file);
        }
        Ok(is_current)
    }

    /// Unlocks the repository.
    pub fn unlock(&mut self) {
        self.lock = None;
    }
}

fn is_same(one: io::Result<fs::Metadata>, other: io::Result<fs::Metadata>) -> bool {
    let id = |file: fs::Metadata| (file.dev(), file.ino());
    matches!((one.map(id), other.map(id)), (Ok(one), Ok(other)) if one == other)
}

/// The package files in a directory; none when it is missing.
fn packages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| is_package(path.file_name().unwrap_or_default()) && path.is_file());
    Ok(paths)
}

fn failed(path: &Path, act: &'static str, cause: impl Into<io::Error>) -> Error {
    FileError::new(bytes(path), act, cause).into()
}
