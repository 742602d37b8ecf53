//! How sbuild loads a chroot tarball: the rules of its loaders, and the ids of its build user.

pub mod accounts;
pub mod build_user;
pub mod check;
pub mod examination;
pub mod extraction;
pub mod filter;
pub mod findings;
pub mod owners;
pub mod rules;
