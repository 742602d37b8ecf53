//! Trees that only root of the namespace reaches, such as a copy in a cache.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::archive::open_tree;
use crate::error::{Error, ErrorKind};
use crate::userns::Isolation;
use crate::workdir::opening::{open_inside, open_path};

/// Opens a tree as the caller, or where the caller may not reach it, as root of the namespace.
pub(super) fn open_tree_inside(path: &Path, isolation: &Isolation) -> Result<OwnedFd, Error> {
    match open_tree(path) {
        Err(error)
            if error.kind() == ErrorKind::PermissionDenied && *isolation != Isolation::None =>
        {
            open_inside(path, isolation, || open_path(path)).map_err(|_| error)
        }
        opened => opened,
    }
}
