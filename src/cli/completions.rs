//! `isar-tarball completions`.

use std::io;

use clap::CommandFactory;

use super::Cli;
use super::report::Status;

/// Print the completion script of a shell
///
/// Example: isar-tarball completions bash > /etc/bash_completion.d/isar-tarball
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "isar-tarball",
        &mut io::stdout().lock(),
    );
    Ok(Status::Done)
}
