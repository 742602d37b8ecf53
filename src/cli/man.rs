//! `isar-tarball man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;
use super::report::Status;

/// Write the manual pages into a directory
///
/// Example: isar-tarball man /usr/local/share/man/man1
#[derive(clap::Args)]
pub struct Args {
    /// Where the pages go; made when missing
    dir: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    let dir = args.dir;
    std::fs::create_dir_all(&dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
        .with_context(|| format!("cannot write the manual pages to {dir:?}"))?;
    Ok(Status::Done)
}
