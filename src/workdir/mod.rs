//! Working directories and output files: every command that creates, fills, replaces or removes one
//! uses the types here.
//!
//! | | |
//! |---|---|
//! | [`trust`] | which directories are used at all |
//! | [`lock`] | one operation at a time; a process that died holds nothing |
//! | [`opening`] | directories opened, locked and listed, by the caller or inside |
//! | [`rename`] | names given, exchanged and removed |
//! | [`leftovers`] | hidden directories of killed operations, removed |
//! | [`location`] | where a directory is; what must not be removed |
//! | [`directory`] | a directory that is filled, beside its name or in place, and put there or undone |
//! | [`retired`] | a directory that gives up its name and is removed |
//! | [`removal`] | the removal of trees itself |
//! | [`handover`] | a directory changes between the caller and root of the namespace |
//! | [`shared`] | a directory that many runs share, such as a cache |
//! | [`runs`] | directories of runs that share a cache |
//! | [`output`] | a file that appears whole or not at all |
//! | [`output_directory`] | a directory of the caller that does |

pub mod directory;
pub mod handover;
pub mod leftovers;
pub mod location;
pub mod lock;
pub mod opening;
pub mod output;
pub mod output_directory;
pub mod removal;
pub mod rename;
pub mod retired;
pub mod runs;
pub mod shared;
pub mod trust;

use crate::userns::Isolation;

/// The namespaces that an operation works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// With the ids that the tree shows.
    pub work: Isolation,
    /// With all ids that the user has, the user's own among them: its root may rename and remove
    /// whatever the user or any id layout created.
    pub whole: Isolation,
}

impl Namespaces {
    /// No namespace at all.
    pub const NONE: Namespaces = Namespaces {
        work: Isolation::None,
        whole: Isolation::None,
    };
}
