//! What an archive is.

use super::archive::{ArchivePath, Reading};
use super::session::caller;
use crate::error::{Context, Error};
use crate::info::{self, Info as Description};
use crate::sbuild::accounts;
use crate::sbuild::build_user::BuildUsers;

/// Describes an archive.
#[derive(Clone, Debug)]
pub struct Info {
    /// The archive.
    pub archive: ArchivePath,
    /// How it is read.
    pub reading: Reading,
}

/// What [`Info`] finds.
#[derive(Debug)]
pub struct InfoReport {
    /// The archive, its members, and the system in it.
    pub description: Description,
    /// The uids that sbuild builds as when the caller starts it, or why they cannot be told. `None`
    /// if the archive has no users.
    pub build_users: Option<Result<BuildUsers, String>>,
}

impl Info {
    /// Describes `archive`, read with default options.
    pub fn new(archive: impl Into<ArchivePath>) -> Info {
        Info {
            archive: archive.into(),
            reading: Reading::default(),
        }
    }

    /// Reads the whole archive.
    pub fn run(&self) -> Result<InfoReport, Error> {
        let inspect = || -> Result<InfoReport, Error> {
            let file = self.archive.open()?;
            let description = info::inspect(file, &self.reading.options())?;
            let build_users = build_users(&description);
            Ok(InfoReport {
                description,
                build_users,
            })
        };
        inspect().context(|| format!("cannot read {}", self.archive))
    }
}

fn build_users(description: &Description) -> Option<Result<BuildUsers, String>> {
    let name = caller().ok().and_then(|account| account.name);
    let accounts = description.system.accounts.as_ref()?;
    let users = accounts.build_users(name.as_ref().map(|name| name.as_bytes()));
    Some(users.map_err(|error: accounts::Error| error.to_string()))
}
