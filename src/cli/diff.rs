//! `isar-tarball diff`.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use isar_tarball::{Diff, DiffReport, Difference, Escaped, Mtime, What};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::Globals;
use super::excludes::ExcludeArgs;
use super::observer::Terminal;
use super::report::{self, Status};
use super::session::{ReadingArgs, archive};
use super::values::{Devices, Precision, list, size};

/// Show what differs between two trees, each a directory or an archive
///
/// Prints one line per difference: the path, what differs, its value in A and in B. Kind, mode,
/// owner, size, content, targets of links, groups of hard links, extended attributes and ACLs are
/// compared. Where the holes of a file are makes no difference.
///
/// A directory belongs to the caller's subordinate ids, or to those of --userns USER. Where one
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
    /// Patterns leave out what matches on both sides
    #[command(flatten)]
    exclude: ExcludeArgs,
    /// Do not leave out /var/cache/apt/archives and /isar-apt where one side is a directory
    #[arg(long)]
    no_default_excludes: bool,
    /// Device nodes of a directory that the other side lacks: skip them, or count them as
    /// differences
    #[arg(long, default_value = "skip")]
    devices: Devices,
    /// Cross mount points in a directory. By default only the empty mount point is compared
    #[arg(long)]
    cross_mounts: bool,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
    /// Limit of memory. A million names take about 300M on each side, and half of the limit is for
    /// names and differences
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1G")]
    memory: u64,
    #[command(flatten)]
    reading: ReadingArgs,
}

const DETAILS: &str = "\
Example: isar-tarball diff rootfs schroot.tar.zst

The exit status is 0 when nothing differs, 1 when something does, 2 when a side cannot be read.
With -q nothing is printed.

A line is PATH: WHAT: A → B, where WHAT is one of
  presence, kind, hard link, size, content, target, device, mode, owner, mtime,
  access ACL, default ACL, xattr NAME
and `nothing` means that one side has no such value. A hard link has the first name of its
file that both sides have. What all names of a file share is reported under the first.

--json prints {\"a\": NAME, \"b\": NAME, \"equal\": BOOL, \"differences\": [{\"path\", \"what\",
  \"xattr\": NAME or null, \"a\": VALUE or null, \"b\": VALUE or null}, …], \"skipped\": {\"devices\",
  \"sockets\", \"mounts\", \"excluded\", \"acl_entries\"}}; in paths and values what is not printable is escaped.";

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let diff = Diff {
        session: globals.session(),
        mtime: match args.mtime {
            None => Mtime::Ignored,
            Some(Precision::S) => Mtime::Seconds,
            Some(Precision::Ns) => Mtime::Nanoseconds,
        },
        exclude: args.exclude.patterns()?,
        default_excludes: !args.no_default_excludes,
        devices: args.devices == Devices::Keep,
        cross_mounts: args.cross_mounts,
        reading: args.reading.within(args.memory),
        ..Diff::new(archive(&args.a), archive(&args.b))
    };
    let found = diff.run(&mut Terminal::new(globals))?;
    print(&found, &args, globals)
}

fn print(found: &DiffReport, args: &Args, globals: &Globals) -> anyhow::Result<Status> {
    if !globals.quiet {
        if !args.json {
            skipped(found);
        }
        let mut out = BufWriter::new(io::stdout().lock());
        let printed = match args.json {
            true => print_json(&mut out, found, args),
            false => found
                .differences
                .iter()
                .try_for_each(|difference| out.write_all(line(difference).as_bytes())),
        };
        report::written(printed.and_then(|()| out.flush()))?;
    }
    Ok(match found.differences.is_empty() {
        true => Status::Done,
        false => Status::No,
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

/// Prints what was not compared.
fn skipped(found: &DiffReport) {
    let left_out = &found.left_out;
    let only = String::from(" that only a directory has");
    let shown = list(&[
        (found.devices, "device nodes", only),
        (left_out.sockets, "sockets", String::new()),
        (left_out.mounts, "mounts", String::new()),
        (left_out.excluded, "excluded names", String::new()),
        (
            left_out.acl_entries,
            "ACL entries",
            String::from(" of users who have no id in the id map"),
        ),
    ]);
    if !shown.is_empty() {
        report::say(&format!("not compared: {shown}"));
    }
}

/// The object that `diff --json` documents.
#[derive(Serialize)]
struct Json<'a> {
    a: &'a str,
    b: &'a str,
    equal: bool,
    #[serde(serialize_with = "differences_as_json")]
    differences: &'a [Difference],
    skipped: Value,
}

/// Serializes one difference after the other: all of them as values would take much memory.
fn differences_as_json<S: Serializer>(
    differences: &[Difference],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(differences.iter().map(difference_as_json))
}

fn difference_as_json(difference: &Difference) -> Value {
    let Difference { path, what, a, b } = difference;
    let xattr = match what {
        What::Xattr(name) => Some(Escaped(name).to_string()),
        _ => None,
    };
    json!({"path": shown(path), "what": what.word(), "xattr": xattr, "a": a, "b": b})
}

fn print_json(out: &mut impl Write, found: &DiffReport, args: &Args) -> io::Result<()> {
    let json = Json {
        a: &args.a.to_string_lossy(),
        b: &args.b.to_string_lossy(),
        equal: found.differences.is_empty(),
        differences: &found.differences,
        skipped: json!({
            "devices": found.devices,
            "sockets": found.left_out.sockets,
            "mounts": found.left_out.mounts,
            "excluded": found.left_out.excluded,
            "acl_entries": found.left_out.acl_entries,
        }),
    };
    serde_json::to_writer_pretty(&mut *out, &json)?;
    out.write_all(b"\n")
}
