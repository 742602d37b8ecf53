//! `isar-tarball diff`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, anyhow};
use isar_tarball::diff::{self, Difference, Files, Mtime, Outcome, Rules, What};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::input::Input;
use isar_tarball::tree::exclude::Patterns;
use isar_tarball::userns::{Isolation, supervise};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde_json::{Value, json};

use super::pack::DEFAULT_EXCLUDES;
use super::report::{self, Status};
use super::source::{self, Reading};
use super::values::list;
use super::{Globals, place};

/// Show what differs between two trees, each a directory or an archive
///
/// One line a difference: the path, what differs, its value in A and in B. Kind, mode, owner, size,
/// content, targets of links, groups of hard links, extended attributes and ACLs are compared.
/// Where the holes of a file are makes no difference.
///
/// A directory belongs to the caller's subordinate ids, or to whoever --userns names. Where one
/// side is a directory, what pack leaves out by default is left out here too, on both sides: the
/// default excludes, sockets, and device nodes that the other side lacks. So `diff ROOTFS ARCHIVE`
/// says whether the archive kept everything.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball diff rootfs schroot.tar.zst", after_long_help = DETAILS)]
pub struct Args {
    /// A directory or a tarball, or - for a tarball on stdin
    a: PathBuf,
    /// The other one
    b: PathBuf,
    /// Compare times of the last change too, by nanoseconds or by whole seconds (--mtime=s)
    #[arg(long, value_name = "ns|s", num_args = 0..=1, require_equals = true, default_missing_value = "ns")]
    mtime: Option<Precision>,
    /// Leave out what matches on both sides, as in pack (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Do not leave out /var/cache/apt/archives and /isar-apt where one side is a directory
    #[arg(long)]
    no_default_excludes: bool,
    /// Device nodes of a directory that the other side lacks: skip them, or count them as
    /// differences
    #[arg(long, default_value = "skip")]
    devices: Devices,
    /// Enter other file systems and bind mounts in a directory, of which else only the mount point
    /// is compared
    #[arg(long)]
    cross_mounts: bool,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: Reading,
}

const DETAILS: &str = "\
Example: isar-tarball diff rootfs schroot.tar.zst

The exit status is 0 when nothing differs, 1 when something does, 2 when a side cannot be read.
With -q nothing is printed.

A line is PATH: WHAT: A → B, where WHAT is one of
  presence, kind, hard link, size, content, target, device, mode, owner, mtime,
  access ACL, default ACL, xattr NAME
and `nothing` stands for a value that one side does not have. A hard link has the first name of its
file that both sides have. What all names of a file share is reported under the first.

--json prints {\"a\": NAME, \"b\": NAME, \"equal\": BOOL, \"differences\": [{\"path\", \"what\",
  \"xattr\": NAME or null, \"a\": VALUE or null, \"b\": VALUE or null}, …], \"skipped\": {\"devices\",
  \"sockets\", \"mounts\", \"excluded\"}}; in paths and values what is not printable is escaped.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    Ns,
    S,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Devices {
    Skip,
    Keep,
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let names = || format!("cannot compare {:?} and {:?}", args.a, args.b);
    compare(&args, globals, names).with_context(names)
}

fn compare(args: &Args, globals: &Globals, names: impl Fn() -> String) -> anyhow::Result<Status> {
    if args.a.as_os_str() == "-" && args.b.as_os_str() == "-" {
        return Err(anyhow!("both are stdin, which can be read once"));
    }
    let (a, b) = (Side::open(&args.a)?, Side::open(&args.b)?);
    let has_directory = a.is_directory() || b.is_directory();
    let options = args.options(has_directory)?;
    let place = if has_directory {
        place::place(globals)?
    } else {
        Isolation::None
    };
    let job = || -> anyhow::Result<Status> {
        let (a, b) = read(a, b, args, &options)?;
        let outcome = diff::compare(&a, &b, args.rules());
        print(&outcome, &a, &b, args, globals)
    };
    // Two archives need no other place than this process.
    if !has_directory {
        return job();
    }
    let outcome = supervise(
        &place,
        |_| Err(io::ErrorKind::InvalidInput.into()),
        |_| {
            let done = job();
            done.unwrap_or_else(|error| report::failure(&error.context(names()), Status::Failed))
                .code()
        },
    )?;
    Ok(place::of_work(outcome, names))
}

impl Args {
    fn options(&self, has_directory: bool) -> anyhow::Result<diff::Options> {
        let defaults: &[&str] = if has_directory && !self.no_default_excludes {
            &DEFAULT_EXCLUDES
        } else {
            &[]
        };
        let patterns = defaults
            .iter()
            .copied()
            .chain(self.exclude.iter().map(String::as_str));
        let exclude = Patterns::new(patterns)?;
        Ok(diff::Options {
            exclude,
            cross_mounts: self.cross_mounts,
            threads: self.reading.threads(),
        })
    }

    fn rules(&self) -> Rules {
        let mtime = match self.mtime {
            None => Mtime::Ignored,
            Some(Precision::S) => Mtime::Seconds,
            Some(Precision::Ns) => Mtime::Nanoseconds,
        };
        Rules {
            mtime,
            devices: self.devices == Devices::Keep,
        }
    }
}

/// A side, opened as the caller.
enum Side {
    Directory(OwnedFd),
    Archive(File),
}

impl Side {
    fn open(path: &Path) -> anyhow::Result<Side> {
        let named = || format!("{path:?}");
        if path.as_os_str() == "-" {
            return source::open(path).map(Side::Archive).with_context(named);
        }
        let look = || -> rustix::io::Result<(OwnedFd, FileType)> {
            let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
            Ok((file, kind))
        };
        let (file, kind) = look()
            .map_err(|error| anyhow!("open: {}", describe(&error.into())))
            .with_context(named)?;
        match kind {
            FileType::Directory => Ok(Side::Directory(file)),
            _ => source::open(path).map(Side::Archive).with_context(named),
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self, Side::Directory(_))
    }

    fn read(self, name: &Path, args: &Args, options: &diff::Options) -> anyhow::Result<Files> {
        let read = || -> anyhow::Result<Files> {
            match self {
                Side::Directory(root) => Ok(diff::directory(root, options)?),
                Side::Archive(file) => Ok(diff::archive(
                    &mut Input::open(file, &args.reading.options())?,
                    options,
                )?),
            }
        };
        read().with_context(|| format!("{name:?}"))
    }
}

/// Reads both sides at once.
fn read(a: Side, b: Side, args: &Args, options: &diff::Options) -> anyhow::Result<(Files, Files)> {
    thread::scope(|scope| {
        let other = scope.spawn(|| b.read(&args.b, args, options));
        let a = a.read(&args.a, args, options);
        let b = other
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((a?, b?))
    })
}

fn print(
    outcome: &Outcome,
    a: &Files,
    b: &Files,
    args: &Args,
    globals: &Globals,
) -> anyhow::Result<Status> {
    let text = match args.json {
        true => format!("{:#}\n", as_json(outcome, a, b, args)),
        false => outcome.differences.iter().map(line).collect(),
    };
    if !globals.quiet {
        if !args.json {
            skipped(outcome, a, b);
        }
        report::result(&text)?;
    }
    Ok(if outcome.differences.is_empty() {
        Status::Done
    } else {
        Status::No
    })
}

fn line(difference: &Difference) -> String {
    let Difference { path, what, a, b } = difference;
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| String::from("nothing"));
    let name = match what {
        What::Xattr(name) => format!(" {}", Escaped(name)),
        _ => String::new(),
    };
    format!(
        "{}: {}{name}: {} → {}\n",
        shown(path),
        what.word(),
        value(a),
        value(b)
    )
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        String::from(".")
    } else {
        Escaped(path).to_string()
    }
}

/// Says what was there and not compared.
fn skipped(outcome: &Outcome, a: &Files, b: &Files) {
    let sum = |count: fn(&diff::LeftOut) -> u64| count(&a.left_out) + count(&b.left_out);
    let counts = [
        (
            outcome.devices,
            "device nodes",
            String::from(" that only a directory has"),
        ),
        (sum(|left_out| left_out.sockets), "sockets", String::new()),
        (sum(|left_out| left_out.mounts), "mounts", String::new()),
        (
            sum(|left_out| left_out.excluded),
            "excluded names",
            String::new(),
        ),
    ];
    let shown = list(&counts);
    if !shown.is_empty() {
        report::say(&format!("not compared: {shown}"));
    }
}

fn as_json(outcome: &Outcome, a: &Files, b: &Files, args: &Args) -> Value {
    let difference = |difference: &Difference| {
        let Difference { path, what, a, b } = difference;
        let xattr = match what {
            What::Xattr(name) => Some(Escaped(name).to_string()),
            _ => None,
        };
        json!({"path": shown(path), "what": what.word(), "xattr": xattr, "a": a, "b": b})
    };
    let differences: Vec<Value> = outcome.differences.iter().map(difference).collect();
    json!({
        "a": args.a.to_string_lossy(),
        "b": args.b.to_string_lossy(),
        "equal": differences.is_empty(),
        "differences": differences,
        "skipped": {
            "devices": outcome.devices,
            "sockets": a.left_out.sockets + b.left_out.sockets,
            "mounts": a.left_out.mounts + b.left_out.mounts,
            "excluded": a.left_out.excluded + b.left_out.excluded,
        },
    })
}
