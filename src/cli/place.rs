//! Where a command works: as the caller, or in the namespace of subordinate ids.

use std::convert::Infallible;
use std::str::FromStr;

/// What `--userns` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Userns {
    /// An ordinary user enters a namespace over its own subordinate ids, root works as it is.
    Auto,
    /// Never enter a namespace.
    Off,
    /// The namespace of this user's subordinate ids.
    User(String),
}

impl FromStr for Userns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Userns, Infallible> {
        Ok(match text {
            "auto" => Userns::Auto,
            "off" => Userns::Off,
            user => Userns::User(user.to_owned()),
        })
    }
}

/// What `--id-layout` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Id 0 of the tree is the first subordinate id, as sbuild and mmdebstrap have it.
    Subid,
    /// Id 0 of the tree is the caller.
    Caller,
}
