//! `isar-tarball unshare`.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, anyhow};
use isar_tarball::chroot::proc::{self, Proc};
use isar_tarball::error::describe;
use isar_tarball::userns::init::Init;
use isar_tarball::userns::supervise_command;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::chroot::refuse_option;
use super::report::{self, Status};
use super::{Globals, place};

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
    let (program, rest) = args.command.split_first().context("give a command")?;
    refuse_option(&args.command)?;
    let place = place::place(globals)?;
    let ended = supervise_command(
        &place,
        |_| Ok(()),
        || (),
        |_, ()| {
            let setup = || -> anyhow::Result<Command> {
                renew_proc(globals)?;
                let mut command = Command::new(program);
                command.args(rest);
                Ok(command)
            };
            let init = match Init::new() {
                Ok(init) => init,
                Err(error) => {
                    report::error(&anyhow!("watch the command: {}", describe(&error)));
                    return Status::TOOL_FAILED.code();
                }
            };
            init.run(setup, |error| report::error(&anyhow!("cannot {error}")))
                .unwrap_or_else(|error| {
                    report::error(&anyhow!("cannot {error}"));
                    error.status()
                })
        },
    )?;
    Ok(place::of_command(ended))
}

fn renew_proc(globals: &Globals) -> anyhow::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let at = openat(CWD, "/proc", flags, Mode::empty())
        .map_err(|error| anyhow!("open /proc: {}", describe(&error.into())))?;
    match proc::mount(std::os::fd::AsFd::as_fd(&at)) {
        Ok(Proc::Mounted) => Ok(()),
        Ok(Proc::Masked) => {
            if !globals.quiet {
                report::warning(proc::MASKED);
            }
            Ok(())
        }
        Err(error) => Err(anyhow!("mount /proc: {}", describe(&error))),
    }
}
