//! Subordinate ids: the ranges of a user, and the map between the ids of a tree and those on disk.
//!
//! ```text
//! subid_files ──ranges──> usable ──> map <──layout, the user's own id, what /proc/self/uid_map offers
//!    │                                │
//!  subid (text)                     IdMaps ──> userns
//! ```
//!
//! `subid`, `usable` and `map` are pure; `subid_files` reads the files or runs getsubids.

pub mod account;
pub mod map;
pub mod subid;
pub mod subid_files;
pub mod usable;

pub use account::{Account, IdKind};
pub use map::{Extent, IdMap, IdMaps, Layout, MapError};
pub use subid::Range;
pub use subid_files::{SourceError, SubidFiles};
