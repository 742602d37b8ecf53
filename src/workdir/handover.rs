//! A directory that the caller has just created changes to root of the namespace, and back.
//!
//! A second, small namespace has two ids: the caller as 0, and as 1 what is id 0 in the namespace
//! of the maps. Its root may change owners between the two, so neither needs rights in the
//! directory above.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, chownat, fstat, statx};
use rustix::process::{Gid, Uid, getegid, geteuid};

use crate::error::{Context, Error, ErrorKind, FileError, PathContext};
use crate::ids::{Extent, IdMap, IdMaps, MapError};
use crate::userns::{self, Isolation};

/// The owner that a directory gets, as an id of the small namespace.
#[derive(Clone, Copy)]
enum Owner {
    Caller = 0,
    Root = 1,
}

/// Makes root of the namespace with these maps the owner of `directory`, which belongs to the
/// caller. It may be open in any mode (`O_PATH` will do). Nothing happens where the caller is that
/// root.
///
/// To be called by the caller, while it has one thread. Signals that are blocked stay pending, so
/// it may be part of a clean-up.
pub fn to_root(directory: BorrowedFd<'_>, maps: &IdMaps) -> Result<(), Error> {
    // Below a directory with the setgid bit it has that one's group, which the small namespace
    // does not map.
    let group = getegid();
    if fstat(directory).at("", "stat")?.st_gid != group.as_raw() {
        change_owner(directory, None, Some(group))?;
    }
    hand_over(directory, maps, Owner::Root)
}

/// Makes the caller the owner of `directory` again: the other direction of [`to_root`], with the
/// same conditions.
pub fn to_caller(directory: BorrowedFd<'_>, maps: &IdMaps) -> Result<(), Error> {
    hand_over(directory, maps, Owner::Caller)
}

fn hand_over(directory: BorrowedFd<'_>, maps: &IdMaps, owner: Owner) -> Result<(), Error> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if (maps.uids.to_outer(0), maps.gids.to_outer(0)) == (Some(uid), Some(gid)) {
        return Ok(());
    }
    let map_error = |error: MapError| {
        Error::new(
            ErrorKind::SubordinateIds,
            format!("cannot change the owner of the directory: {error}"),
        )
    };
    let small = Isolation::Namespace(IdMaps {
        uids: pair(uid, &maps.uids).map_err(map_error)?,
        gids: pair(gid, &maps.gids).map_err(map_error)?,
    });
    userns::clean_up(&small, || {
        let id = owner as u32;
        match change_owner(directory, Some(Uid::from_raw(id)), Some(Gid::from_raw(id))) {
            // The kernel itself allows it: both owners are in this namespace.
            Err(error) if is_refused_by_file_system(directory, &error) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{error}: its file system lets no process of a user namespace change owners, \
                     as NFS does: use a directory on a local disk"
                ),
            )),
            done => done.context(|| "hand the directory over"),
        }
    })
}

/// The map of the small namespace: the caller's own id and the one that is 0 inside.
fn pair(own: u32, map: &IdMap) -> Result<IdMap, MapError> {
    let root = map.to_outer(0).ok_or(MapError::NoIds)?;
    let single = |inner, outer| Extent {
        inner,
        outer,
        count: 1,
    };
    IdMap::from_extents(vec![single(0, own), single(1, root)])
}

fn is_refused_by_file_system(directory: BorrowedFd<'_>, error: &FileError) -> bool {
    let found = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE);
    let protected = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let is_protected = found.is_ok_and(|found| found.stx_attributes.intersects(protected));
    error.cause.raw_os_error() == Some(libc::EPERM) && !is_protected
}

fn change_owner(
    directory: BorrowedFd<'_>,
    uid: Option<Uid>,
    gid: Option<Gid>,
) -> Result<(), FileError> {
    chownat(directory, c"", uid, gid, AtFlags::EMPTY_PATH).at("", "change its owner")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_small_map_has_the_caller_and_root_of_the_other() {
        let map = IdMap::parse(b"0 100000 65536\n").unwrap();
        assert_eq!(
            pair(1000, &map).unwrap().kernel_text(),
            "0 1000 1\n1 100000 1\n"
        );
        assert_eq!(pair(100_000, &map), Err(MapError::Malformed(2)));
        let rootless = IdMap::parse(b"5 100000 1\n").unwrap();
        assert_eq!(pair(1000, &rootless), Err(MapError::NoIds));
    }
}
