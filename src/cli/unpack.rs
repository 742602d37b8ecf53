//! `isar-tarball unpack`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap_complete::ArgValueCompleter;
use isar_tarball::{Unpack, UnpackMode, UnpackSummary};
use serde_json::json;

use super::Globals;
use super::completions;
use super::excludes::ExcludeArgs;
use super::members;
use super::observer::Terminal;
use super::report::{self, Status};
use super::session::archive;
use super::values::{human, list, size};

/// Unpack an archive into a directory
///
/// Owners, modes, times, extended attributes, capabilities, ACLs, holes and hard links are
/// restored. ARCHIVE may be compressed with zstd, gzip or xz, or not at all; its first bytes tell.
/// DIR is created if it is missing, with the directories above it, and belongs to root of the
/// namespace. Nothing outside of DIR is touched, whatever ARCHIVE says.
///
/// A new or replaced DIR has its name only once it is complete: if unpack fails or is stopped, even
/// by SIGKILL, DIR is what it was before, and the next run removes what is left beside it. An empty
/// DIR is filled in place; after SIGKILL the next run recognises the rest and starts again. With
/// --merge, new files are removed after a failure; files that were replaced do not come back.
///
/// The kernel writes the tree to the disk later. If the machine loses power within a minute or so,
/// files may be empty or missing; --sync waits until the disk has all of it. With --replace, the
/// disk has all of the new tree before the old one goes.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball unpack schroot.tar.zst rootfs")]
pub struct Args {
    /// The archive, or - for stdin
    archive: PathBuf,
    /// Where to; missing or empty, unless --replace or --merge is given
    dir: PathBuf,
    /// Unpack only these members (paths or patterns), each with all below it
    #[arg(value_name = "MEMBER", add = ArgValueCompleter::new(completions::members))]
    members: Vec<OsString>,
    /// Unpack beside DIR and write the new tree to the disk, then exchange the two and remove the
    /// old one
    #[arg(long, conflicts_with = "merge")]
    replace: bool,
    /// Unpack over the files in DIR
    #[arg(long)]
    merge: bool,
    /// Where the archive has a directory and a symbolic link to a directory is in its place, keep
    /// the link and unpack into that directory, as `tar --keep-directory-symlink` does. For
    /// --merge onto a tree with merged /usr. A link that leads out of DIR is refused
    #[arg(long)]
    keep_directory_symlink: bool,
    #[command(flatten)]
    exclude: ExcludeArgs,
    /// Device nodes: leave them out, or create them [default: create as real root, else skip]
    #[arg(long)]
    devices: Option<Devices>,
    /// Strip N leading components; skip shorter names
    #[arg(long, value_name = "N", default_value_t = 0)]
    strip_components: usize,
    /// Strip the leading / of absolute names instead of refusing the archive
    #[arg(long)]
    strip_leading_slash: bool,
    /// Leave out extended attributes, capabilities and ACLs
    #[arg(long)]
    no_xattrs: bool,
    /// Threads that decode, and as many that write; 0 = one per CPU. The tree is the same for any
    /// number
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Limit of memory [default: 512M, and 96M for each thread beyond two]. Half of it is for
    /// decompressed data, the rest for data that is kept until the end: 32 bytes per file, and
    /// several hundred per directory
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Refuse the archive unless this is its SHA-256
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<[u8; 32]>,
    /// Write the tree to the disk before DIR gets its name. For callers that keep a record of the
    /// finished tree which outlives a loss of power, such as a stamp file
    #[arg(long)]
    sync: bool,
    /// Refuse an archive that holds more than this, as in 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    limit_size: Option<u64>,
    /// Refuse an archive with more members
    #[arg(long, value_name = "N")]
    limit_members: Option<u64>,
    /// The widest zstd window to accept, as a power of two; sbuild accepts 27
    #[arg(long, value_name = "10-31", default_value_t = 27, value_parser = clap::value_parser!(u32).range(10..=31))]
    window_log: u32,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Devices {
    Skip,
    Create,
}

fn digest(text: &str) -> Result<[u8; 32], String> {
    let wrong = || String::from("a SHA-256 has 64 hexadecimal digits");
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (place, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *place = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let begin = Instant::now();
    let summary = args.options(globals)?.run(&mut Terminal::new(globals))?;
    print(&summary, begin.elapsed(), &args, globals)?;
    Ok(Status::Done)
}

impl Args {
    fn options(&self, globals: &Globals) -> anyhow::Result<Unpack> {
        Ok(Unpack {
            session: globals.session(),
            mode: match (self.replace, self.merge) {
                (true, _) => UnpackMode::Replace,
                (_, true) => UnpackMode::Merge,
                _ => UnpackMode::Empty,
            },
            members: self.members.clone(),
            exclude: self.exclude.patterns()?,
            report_left_out: globals.verbose,
            keep_directory_symlink: self.keep_directory_symlink,
            devices: self.devices.map(|devices| devices == Devices::Create),
            strip_components: self.strip_components,
            strip_leading_slash: self.strip_leading_slash,
            xattrs: !self.no_xattrs,
            threads: self.threads,
            memory: self.memory,
            sha256: self.sha256,
            sync: self.sync,
            limit_size: self.limit_size,
            limit_members: self.limit_members,
            window_log: self.window_log,
            ..Unpack::new(archive(&self.archive), &self.dir)
        })
    }
}

fn print(
    summary: &UnpackSummary,
    took: Duration,
    args: &Args,
    globals: &Globals,
) -> anyhow::Result<()> {
    if args.json {
        report::result(&format!("{:#}\n", as_json(summary, took, args)))
    } else if globals.quiet {
        Ok(())
    } else {
        report::result(&for_people(summary, took, args))
    }
}

fn for_people(summary: &UnpackSummary, took: Duration, args: &Args) -> String {
    let none = String::new;
    let skipped = list(&[
        (summary.left_out, "unwanted members", none()),
        (summary.skipped_devices, "device nodes", none()),
        (summary.skipped_xattrs, "extended attributes", none()),
    ]);
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<9} {value}");
    };
    line(
        "tree",
        format!("{:?}, {}", args.dir, human(summary.data_bytes)),
    );
    line("members", members::words(&summary.members));
    if !skipped.is_empty() {
        line("skipped", skipped);
    }
    line("time", format!("{:.2} s", took.as_secs_f64()));
    text
}

fn as_json(summary: &UnpackSummary, took: Duration, args: &Args) -> serde_json::Value {
    json!({
        "archive": args.archive.to_string_lossy(),
        "dir": args.dir.to_string_lossy(),
        "tar_bytes": summary.tar_bytes,
        "data_bytes": summary.data_bytes,
        "seconds": took.as_secs_f64(),
        "members": members::object(&summary.members),
        "skipped": {
            "not_wanted": summary.left_out,
            "devices": summary.skipped_devices,
            "xattrs": summary.skipped_xattrs,
        },
        "unknown_types": summary.unknown_types,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_have_64_hexadecimal_digits() {
        assert_eq!(
            digest(&"0aF1".repeat(16)).unwrap(),
            [0x0a, 0xf1].repeat(16)[..]
        );
        for text in [
            "",
            "12",
            &"0".repeat(63),
            &"0".repeat(65),
            &"g".repeat(64),
            &"ü".repeat(32),
            &"+1".repeat(32),
        ] {
            assert!(digest(text).is_err(), "{text}");
        }
    }
}
