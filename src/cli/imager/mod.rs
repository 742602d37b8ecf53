//! `isar-tarball imager`.

mod args;
mod home;
mod inside;
mod packages;

use std::fs::{self, File};
use std::io;

use anyhow::{Context, anyhow, bail};
use isar_tarball::chroot::MountSources;
use isar_tarball::error::describe;
use isar_tarball::export::channel;
use isar_tarball::ids::SubidFiles;
use isar_tarball::unpack::TargetState;
use isar_tarball::userns::init::own_mounts;
use isar_tarball::userns::{Isolation, Request, hold_signals, supervise_command};

use super::chroot::refuse_option;
use super::report::{self, Status};
use super::{Globals, place, rootfs, unpack};
pub use args::Args;
use home::Home;
use inside::Inside;
use packages::Packages;

/// The process inside is about to make something: from here on there is something to remove.
const BEGIN: Request = b'b';
/// It has removed all of it.
const CLEARED: Request = b'c';

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let context = format!("cannot run a command in the tree of {:?}", args.archive);
    imager(&args, globals, &context).context(context.clone())
}

fn imager(args: &Args, globals: &Globals, context: &str) -> anyhow::Result<Status> {
    refuse_option(&args.command)?;
    if args.archive.as_os_str() == "-" {
        bail!("stdin is the command's; give the name of a file");
    }
    let archive =
        File::open(&args.archive).map_err(|error| anyhow!("open: {}", describe(&error)))?;
    let place = place::place(globals)?;
    let maps = match &place {
        Isolation::Namespace(maps) => maps.clone(),
        Isolation::None => SubidFiles::default().identity()?,
    };
    let as_unpack =
        unpack::Args::plain(args.archive.clone(), args.root.clone().unwrap_or_default());
    let options = as_unpack.options(TargetState::New, &place, maps.clone())?;
    let threads = options.threads;
    let resolv_conf = resolv_conf()?;
    let (ours, theirs) = channel().context("make a socket")?;
    // A signal that comes before there is somebody to clean up waits for that.
    hold_signals()?;
    let home = Home::open(args, &place, &maps)?;
    let inside = Inside {
        args,
        globals,
        context,
        archive,
        input: as_unpack.input(),
        options,
        resolv_conf,
        socket: theirs,
    };
    let mut packages = Packages::new(args, ours);
    let (mut has_begun, mut is_cleared) = (false, false);
    let outcome = supervise_command(
        &place,
        |request| {
            match request {
                BEGIN => has_begun = true,
                CLEARED => is_cleared = true,
                other => packages.serve(other)?,
            }
            Ok(())
        },
        || sources(args, &home, &place),
        |outside, sources| {
            sources
                .and_then(|sources| inside.run(outside, &sources))
                .unwrap_or_else(|error| {
                    report::error(&error.context(context.to_owned()));
                    Status::TOOL_FAILED.code()
                })
        },
    );
    if let Some(error) = packages.failure {
        report::error(&error);
    }
    let tidied = match (has_begun, is_cleared) {
        (false, _) => home.abandon(),
        (true, false) => home
            .clear(&place, threads)
            .and_then(|()| home.remove(&place)),
        (true, true) => home.remove(&place),
    };
    // What kept the command from running is the first thing to tell.
    let status = place::of_command(outcome?);
    tidied?;
    Ok(status)
}

/// Opens, in the mount namespace of the process inside, what it is going to work with.
fn sources(args: &Args, home: &Home<'_>, place: &Isolation) -> anyhow::Result<MountSources> {
    if *place == Isolation::None {
        own_mounts().map_err(|error| anyhow!("make a mount namespace: {}", describe(&error)))?;
    }
    Ok(MountSources::open(rootfs::open(home.path())?, &args.bind)?)
}

/// The host's; `None` when it has none.
fn resolv_conf() -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read("/etc/resolv.conf") {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("/etc/resolv.conf: read: {}", describe(&error)),
    }
}
