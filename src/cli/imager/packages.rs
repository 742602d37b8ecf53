//! The caller's side of installing packages: package files go in and out as open files, and the
//! repository is locked.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::export::{self, receive, send};
use isar_tarball::imager::apt::is_package;
use isar_tarball::userns::Request;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat};
use rustix::io::Errno;

use super::Args;
use crate::cli;

/// Send the next package file; ENODATA when there is none.
pub const GIVE: Request = b'g';
/// A package file has been sent: keep it.
pub const TAKE: Request = b't';
/// Lock the repository; EAGAIN while somebody changes it.
pub const LOCK: Request = b'l';
/// Unlock it.
pub const UNLOCK: Request = b'u';

/// What the caller does for the process inside.
pub struct Packages<'a> {
    directory: Option<&'a Path>,
    lock_file: Option<&'a Path>,
    socket: OwnedFd,
    /// Those to give, once they are asked for.
    waiting: Option<Vec<PathBuf>>,
    lock: Option<File>,
    /// Why a request was not done.
    pub failure: Option<anyhow::Error>,
}

impl<'a> Packages<'a> {
    /// Package files go over `socket`.
    pub fn new(args: &'a Args, socket: OwnedFd) -> Packages<'a> {
        Packages {
            directory: args.download_dir.as_deref(),
            lock_file: args.apt_lock.as_deref(),
            socket,
            waiting: None,
            lock: None,
            failure: None,
        }
    }

    /// Does what is asked for.
    pub fn serve(&mut self, request: Request) -> io::Result<()> {
        let done = match request {
            GIVE => self.give(),
            TAKE => self.take(),
            LOCK => self.lock(),
            UNLOCK => {
                self.lock = None;
                return Ok(());
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match done {
            Ok(true) => Ok(()),
            Ok(false) if request == LOCK => Err(Errno::AGAIN.into()),
            Ok(false) => Err(Errno::NODATA.into()),
            Err(error) => {
                self.failure = Some(error);
                Err(Errno::IO.into())
            }
        }
    }

    fn give(&mut self) -> anyhow::Result<bool> {
        let Some(directory) = self.directory else {
            return Ok(false);
        };
        if self.waiting.is_none() {
            self.waiting = Some(
                packages(directory)
                    .map_err(|error| said(directory, "list the directory", &error))?,
            );
        }
        let Some(path) = self.waiting.as_mut().and_then(Vec::pop) else {
            return Ok(false);
        };
        let file = File::open(&path).map_err(|error| said(&path, "open", &error))?;
        let name = path.file_name().unwrap_or_default();
        send(self.socket.as_fd(), name.as_encoded_bytes(), file.as_fd())
            .map_err(|error| said(&path, "send", &error))?;
        Ok(true)
    }

    fn take(&mut self) -> anyhow::Result<bool> {
        let (name, file) = receive(self.socket.as_fd()).context("receive a package")?;
        let Some(directory) = self.directory else {
            return Ok(true);
        };
        let place = directory.join(export::name(&name));
        let size = fstat(&file)
            .with_context(|| Escaped(&name).to_string())?
            .st_size;
        if !fs::metadata(&place).is_ok_and(|known| i64::try_from(known.size()) == Ok(size)) {
            fs::create_dir_all(directory)
                .map_err(|error| said(directory, "make the directory", &error))?;
            cli::export::copy_out(&name, file, &place, None)?;
        }
        Ok(true)
    }

    /// False while somebody has it for themselves.
    fn lock(&mut self) -> anyhow::Result<bool> {
        let Some(path) = self.lock_file else {
            return Ok(true);
        };
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666));
        let file = File::from(opened.map_err(|error| said(path, "open", &error.into()))?);
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::AGAIN) => return Ok(false),
            locked => locked.map_err(|error| said(path, "lock", &error.into()))?,
        }
        // bitbake removes its lock files: then the lock is on a file that nobody else sees.
        let still = is_same(file.metadata(), fs::metadata(path));
        if still {
            self.lock = Some(file);
        }
        Ok(still)
    }
}

fn is_same(one: io::Result<fs::Metadata>, other: io::Result<fs::Metadata>) -> bool {
    let id = |file: fs::Metadata| (file.dev(), file.ino());
    matches!((one.map(id), other.map(id)), (Ok(one), Ok(other)) if one == other)
}

/// The package files in a directory; none when it is not there.
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

fn said(path: &Path, act: &str, error: &io::Error) -> anyhow::Error {
    anyhow!("{path:?}: {act}: {}", describe(error))
}
