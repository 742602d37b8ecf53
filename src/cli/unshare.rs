//! `isar-tarball unshare`.

use anyhow::bail;

use super::Globals;
use super::report::Status;

/// To be written.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args, _globals: &Globals) -> anyhow::Result<Status> {
    bail!("to be written")
}
