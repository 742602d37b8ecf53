//! `isar-tarball export`.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::export::{self, channel, receive, send};
use isar_tarball::pack::output::Output;
use isar_tarball::userns::{Outside, Request, supervise};
use serde_json::json;

use super::report::{self, Status};
use super::{Globals, place, rootfs};

/// Copy files out of a tree that belongs to subordinate ids
///
/// The copies are the caller's own files. Each is written beside its place and renamed. A MEMBER
/// that is a symbolic link is followed as the tree sees it, so /vmlinuz works; patterns find files
/// only.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  isar-tarball export rootfs /initrd.img deploy/initrd.img
  isar-tarball export --mode 0644 rootfs '/boot/vmlinuz-*' '/usr/lib/linux-image-*/**/*.dtb' deploy")]
pub struct Args {
    /// Permissions of the copies, in octal [default: 0666 less the umask]
    #[arg(long, value_parser = mode)]
    mode: Option<u32>,
    /// Print as JSON what was copied: {"files": [{"member": PATH, "file": PATH, "bytes": N}, …]}
    #[arg(long)]
    json: bool,
    /// The tree
    rootfs: PathBuf,
    /// Files in the tree: paths or patterns, then where they go: a directory, or for a single file
    /// its new name
    #[arg(required = true, num_args = 2.., value_names = ["MEMBER", "DEST"])]
    members_and_dest: Vec<OsString>,
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} are no permissions from 0 to 777"))
}

/// The process inside has sent a file.
const FILE: Request = b'f';

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let shown = args.rootfs.clone();
    export_files(args, globals).with_context(|| format!("cannot export from {shown:?}"))
}

fn export_files(mut args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let Some(dest) = args.members_and_dest.pop().map(PathBuf::from) else {
        bail!("say where the files go")
    };
    let members: Vec<Vec<u8>> = std::mem::take(&mut args.members_and_dest)
        .into_iter()
        .map(OsString::into_vec)
        .collect();
    let into_directory = dest.is_dir();
    let root = rootfs::open(&args.rootfs)?;
    let place = place::place(globals)?;
    let (ours, theirs) = channel()?;
    let mut copied = Vec::new();
    let mut failure = None;
    let outcome = supervise(
        &place,
        |request| match request {
            FILE => take(ours.as_fd(), &dest, into_directory, &args)
                .map(|file| copied.push(file))
                .map_err(|error| {
                    failure = Some(error);
                    io::ErrorKind::Other.into()
                }),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        },
        |outside| match hand_out(&root, &members, into_directory, &theirs, outside) {
            Ok(status) => status.code(),
            Err(error) => {
                report::error(&error.context(format!("cannot export from {:?}", args.rootfs)));
                Status::Failed.code()
            }
        },
    )?;
    if let Some(error) = failure {
        return Err(error);
    }
    if args.json {
        report::result(&format!("{:#}\n", json!({"files": copied})))?;
    }
    Ok(place::of_work(outcome, || {
        format!("cannot export from {:?}", args.rootfs)
    }))
}

/// Finds the files inside and sends them, open, to the caller.
fn hand_out(
    root: &OwnedFd,
    members: &[Vec<u8>],
    into_directory: bool,
    socket: &OwnedFd,
    outside: &mut Outside,
) -> anyhow::Result<Status> {
    let found = export::find(root, members)?;
    if found.len() > 1 && !into_directory {
        bail!(
            "{} files need a directory to go to, and DEST is none; make it first",
            found.len()
        );
    }
    export::refuse_same_names(&found)?;
    for (path, file) in &found {
        send(socket.as_fd(), path, file.as_fd()).with_context(|| Escaped(path).to_string())?;
        // Why it failed is said outside.
        if outside.ask(FILE).is_err() {
            return Ok(Status::Failed);
        }
    }
    Ok(Status::Done)
}

/// Copies, as the caller, a file that the process inside has opened.
fn take(
    socket: BorrowedFd<'_>,
    dest: &Path,
    into_directory: bool,
    args: &Args,
) -> anyhow::Result<serde_json::Value> {
    let (path, file) = receive(socket)?;
    let place = if into_directory {
        dest.join(export::name(&path))
    } else {
        dest.to_owned()
    };
    let bytes = copy_out(&path, file, &place, args.mode)?;
    let member = String::from_utf8_lossy(&path).into_owned();
    Ok(json!({"member": member, "file": place.to_string_lossy(), "bytes": bytes}))
}

/// Copies what a process inside has opened as `member` to `place`. Gives the bytes.
pub fn copy_out(
    member: &[u8],
    file: OwnedFd,
    place: &Path,
    mode: Option<u32>,
) -> anyhow::Result<u64> {
    let said = |error: io::Error| {
        anyhow!(
            "{}: copy to {place:?}: {}",
            Escaped(member),
            describe(&error)
        )
    };
    let mut output = Output::create(place)?;
    let mut to = output.file();
    let bytes = io::copy(&mut File::from(file), &mut to).map_err(said)?;
    if let Some(mode) = mode {
        to.set_permissions(Permissions::from_mode(mode))
            .map_err(said)?;
    }
    to.sync_all().map_err(said)?;
    output.publish()?;
    Ok(bytes)
}
