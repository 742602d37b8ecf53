//! Hidden directories of killed operations, found by their names beside a directory.
//!
//! Both names end in `isar-tarball-new` or `isar-tarball-old` and belong to this program. What has
//! one is removed only if it is a directory of the caller or its namespace, no mount point, and not
//! locked by a running operation.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Namespaces;
use super::location::Location;
use super::opening::lock_directory;
use super::rename::discard;
use super::trust::Trust;
use crate::error::{Context, Error};

/// The suffix of a directory while it is filled.
pub const NEW: &str = "isar-tarball-new";

/// The suffix of a directory while it is removed.
pub const OLD: &str = "isar-tarball-old";

/// Removes what killed operations left beside the directory at `location`.
///
/// # Errors
///
/// `InUse` while another operation works in one of the hidden directories.
pub fn clear(location: &Location, namespaces: &Namespaces) -> Result<(), Error> {
    for suffix in [NEW, OLD] {
        let name = location.sibling(suffix);
        let Some(found) = location.open_name(&name)? else {
            continue;
        };
        let path = hidden_path(location, &name);
        let clear = || -> Result<(), Error> {
            location.refuse_precious(found.as_fd(), &[])?;
            Trust::new(&namespaces.whole).created(found.as_fd(), &path)?;
            // The operation that filled it may have ended since it was opened: then it is gone, or
            // has been published and is no leftover.
            if let Some(directory) = lock_directory(found.as_fd(), location.path(), namespaces)?
                && location.is_name_of(&name, directory.as_fd())
            {
                discard(location, &name, directory.as_fd(), namespaces)?;
            }
            Ok(())
        };
        clear().context(|| format!("{path:?}, which a killed operation may have left"))?;
    }
    Ok(())
}

/// The path of a hidden directory, for messages.
pub fn hidden_path(location: &Location, name: &CStr) -> PathBuf {
    location
        .path()
        .with_file_name(OsStr::from_bytes(name.to_bytes()))
}
