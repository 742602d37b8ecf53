//! Trees that only root of the namespace reaches, such as a copy in a cache.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::archive::open_tree;
use crate::error::{Error, ErrorKind, PathContext, bytes};
use crate::userns::{self, Isolation, SignalPolicy, Supervision};
use crate::workdir::opening::open_path;

/// Opens a tree as the caller, or where the caller may not reach it, as root of the namespace.
pub(super) fn open_tree_inside(path: &Path, isolation: &Isolation) -> Result<OwnedFd, Error> {
    match open_tree(path) {
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && *isolation != Isolation::None =>
        {
            open_inside(path, isolation).map_err(|_| error)
        }
        opened => opened,
    }
}

fn open_inside(path: &Path, isolation: &Isolation) -> Result<OwnedFd, Error> {
    let mut received = None;
    let supervision = Supervision {
        isolation,
        signals: SignalPolicy::Hold,
        observer: &mut (),
        progress: None,
    };
    userns::supervise(
        supervision,
        |(), descriptor| {
            received = descriptor;
            Ok(().into())
        },
        || Ok(()),
        |caller, ()| {
            let directory = open_path(path).at(bytes(path), "open the directory")?;
            caller.exchange((), Some(directory.as_fd()))?;
            Ok(())
        },
    )?;
    received.ok_or_else(|| Error::new(ErrorKind::Died, "the directory was not sent"))
}
