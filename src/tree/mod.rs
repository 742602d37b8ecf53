//! Trees on disk: walking them, what of their attributes is kept, what is left out.

pub mod exclude;
pub mod mounts;
pub mod resolve;
pub mod selection;
pub mod walk;
pub mod xattr;
