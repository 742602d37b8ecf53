//! `isar-tarball pack`.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use isar_tarball::{
    ArchivePath, DEFAULT_EXCLUDES, Format, Level, Memory, Pack, PackSummary, Unmapped, hex,
};
use serde_json::json;

use super::Globals;
use super::excludes::ExcludeArgs;
use super::members;
use super::observer::Terminal;
use super::report::{self, Status};
use super::session::archive;
use super::values::{Devices, Precision, counted, human, list, size};

/// Pack a directory tree into an archive that sbuild loads
///
/// ROOTFS belongs to the caller's subordinate ids, or to those of --userns USER. ARCHIVE appears
/// whole or not at all: pack writes it beside its name, verifies every frame, checks the result
/// against sbuild's loading rules, syncs the file and renames it.
#[derive(clap::Args)]
#[command(after_help = "Environment:
  SOURCE_DATE_EPOCH  clamp modification times: a later one is stored as this, in seconds since 1970
  ZSTD_CLEVEL        the level, unless --level is given
  ZSTD_NBTHREADS     the number of threads, unless --threads is given

Examples:
  isar-tarball pack rootfs schroot.tar.zst
  isar-tarball pack --reuse schroot.tar.zst rootfs schroot.tar.zst")]
pub struct Args {
    /// The tree
    rootfs: PathBuf,
    /// The archive: *.tar.zst or *.tar, or - for stdout (with --format)
    archive: PathBuf,
    /// Format of the archive, if its name does not tell
    #[arg(long)]
    format: Option<FormatName>,
    /// Compression level; higher is slower, with smaller output [default: ZSTD_CLEVEL, or 3]
    #[arg(long, value_name = "1-22", value_parser = level)]
    level: Option<Level>,
    /// Worker threads, 0 = one per CPU; the archive is the same for any number [default:
    /// ZSTD_NBTHREADS, or 0]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Limit of memory [default: 512M, and 192M for each worker but the first two]; less may mean
    /// smaller frames
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Minimum frame size [default: 12M]; with smaller frames --reuse can reuse more, of a larger
    /// archive
    #[arg(long, value_name = "1M-64M", value_parser = frame_size)]
    frame_size: Option<u64>,
    /// Cross mount points. By default only the empty mount point is packed
    #[arg(long)]
    cross_mounts: bool,
    #[command(flatten)]
    exclude: ExcludeArgs,
    /// Do not leave out /var/cache/apt/archives and /isar-apt
    #[arg(long)]
    no_default_excludes: bool,
    /// Device nodes: leave them out, or keep them (sbuild creates its own)
    #[arg(long, default_value = "skip")]
    devices: Devices,
    /// Leave out extended attributes, capabilities and ACLs
    #[arg(long)]
    no_xattrs: bool,
    /// Owners that sbuild cannot map, and ACL entries for users and groups that the id map lacks:
    /// refuse the tree, or store the owners as nobody and leave the entries out
    #[arg(long, default_value = "error")]
    unmapped: UnmappedName,
    /// Pack ROOTFS even if its root directory does not belong to 0:0 of the id map, as in a tree
    /// that was made under another map. Such an archive is of little use to sbuild
    #[arg(long)]
    any_root_owner: bool,
    /// Precision of modification times; see also SOURCE_DATE_EPOCH below
    #[arg(long, default_value = "ns")]
    mtime_precision: Precision,
    /// Remove ROOTFS once the archive is synced and has its name
    #[arg(long)]
    remove_source: bool,
    /// Write the archive's SHA-256 to FILE in the format of sha256sum
    #[arg(long, value_name = "FILE")]
    digest: Option<PathBuf>,
    /// Reuse the compressed frames of archive OLD whose content is the same; ARCHIVE becomes what
    /// it would be without
    ///
    /// pack reads every file and compares it with a state that the earlier pack left, as this one
    /// leaves one for the next: a file of some kilobytes, .NAME.state beside NAME, only for this
    /// build of isar-tarball. OLD and ARCHIVE may be the same. If OLD or its state is missing,
    /// damaged or of another program, a warning reports it and everything is compressed. A process
    /// that can write to the state decides what is reused, so it must be yours or root's.
    #[arg(long, value_name = "OLD")]
    reuse: Option<PathBuf>,
    /// Keep the states of archives in DIR instead of beside them; without --reuse only write one
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// With --reuse: do not even read files whose metadata are those that OLD's pack saw
    ///
    /// Compared are path, kind, size, mtime, ctime, inode, device, owner, mode, links and holes of
    /// all files of a frame. The guarantee: as long as every change of a file's content or extended
    /// attributes changes its ctime, ARCHIVE becomes what it would be without. No program can keep
    /// ctime from changing, except: one that writes through a memory mapping which it had while OLD
    /// was packed; one that sets the system's clock back; one that writes to the disk past the file
    /// system. Files changed less than 2 seconds before they were packed are read again. The clocks
    /// of this machine and of the tree's file system must agree within 2 seconds.
    #[arg(long, requires = "reuse")]
    trust_metadata: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    Zst,
    Tar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UnmappedName {
    Error,
    Squash,
}

fn level(text: &str) -> Result<Level, String> {
    text.parse()
        .ok()
        .and_then(Level::new)
        .ok_or_else(|| format!("{text:?} is no level from 1 to 22"))
}

fn frame_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    match (1 << 20..=64 << 20).contains(&bytes) {
        true => Ok(bytes),
        false => Err(String::from("a frame has from 1M to 64M")),
    }
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let options = args
        .options(globals)
        .with_context(|| format!("cannot pack {:?}", args.rootfs))?;
    let begin = Instant::now();
    let summary = options.run(&mut Terminal::new(globals))?;
    print(&summary, begin.elapsed(), &args, globals)?;
    Ok(Status::Done)
}

impl Args {
    fn is_stream(&self) -> bool {
        archive(&self.archive) == ArchivePath::Stdio
    }

    /// The format of the archive, from `--format` or its name.
    fn format(&self) -> anyhow::Result<Format> {
        let name = self.archive.as_os_str().as_bytes();
        let by_name = match name {
            name if name.ends_with(b".tar.zst") => Some(FormatName::Zst),
            name if name.ends_with(b".tar") => Some(FormatName::Tar),
            _ => None,
        };
        let is_stream = self.is_stream() || self.leads_to_a_stream();
        let format = match (self.format, by_name) {
            (Some(FormatName::Zst), by_name) if by_name != Some(FormatName::Zst) && !is_stream => {
                bail!(
                    "the name of the archive, {:?}, must end in .tar.zst: sbuild 0.85 tells the compression by it",
                    self.archive
                )
            }
            (Some(FormatName::Tar), Some(FormatName::Zst)) => {
                bail!("a plain tar must not be named .tar.zst: sbuild 0.85 would decompress it")
            }
            (Some(format), _) | (None, Some(format)) => format,
            (None, None) if is_stream => {
                bail!("give the format of stdout: --format zst or --format tar")
            }
            (None, None) => {
                bail!(
                    "the name of the archive, {:?}, must end in .tar.zst or .tar: sbuild 0.85 tells the compression by it",
                    self.archive
                )
            }
        };
        Ok(match format {
            FormatName::Zst => {
                let from_environment = || from_environment("ZSTD_CLEVEL", |text| level(text).ok());
                Format::Zstd(
                    self.level
                        .or_else(from_environment)
                        .unwrap_or(Level::DEFAULT),
                )
            }
            FormatName::Tar => Format::Tar,
        })
    }

    /// True for the path of a pipe or device, whose name sbuild never sees.
    fn leads_to_a_stream(&self) -> bool {
        std::fs::metadata(&self.archive).is_ok_and(|found| !found.is_file() && !found.is_dir())
    }

    fn options(&self, globals: &Globals) -> anyhow::Result<Pack> {
        if self.remove_source && self.is_stream() {
            bail!(
                "--remove-source cannot be used with -: nothing tells whether the archive arrived"
            );
        }
        let defaults: &[&str] = match self.no_default_excludes {
            true => &[],
            false => &DEFAULT_EXCLUDES,
        };
        let threads = self
            .threads
            .or_else(|| from_environment("ZSTD_NBTHREADS", |text| text.parse().ok()));
        Ok(Pack {
            session: globals.session(),
            format: self.format()?,
            threads: threads.unwrap_or(0),
            memory: self.memory.map_or(Memory::DEFAULT, Memory::limit),
            frame_size: self.frame_size,
            cross_mounts: self.cross_mounts,
            exclude: defaults
                .iter()
                .map(ToString::to_string)
                .chain(self.exclude.patterns()?)
                .collect(),
            report_left_out: globals.verbose,
            devices: self.devices == Devices::Keep,
            xattrs: !self.no_xattrs,
            unmapped: match self.unmapped {
                UnmappedName::Error => Unmapped::Error,
                UnmappedName::Squash => Unmapped::Squash,
            },
            any_root_owner: self.any_root_owner,
            whole_seconds: self.mtime_precision == Precision::S,
            clamp_mtime: source_date_epoch()?,
            // A digest that is not printed need not be computed.
            sha256: self.json || !globals.quiet,
            digest: self.digest.clone(),
            reuse: self.reuse.clone(),
            state: self.state.clone(),
            trust_metadata: self.trust_metadata,
            remove_source: self.remove_source,
            ..Pack::new(&self.rootfs, archive(&self.archive))
        })
    }
}

/// The value of a variable that belongs to the zstd program: like there, one that cannot be used is
/// ignored with a warning.
fn from_environment<T>(name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var_os(name).filter(|text| !text.is_empty())?;
    let value = text.to_str().and_then(parse);
    if value.is_none() {
        report::warning(&format!(
            "{name} is {text:?}, which cannot be used; the default is taken"
        ));
    }
    value
}

/// `SOURCE_DATE_EPOCH` of the environment, in seconds since 1970.
fn source_date_epoch() -> anyhow::Result<Option<i64>> {
    match std::env::var_os("SOURCE_DATE_EPOCH") {
        Some(text) if !text.is_empty() => {
            let seconds = text.to_str().and_then(|text| text.parse().ok());
            Ok(Some(seconds.ok_or_else(|| {
                anyhow!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")
            })?))
        }
        _ => Ok(None),
    }
}

/// Prints the summary: on stdout, or on stderr when the archive went to stdout.
fn print(
    summary: &PackSummary,
    took: Duration,
    args: &Args,
    globals: &Globals,
) -> anyhow::Result<()> {
    let text = if args.json {
        format!("{:#}\n", as_json(summary, took, args))
    } else if globals.quiet {
        String::new()
    } else {
        for_people(summary, took, args)
    };
    if args.is_stream() {
        report::note(&text);
        return report::written(Ok(()));
    }
    match text.is_empty() {
        true => Ok(()),
        false => report::result(&text),
    }
}

fn for_people(summary: &PackSummary, took: Duration, args: &Args) -> String {
    let mut text = String::new();
    let name = match args.is_stream() {
        true => String::from("stdout"),
        false => format!("{:?}", args.archive),
    };
    let ratio = summary.tar_bytes as f64 / summary.archive_bytes.max(1) as f64;
    let frames = match summary.frames {
        0 => String::new(),
        frames => format!(", {}", counted(frames, "frame", "frames")),
    };
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<9} {value}");
    };
    line(
        "archive",
        format!("{name}, {}{frames}", human(summary.archive_bytes)),
    );
    if args.reuse.is_some() {
        let PackSummary {
            reused_frames,
            reused_bytes,
            frames,
            ..
        } = summary;
        line(
            "reused",
            format!(
                "{reused_frames} of {frames} frames, {}",
                human(*reused_bytes)
            ),
        );
    }
    line(
        "tree",
        format!("{}, {ratio:.2} times the archive", human(summary.tar_bytes)),
    );
    line("members", members::words(&summary.members));
    if let Some(skipped) = skipped(summary) {
        line("skipped", skipped);
    }
    if summary.squashed > 0 {
        line(
            "squashed",
            format!(
                "{} with an owner that sbuild cannot map, stored as nobody",
                summary.squashed
            ),
        );
    }
    if let Some(sha256) = &summary.sha256 {
        line("sha256", hex(sha256));
    }
    line("time", format!("{:.2} s", took.as_secs_f64()));
    text
}

fn skipped(summary: &PackSummary) -> Option<String> {
    let counts = [
        (summary.skipped.excluded, "excluded", String::new()),
        (summary.skipped.mounts, "mounts", String::new()),
        (summary.skipped.devices, "device nodes", String::new()),
        (summary.skipped.sockets, "sockets", String::new()),
        (summary.skipped_xattrs, "extended attributes", String::new()),
        (
            summary.skipped_acl_entries,
            "ACL entries",
            String::from(" of users who have no id in the id map"),
        ),
    ];
    Some(list(&counts)).filter(|text| !text.is_empty())
}

fn as_json(summary: &PackSummary, took: Duration, args: &Args) -> serde_json::Value {
    json!({
        "archive": args.archive.to_string_lossy(),
        "archive_bytes": summary.archive_bytes,
        "tar_bytes": summary.tar_bytes,
        "frames": summary.frames,
        "reused": {
            "frames": summary.reused_frames,
            "bytes": summary.reused_bytes,
            "damaged": summary.damaged_frames,
        },
        "sha256": summary.sha256.as_ref().map(hex),
        "seconds": took.as_secs_f64(),
        "members": members::object(&summary.members),
        "skipped": {
            "excluded": summary.skipped.excluded,
            "mounts": summary.skipped.mounts,
            "devices": summary.skipped.devices,
            "sockets": summary.skipped.sockets,
            "xattrs": summary.skipped_xattrs,
            "acl_entries": summary.skipped_acl_entries,
        },
        "squashed": summary.squashed,
    })
}
