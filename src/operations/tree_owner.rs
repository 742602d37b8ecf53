//! Under which id map a tree was made, as the owner of its root tells.

use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::process::geteuid;

use super::session::{self, Session};
use crate::error::{Error, ErrorKind, PathContext};
use crate::ids::{IdMaps, Layout};
use crate::workdir::Namespaces;

/// The owner of a tree that was made under another id map than the one in use.
pub(super) struct ForeignOwner {
    uid: u32,
    gid: u32,
    /// The same as numbered in the tree, where the id map has them.
    inside: (Option<u32>, Option<u32>),
    /// Under which id map the tree was made, and what to do about it.
    origin: String,
}

impl ForeignOwner {
    /// Of the tree at `root`, open in any mode; `None` if its root belongs to 0:0. To be called by
    /// the caller.
    pub(super) fn of(
        root: BorrowedFd<'_>,
        session: &Session,
        namespaces: &Namespaces,
    ) -> Result<Option<ForeignOwner>, Error> {
        let stat = fstat(root).at("", "stat")?;
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let maps = session::maps(&namespaces.work)?;
        let inside = inside(&maps, uid, gid);
        if inside == (Some(0), Some(0)) {
            return Ok(None);
        }
        Ok(Some(ForeignOwner {
            uid,
            gid,
            inside,
            origin: match inside {
                (Some(0), _) => String::from("give it group 0 of the id map (chgrp)"),
                _ => origin(session, uid, gid)?,
            },
        }))
    }

    /// As an error about the tree.
    pub(super) fn error(&self) -> Error {
        Error::new(ErrorKind::ForeignTree, self.text())
    }

    /// The owner and where it comes from, in words.
    pub(super) fn text(&self) -> String {
        let ForeignOwner {
            uid, gid, origin, ..
        } = self;
        let shown = match self.inside {
            (Some(uid), Some(gid)) => format!("is {uid}:{gid} in the id map"),
            _ => String::from("the id map lacks"),
        };
        format!(
            "its root directory belongs to {uid}:{gid} on this machine, which {shown}, instead of \
             0:0 of the id map: {origin}"
        )
    }
}

/// Owner and group as the id maps number them inside.
fn inside(maps: &IdMaps, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
    (maps.uids.to_inner(uid), maps.gids.to_inner(gid))
}

/// Under which id map the tree was made, and what to do about it.
fn origin(session: &Session, uid: u32, gid: u32) -> Result<String, Error> {
    let (other, name) = match session.layout {
        Layout::Subid => (Layout::Caller, "caller"),
        Layout::Caller => (Layout::Subid, "subid"),
    };
    let fits = |layout| -> Result<bool, Error> {
        let session = Session {
            layout,
            ..session.clone()
        };
        let found = session.subordinate(&mut ())?;
        Ok(found.is_some_and(|found| inside(&found.maps, uid, gid) == (Some(0), Some(0))))
    };
    if fits(other)? {
        let also = match other {
            Layout::Caller => ", or it is an ordinary directory of yours",
            Layout::Subid => "",
        };
        return Ok(format!(
            "it was made in the id layout `{name}` (choose that layout){also}"
        ));
    }
    if (uid, gid) == (0, 0) {
        return Ok(String::from(
            "it was made by root without a user namespace; work as root",
        ));
    }
    if uid == geteuid().as_raw() {
        return Ok(String::from("it is an ordinary directory of yours"));
    }
    let subid = fs::read("/etc/subuid").unwrap_or_default();
    Ok(match range_owner(&subid, uid) {
        Some(user) => format!(
            "it was made in the user namespace of {user}, whose subordinate ids begin with {uid}; \
             work in that namespace"
        ),
        None => format!(
            "it was made under an id map whose id 0 is {uid} on this machine, as in a container; \
             use it there, or unpack its archive here"
        ),
    })
}

/// The user in the text of `/etc/subuid` who has a range that begins with `base`.
fn range_owner(subid: &[u8], base: u32) -> Option<String> {
    let text = String::from_utf8_lossy(subid);
    let owner = |line: &str| {
        let mut fields = line.trim().split(':');
        let user = fields.next().filter(|user| !user.is_empty())?;
        (fields.next()?.parse() == Ok(base)).then(|| user.escape_debug().to_string())
    };
    text.lines().find_map(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_range_is_found_by_its_first_id() {
        let subid = b"# comment\nanna:100000:65536\nbroken\n:5:1\n1001:231072:65536\n";
        for (base, owner) in [
            (100_000, Some("anna")),
            (231_072, Some("1001")),
            (5, None),
            (100_001, None),
        ] {
            assert_eq!(range_owner(subid, base).as_deref(), owner, "{base}");
        }
    }
}
