//! Handing a directory that the caller has just made over to root of the namespace, and taking it
//! back.
//!
//! A second, tiny namespace has two ids: the caller as 0, and as 1 what is id 0 in the namespace of
//! the maps. Its root may change owners between the two, so neither needs rights in the directory
//! above.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, chownat, fstat};
use rustix::process::{Gid, Uid, getegid, geteuid};

use super::signals::Watched;
use super::{Isolation, Outcome, Request, supervise_watching};
use crate::error::describe;
use crate::ids::{Extent, IdMap, IdMaps, MapError};

/// Why a directory stays with the owner that it had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The maps have no id 0, or none that can stand beside the caller's.
    #[error("cannot hand the directory over: {0}")]
    Map(MapError),
    /// The small namespace cannot be entered.
    #[error(transparent)]
    Enter(#[from] super::Error),
    /// The owner cannot be changed.
    #[error("change its owner: {}", describe(.0))]
    Change(io::Error),
    /// The process in the small namespace was killed.
    #[error("change its owner: the process that was to do it was killed by signal {0}")]
    Killed(i32),
}

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
/// To be called by the process outside, which is still the caller and has one thread. Signals that
/// are blocked stay pending meanwhile, so that it may be part of a clean-up.
pub fn to_root(directory: BorrowedFd<'_>, maps: &IdMaps) -> Result<(), Error> {
    // Below a directory with the setgid bit it has the group of that one, which the small namespace
    // does not know.
    let group = getegid();
    if fstat(directory).map_err(changed)?.st_gid != group.as_raw() {
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
    let small = IdMaps {
        uids: pair(uid, &maps.uids).map_err(Error::Map)?,
        gids: pair(gid, &maps.gids).map_err(Error::Map)?,
    };
    let mut failure = None;
    let note = |errno: Request| {
        failure = Some(io::Error::from_raw_os_error(errno.into()));
        Ok(())
    };
    let signals = Watched::children().map_err(super::Error::Supervise)?;
    let outcome = supervise_watching(
        signals,
        &Isolation::Namespace(small),
        note,
        || (),
        |outside, ()| {
            let id = owner as u32;
            match change_owner(directory, Some(Uid::from_raw(id)), Some(Gid::from_raw(id))) {
                Ok(()) => 0,
                Err(error) => {
                    let errno = match error {
                        Error::Change(cause) => cause.raw_os_error(),
                        _ => None,
                    };
                    // The numbers of Linux end below 256.
                    let errno = errno.and_then(|errno| Request::try_from(errno).ok());
                    let _ = outside.ask(errno.unwrap_or(libc::EIO as Request));
                    1
                }
            }
        },
    )?;
    match (outcome, failure) {
        (Outcome::Exited(0), _) => Ok(()),
        (_, Some(cause)) => Err(Error::Change(cause)),
        (Outcome::Killed(signal), None) => Err(Error::Killed(signal)),
        (Outcome::Exited(_), None) => Err(Error::Change(io::ErrorKind::Other.into())),
    }
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

fn change_owner(
    directory: BorrowedFd<'_>,
    uid: Option<Uid>,
    gid: Option<Gid>,
) -> Result<(), Error> {
    chownat(directory, c"", uid, gid, AtFlags::EMPTY_PATH).map_err(changed)
}

fn changed(error: rustix::io::Errno) -> Error {
    Error::Change(error.into())
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
