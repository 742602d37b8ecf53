//! `isar-tarball imager`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::bail;
use clap::ValueHint;
use isar_tarball::{Bind, CacheLimit, Imager, ImagerDirectory};

use super::Globals;
use super::chroot::{bind, refuse_option, variable};
use super::observer::Terminal;
use super::report::Status;
use super::values::{Limit, bytes_limit, count_limit};

/// Run a command in the tree of a tarball, as an imager task does
///
/// The tarball is unpacked, the packages are installed, and the command is run there as with
/// `chroot`, with the host's resolv.conf and an /isar-apt directory in the tree. At the end, at an
/// error and at a signal all of it is removed again; what a run leaves that was killed with SIGKILL
/// is removed by the next one. Without CMD, /bin/bash reads its script from stdin.
///
/// With --cache the tarball is unpacked once, and every run gets an overlay of its own on that
/// copy. Any number of runs may share a cache and start at once. A copy is found by the SHA-256 of
/// the tarball, which is remembered, so that a tarball is hashed only when it is new or was
/// touched. `isar-tarball cache` lists and removes copies.
///
/// Extended attributes of overlay file systems (user.overlay.*) are not unpacked: in a copy they
/// would change what the overlay shows.
#[derive(clap::Args)]
#[command(after_long_help = DETAILS, after_help = EXAMPLE)]
pub struct Args {
    /// Unpack to DIR for this run; DIR is removed at the end [default: a directory in TMPDIR, or
    /// /var/tmp]
    #[arg(long, value_name = "DIR", conflicts_with = "cache")]
    root: Option<PathBuf>,
    /// Keep an unpacked copy in DIR for the runs to come
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Remove copies that no run uses, least recently used first, until those left hold no more than
    /// this; with none, any amount stays [default: 20G]
    #[arg(long, value_name = "SIZE|none", value_parser = bytes_limit, requires = "cache")]
    cache_limit: Option<Limit>,
    /// Remove copies that no run uses, least recently used first, until no more than N are left; with
    /// none, any number stays [default: 16]
    #[arg(long, value_name = "N|none", value_parser = count_limit, requires = "cache")]
    cache_copies: Option<Limit>,
    /// Show HOST in the tree, at INNER or at its own path; with :ro nothing can be written there. A
    /// colon in a path is written \: (repeatable)
    #[arg(long, value_name = "HOST[:INNER][:ro]", value_parser = bind, value_hint = ValueHint::AnyPath)]
    bind: Vec<Bind>,
    /// Set a variable of the command's environment, which is otherwise the caller's (repeatable)
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(OsString, OsString)>,
    /// Unpack without extended attributes, ACLs included
    #[arg(long)]
    no_xattrs: bool,
    /// Fetch the package lists of all repositories first
    #[arg(long)]
    update: bool,
    /// Install these packages first, separated by spaces (repeatable)
    #[arg(long, value_name = "PACKAGES")]
    install: Vec<String>,
    /// Take .deb files from DIR instead of fetching them, and put new ones there
    #[arg(long, value_name = "DIR")]
    download_dir: Option<PathBuf>,
    /// Hold a shared lock on FILE while apt reads the repository and fetches packages (isar:
    /// ${REPO_ISAR_DIR}/isar.lock)
    #[arg(long, value_name = "FILE")]
    apt_lock: Option<PathBuf>,
    /// The tarball
    archive: PathBuf,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLE: &str = "Example: isar-tarball imager --cache ~/.cache/imager --install e2fsprogs --bind \"$PWD:/work\" schroot.tar.zst -- mkfs.ext4 -d /work/root /work/image";

const DETAILS: &str = "\
Exit status: that of the command; 128+N when signal N killed it; 127 when it is not there; 126 when it cannot be run; 125 when apt or isar-tarball failed, or it did not understand an option.

--install runs `apt-get update` on /etc/apt/sources.list.d/isar-apt.list alone, where the tree has that list (with --update on all lists), and then `apt-get install` without recommended
packages and without asking. apt gets no stdin, and what it prints goes to stderr: both streams are the command's.

Example: isar-tarball imager --root imgtools --bind \"$REPO:/isar-apt:ro\" --install \"dosfstools mtools\" --download-dir downloads schroot.tar.zst <<'EOF'
           mkfs.vfat /work/efi.img
         EOF";

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let usual = CacheLimit::default();
    refuse_option(&args.command)?;
    if args.archive.as_os_str() == "-" {
        bail!("cannot read the archive from stdin: give a file name");
    }
    let packages = args.install.iter().flat_map(|list| list.split_whitespace());
    let imager = Imager {
        session: globals.session(),
        directory: match (args.root, args.cache) {
            (Some(root), _) => ImagerDirectory::Root(root),
            (None, Some(directory)) => ImagerDirectory::Cache {
                directory,
                limit: CacheLimit {
                    bytes: args.cache_limit.map_or(usual.bytes, |limit| limit.0),
                    copies: args.cache_copies.map_or(usual.copies, |limit| limit.0),
                },
            },
            (None, None) => ImagerDirectory::Temporary,
        },
        binds: args.bind,
        environment: args.env,
        xattrs: !args.no_xattrs,
        update: args.update,
        packages: packages.map(str::to_owned).collect(),
        download_directory: args.download_dir,
        apt_lock: args.apt_lock,
        ..Imager::new(args.archive, args.command)
    };
    let ended = imager.run(&mut Terminal::new(globals))?;
    Ok(Status::Command(ended.code()))
}
