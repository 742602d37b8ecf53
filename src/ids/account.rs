//! Accounts, and the two kinds of ids.

use std::fmt;

/// A user with subordinate ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name; `None` for a user without a passwd entry, who can still have ranges by uid.
    pub name: Option<String>,
    /// The user's own uid.
    pub uid: u32,
    /// The user's own primary gid.
    pub gid: u32,
}

impl Account {
    /// The user's own id of this kind.
    pub fn own_id(&self, kind: IdKind) -> u32 {
        match kind {
            IdKind::User => self.uid,
            IdKind::Group => self.gid,
        }
    }
}

#[cfg(test)]
impl Account {
    /// The user of the unit tests: anna, 1000:1000.
    pub(super) fn anna() -> Account {
        Account {
            name: Some("anna".into()),
            uid: 1000,
            gid: 1000,
        }
    }
}

/// The login name, or the uid of a user without one.
impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{}", crate::error::Escaped(name)),
            None => write!(out, "{}", self.uid),
        }
    }
}

/// User or group ids, which have separate maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// uids: `/etc/subuid`, `uid_map`, `newuidmap`.
    User,
    /// gids: `/etc/subgid`, `gid_map`, `newgidmap`.
    Group,
}

impl IdKind {
    /// `uid` or `gid`.
    pub fn short(self) -> &'static str {
        match self {
            IdKind::User => "uid",
            IdKind::Group => "gid",
        }
    }
}

/// `user` or `group`.
impl fmt::Display for IdKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            IdKind::User => "user",
            IdKind::Group => "group",
        })
    }
}
