//! What the user typed and what the user sees. Nothing below this module prints.

mod check;
mod chroot;
mod completions;
mod diff;
mod doctor;
mod export;
mod grant_acl;
mod idmap;
mod imager;
mod info;
mod list;
mod man;
mod pack;
mod place;
mod progress;
mod quoting;
mod remove;
mod report;
mod source;
mod unpack;
mod unshare;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use report::Status;

/// Packs the root file systems of rootless isar builds into chroot tarballs that sbuild loads, and what that needs around it.
#[derive(Parser)]
#[command(name = "isar-tarball", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The options that every command takes, before or after its name.
#[derive(clap::Args, Clone)]
pub struct Globals {
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// How progress is shown on stderr: a bar, plain NN% lines, or not at all [auto: a bar on a terminal]
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    progress: progress::Mode,
    /// When output is coloured [auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: clap::ColorChoice,
    /// The user namespace to work in: auto (an ordinary user's own subordinate ids), off, or the name of a user
    #[arg(long, global = true, value_name = "auto|off|USER", default_value = "auto")]
    userns: place::Userns,
    /// What id 0 of the tree is on disk: the first subordinate id, or the caller
    #[arg(long, global = true, value_name = "LAYOUT", default_value = "subid")]
    id_layout: place::Layout,
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
    Idmap(idmap::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program and gives its exit status.
pub fn main() -> ExitCode {
    let Cli { globals, command } = Cli::parse();
    let failed = match command {
        Command::Unshare(_) | Command::Chroot(_) | Command::Imager(_) => Status::TOOL_FAILED,
        _ => Status::Failed,
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
        Command::Idmap(args) => idmap::run(args, &globals),
        Command::Doctor(args) => doctor::run(args, &globals),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    };
    match done {
        Ok(status) => status.into(),
        Err(error) => report::failure(&error, failed).into(),
    }
}
