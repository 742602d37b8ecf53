//! `isar-tarball completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::report::{self, Status};

/// Print the completion script of a shell
///
/// Example: isar-tarball completions bash > /etc/bash_completion.d/isar-tarball
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    report::result(&script(args.shell))?;
    Ok(Status::Done)
}

fn script(shell: Shell) -> String {
    // clap_complete's script for bash takes the hyphen in the name for the space before a
    // subcommand, and then completes nothing (clap issue 6421).
    let name = match shell {
        Shell::Bash => "isar_tarball",
        _ => "isar-tarball",
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => script.replace("-o default isar_tarball\n", "-o default isar-tarball\n"),
        _ => script.into_owned(),
    }
}
