//! `isar-tarball completions`.

use clap::CommandFactory;

use super::Cli;
use super::report::{self, Status};

/// Print the completion script of a shell
///
/// Example: isar-tarball completions bash > /etc/bash_completion.d/isar-tarball
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "isar-tarball", &mut script);
    report::result_bytes(&script)?;
    Ok(Status::Done)
}
