//! ROOTFS, a tree on the command line.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{anyhow, bail};
use isar_tarball::error::describe;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// Opens it as the caller, who need not be able to read it. The error leaves out the path, which
/// the commands name with what they could not do.
pub fn open(rootfs: &Path) -> anyhow::Result<OwnedFd> {
    match openat(
        CWD,
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(root) => Ok(root),
        Err(Errno::NOTDIR) => {
            bail!("it is no directory; `isar-tarball unpack` makes one of an archive")
        }
        Err(error) => Err(anyhow!("open the directory: {}", describe(&error.into()))),
    }
}
