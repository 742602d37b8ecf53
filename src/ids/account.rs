//! Whose ids, and which of the two kinds.

use std::fmt;

/// The user whose subordinate ids are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name; `None` for a user without a passwd entry, who can still have lines by
    /// number.
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

/// The login name, or the uid of a user without one.
impl fmt::Display for Account {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(out, "{}", crate::error::Escaped(name)),
            None => write!(out, "{}", self.uid),
        }
    }
}

/// Users and groups are mapped apart.
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
