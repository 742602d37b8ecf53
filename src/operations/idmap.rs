//! The id maps of the other operations.

use super::session::{Session, Subordinate};
use crate::error::Error;
use crate::ids::subid_files::SubidFiles;
use crate::ids::{Account, IdKind, IdMaps, Range};
use crate::observer::Observer;

/// Computes the id maps.
#[derive(Clone, Debug, Default)]
pub struct Idmap {
    /// The user namespace.
    pub session: Session,
}

/// What [`Idmap`] gives.
#[derive(Clone, Debug)]
pub struct IdMapping {
    /// The maps. Without a namespace each id is itself.
    pub maps: IdMaps,
    /// Whose subordinate ids they use; `None` without a namespace.
    pub account: Option<Account>,
    /// The ranges of subordinate uids that are used.
    pub uid_ranges: Vec<Range>,
    /// The ranges of subordinate gids that are used.
    pub gid_ranges: Vec<Range>,
}

impl Idmap {
    /// The maps that the other operations use in the same session.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<IdMapping, Error> {
        Ok(match self.session.subordinate(observer)? {
            Some(Subordinate {
                account,
                ranges,
                maps,
            }) => {
                let files = SubidFiles::default();
                let usable = |kind| files.usable(kind, &account, &ranges);
                IdMapping {
                    maps,
                    uid_ranges: usable(IdKind::User)?,
                    gid_ranges: usable(IdKind::Group)?,
                    account: Some(account),
                }
            }
            None => IdMapping {
                maps: SubidFiles::default().identity()?,
                account: None,
                uid_ranges: Vec::new(),
                gid_ranges: Vec::new(),
            },
        })
    }
}
