//! Whole jobs, one type per command.
//!
//! Each type has public options and a method `run`, which opens what the caller named, enters the
//! namespace, does the work, publishes the result and cleans up. If the child sends requests to
//! the caller, one file defines the requests and answers them.

mod archive;
mod cache;
mod check;
mod chroot;
mod container;
mod diff;
mod doctor;
mod excludes;
mod export;
mod export_directory;
mod grant_acl;
mod idmap;
mod imager;
mod info;
mod list;
mod pack;
mod remove;
mod session;
mod tree_owner;
mod tree_path;
mod unpack;
mod unshare;

pub use archive::{ArchivePath, Reading};
pub use cache::{ImagerCache, Prune};
pub use check::{Check, CheckReport};
pub use chroot::Chroot;
pub use container::CommandStatus;
pub use diff::{Diff, DiffReport};
pub use doctor::Doctor;
pub use export::{Export, Exported};
pub use grant_acl::{GrantAcl, GrantRole, Granted, GrantedDirectory, Grantee, Grantees};
pub use idmap::{IdMapping, Idmap};
pub use imager::{Imager, ImagerDirectory};
pub use info::{Info, InfoReport};
pub use list::List;
pub use pack::{DEFAULT_EXCLUDES, Pack};
pub use remove::{Remove, RemovedTree};
pub use session::{Session, UserNamespace};
pub use unpack::{Unpack, UnpackMode};
pub use unshare::Unshare;
