//! The global options as values of the library.

use std::convert::Infallible;
use std::str::FromStr;

use isar_tarball::{ArchivePath, Layout, Reading, Session, UserNamespace};
use std::path::Path;

use super::Globals;

/// The value of `--userns`.
#[derive(Clone, Debug)]
pub struct Userns(UserNamespace);

impl FromStr for Userns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Userns, Infallible> {
        Ok(Userns(match text {
            "auto" => UserNamespace::Auto,
            "off" => UserNamespace::Off,
            user => UserNamespace::User(user.to_owned()),
        }))
    }
}

/// The value of `--id-layout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutName {
    /// Id 0 of the tree is the first subordinate id, as in sbuild and mmdebstrap
    Subid,
    /// Id 0 of the tree is the caller
    Caller,
}

impl Globals {
    /// The session that the global options choose.
    pub fn session(&self) -> Session {
        Session {
            userns: self.userns.0.clone(),
            layout: match self.id_layout {
                LayoutName::Subid => Layout::Subid,
                LayoutName::Caller => Layout::Caller,
            },
        }
    }
}

/// The archive that a command line names: a file, or `-`.
pub fn archive(path: &Path) -> ArchivePath {
    match path.as_os_str() == "-" {
        true => ArchivePath::Stdio,
        false => ArchivePath::File(path.to_owned()),
    }
}

/// The options of everything that reads archives.
#[derive(clap::Args, Clone, Copy)]
pub struct ReadingArgs {
    /// Threads that decompress; 0 = one per CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The widest zstd window to accept, as a power of two; sbuild accepts 27
    #[arg(long, value_name = "10-31", default_value_t = 27, value_parser = clap::value_parser!(u32).range(10..=31))]
    window_log: u32,
}

impl ReadingArgs {
    /// Reading within `memory` bytes.
    pub fn within(self, memory: u64) -> Reading {
        Reading {
            threads: self.threads,
            memory,
            window_log: self.window_log,
        }
    }
}
