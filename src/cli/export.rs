//! `isar-tarball export`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::bail;
use clap_complete::ArgValueCompleter;
use isar_tarball::{Export, Exported};
use serde_json::{Value, json};

use super::Globals;
use super::completions::members_and_paths;
use super::observer::Terminal;
use super::report::{self, Status};

/// Copy files and directories out of a tree that belongs to subordinate ids
///
/// The copies are the caller's own. Each is written beside its name and renamed; a directory must
/// not exist under its new name. A copy keeps the holes of a file and has the permissions that the
/// original has, less the umask: at no time more, without setuid and setgid.
///
/// A MEMBER that is a symbolic link is followed as the tree sees it, so /vmlinuz works. Links in a
/// directory are copied as links; named pipes, sockets and device nodes are left out. A pattern
/// finds files, or directories where it finds no file. Binary content does not go to a terminal.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  isar-tarball export rootfs /initrd.img deploy/initrd.img
  isar-tarball export rootfs /boot deploy/boot
  isar-tarball export --mode 0644 rootfs '/boot/vmlinuz-*' '/usr/lib/linux-image-*/**/*.dtb' deploy")]
pub struct Args {
    /// Permissions of the copies, in octal; users who may read a directory may also enter it
    /// [default: those of the originals, less the umask]
    #[arg(long, value_parser = mode)]
    mode: Option<u32>,
    /// Print as JSON what was copied: {"files": [{"member": PATH, "file": PATH, "bytes": N}, …]}
    #[arg(long)]
    json: bool,
    /// The tree
    rootfs: PathBuf,
    /// Files and directories in the tree: paths or patterns, then their destination: a directory,
    /// or for a single one its new name
    #[arg(
        required = true,
        num_args = 2..,
        value_names = ["MEMBER", "DEST"],
        add = ArgValueCompleter::new(members_and_paths)
    )]
    members_and_dest: Vec<OsString>,
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is not an octal mode (0-777)"))
}

pub fn run(mut args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let Some(destination) = args.members_and_dest.pop() else {
        bail!("give a destination");
    };
    let members = args.members_and_dest.into_iter().map(OsString::into_vec);
    let export = Export {
        session: globals.session(),
        rootfs: args.rootfs,
        members: members.collect(),
        destination: destination.into(),
        mode: args.mode,
    };
    let copied = export.run(&mut Terminal::new(globals))?;
    if args.json {
        let files: Vec<Value> = copied.iter().map(object).collect();
        report::result(&format!("{:#}\n", json!({"files": files})))?;
    }
    Ok(Status::Done)
}

fn object(copied: &Exported) -> Value {
    json!({
        "member": String::from_utf8_lossy(&copied.member),
        "file": copied.file.to_string_lossy(),
        "bytes": copied.bytes,
    })
}
