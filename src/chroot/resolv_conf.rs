//! `/etc/resolv.conf` of a tree.

use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::{FileError, PathContext};
use crate::tree::resolve;

const TEMPORARY: &str = ".resolv.conf.isar-tarball";

/// Writes `text` to the tree's resolv.conf. Replaces a symbolic link by a file, because the target
/// does not exist unless the tree's services run.
pub fn write(root: BorrowedFd<'_>, text: &[u8]) -> Result<(), FileError> {
    let shown = "etc/resolv.conf";
    let etc = resolve::open_in_root(root, b"etc", OFlags::PATH | OFlags::DIRECTORY)
        .at(shown, "open its directory")?;
    // Remove the temporary file of a killed run.
    match unlinkat(&etc, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(FileError::new(shown, "write", error)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&etc, TEMPORARY, flags, Mode::from_raw_mode(0o644)).at(shown, "create")?;
    let written = File::from(file).write_all(text).at(shown, "write");
    let placed =
        written.and_then(|()| renameat(&etc, TEMPORARY, &etc, "resolv.conf").at(shown, "write"));
    if placed.is_err() {
        let _ = unlinkat(&etc, TEMPORARY, AtFlags::empty());
    }
    placed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_stays() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("etc")).unwrap();
        fs::write(scratch.path().join("target"), "old").unwrap();
        symlink(
            scratch.path().join("target"),
            scratch.path().join("etc/resolv.conf"),
        )
        .unwrap();
        let root = File::open(scratch.path()).unwrap();
        write(root.as_fd(), b"new").unwrap();
        assert_eq!(
            fs::read(scratch.path().join("etc/resolv.conf")).unwrap(),
            b"new"
        );
        assert_eq!(fs::read(scratch.path().join("target")).unwrap(), b"old");
        assert_eq!(fs::read_dir(scratch.path().join("etc")).unwrap().count(), 1);
    }
}
