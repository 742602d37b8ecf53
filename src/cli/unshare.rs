//! `isar-tarball unshare`.

use std::ffi::OsString;

use isar_tarball::Unshare;

use super::Globals;
use super::chroot::refuse_option;
use super::observer::Terminal;
use super::report::Status;

/// Run a command as root of the namespace of subordinate ids
///
/// The command is root in a user, mount and pid namespace of its own, with a fresh /proc. It keeps
/// the working directory, the environment and every open descriptor; it gets the signals that
/// isar-tarball gets; it ends when isar-tarball ends, with all that it has started.
#[derive(clap::Args)]
#[command(after_long_help = DETAILS, after_help = EXAMPLE)]
pub struct Args {
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLE: &str = "Example: isar-tarball unshare -- find rootfs -perm /6000";

const DETAILS: &str = "\
Exit status: that of the command; 128+N when signal N killed it; 127 when it is not there; 126 when it cannot be run; 125 when isar-tarball failed or did not understand an option.

Process 1 of the pid namespace is isar-tarball itself: it collects orphans and passes signals on. With --userns off, root stays in its user namespace.

Example: isar-tarball unshare sh -s 3>rootfs.tar <<'EOF'
           tar -C rootfs -c . >&3
         EOF";

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    refuse_option(&args.command)?;
    let unshare = Unshare {
        session: globals.session(),
        command: args.command,
    };
    let ended = unshare.run(&mut Terminal::new(globals))?;
    Ok(Status::Command(ended.code()))
}
