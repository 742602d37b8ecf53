//! The command line: arguments become options of the library, its results become text and JSON.
//!
//! Only this module prints, knows clap, and decides exit statuses.

mod cache;
mod check;
mod chroot;
mod completions;
mod diff;
mod doctor;
mod excludes;
mod export;
mod grant_acl;
mod hints;
mod idmap;
mod imager;
mod info;
mod list;
mod man;
mod members;
mod observer;
mod pack;
mod progress;
mod quoting;
mod remove;
mod report;
mod session;
mod unpack;
mod unshare;
mod values;
mod version;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::ErrorKind::{
    DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::ArgValueCompleter;
use report::Status;

/// Packs the root file systems of rootless isar builds into chroot tarballs that sbuild loads, and
/// what that needs around it.
#[derive(Parser)]
#[command(
    name = "isar-tarball",
    version = version::VERSION,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The options that every command takes, before or after its name.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Print only errors and requested output
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print details
    #[arg(short, long, global = true)]
    verbose: bool,
    /// How progress is shown on stderr: a bar, plain NN% lines, or not at all; auto is a bar on a
    /// terminal
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    progress: progress::Mode,
    /// When output is coloured; auto is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: clap::ColorChoice,
    /// The user namespace to work in: auto (an ordinary user's own subordinate ids), off, or the
    /// name of a user
    #[arg(
        long,
        global = true,
        value_name = "auto|off|USER",
        default_value = "auto",
        add = ArgValueCompleter::new(completions::user_namespaces)
    )]
    userns: session::Userns,
    /// What id 0 of the tree is on disk: the first subordinate id, or the caller
    #[arg(long, global = true, value_name = "LAYOUT", default_value = "subid")]
    id_layout: session::LayoutName,
}

#[derive(Subcommand)]
enum Command {
    Pack(pack::Args),
    Unpack(unpack::Args),
    GrantAcl(grant_acl::Args),
    Check(check::Args),
    Info(info::Args),
    List(list::Args),
    Diff(diff::Args),
    Remove(remove::Args),
    Export(export::Args),
    Unshare(unshare::Args),
    Chroot(chroot::Args),
    Imager(imager::Args),
    Cache(cache::Args),
    Idmap(idmap::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program and gives its exit status.
pub fn main() -> ExitCode {
    isar_tarball::fail_beyond_file_size_limit();
    match completions::answer() {
        Ok(false) => {}
        Ok(true) => return Status::Done.into(),
        Err(error) => {
            report::usage(&error);
            return Status::Failed.into();
        }
    }
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        Ok((Cli::from_arg_matches(&matches)?, name))
    });
    let (Cli { globals, command }, name) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let printed = match error.kind() {
                DisplayHelp | DisplayVersion => report::result(&error.render().to_string()),
                DisplayHelpOnMissingArgumentOrSubcommand => {
                    let _ = error.print();
                    Ok(())
                }
                _ => {
                    report::usage(&error);
                    Ok(())
                }
            };
            let failed = failed(named().as_deref());
            return match printed {
                Err(error) => report::failure(&error, "", failed),
                Ok(()) if error.use_stderr() => failed,
                Ok(()) => Status::Done,
            }
            .end();
        }
    };
    let done = match command {
        Command::Pack(args) => pack::run(args, &globals),
        Command::Unpack(args) => unpack::run(args, &globals),
        Command::GrantAcl(args) => grant_acl::run(args, &globals),
        Command::Check(args) => check::run(args, &globals),
        Command::Info(args) => info::run(args, &globals),
        Command::List(args) => list::run(args, &globals),
        Command::Diff(args) => diff::run(args, &globals),
        Command::Remove(args) => remove::run(args, &globals),
        Command::Export(args) => export::run(args, &globals),
        Command::Unshare(args) => unshare::run(args, &globals),
        Command::Chroot(args) => chroot::run(args, &globals),
        Command::Imager(args) => imager::run(args, &globals),
        Command::Cache(args) => cache::run(args, &globals),
        Command::Idmap(args) => idmap::run(args, &globals),
        Command::Doctor(args) => doctor::run(args, &globals),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    };
    match done {
        Ok(status) => status.end(),
        Err(error) => report::failure(&error, &name, failed(Some(name.as_ref()))).end(),
    }
}

/// The status of a failure of this command, which must not be taken for that of a program which it
/// was to run.
fn failed(command: Option<&OsStr>) -> Status {
    let runs_programs = command.is_some_and(|name| {
        ["unshare", "chroot", "imager"]
            .iter()
            .any(|other| name == *other)
    });
    if runs_programs {
        Status::TOOL_FAILED
    } else {
        Status::Failed
    }
}

/// The first word that names a command, on a line that was not understood.
fn named() -> Option<OsString> {
    let cli = Cli::command();
    std::env::args_os().skip(1).find(|word| {
        cli.get_subcommands()
            .any(|command| word == command.get_name())
    })
}
