//! `isar-tarball cache`.

use std::fmt::Write as _;
use std::path::PathBuf;

use isar_tarball::{CacheLimit, CachedCopy, ImagerCache, Prune};
use serde_json::json;

use super::Globals;
use super::observer::Terminal;
use super::report::{self, Status};
use super::values::{Limit, bytes_limit, count_limit, human, local_time_text};

/// List or remove the copies that `imager --cache` keeps
///
/// A cache keeps separate copies for each id map. Only those of the caller's map are listed or
/// removed; see --userns and --id-layout.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the copies, the least recently used one first
    #[command(after_help = "Example: isar-tarball cache list build/tmp/isar-tarball")]
    List {
        /// The cache
        #[arg(value_name = "DIR")]
        cache: PathBuf,
        /// Print as JSON: {"copies": [{"sha256": HEX, "bytes": N, "last_use": SECONDS-SINCE-1970,
        /// "xattrs": BOOL, "in_use": BOOL, "holders": [PID, …]}, …]}
        #[arg(long)]
        json: bool,
    },
    /// Remove copies that no run uses
    ///
    /// Without --limit, --copies or --archive, all of them. The limits hold for copies with extended
    /// attributes and for those without, each alone.
    #[command(after_help = "Example: isar-tarball cache prune --limit 5G build/tmp/isar-tarball")]
    Prune {
        /// Keep the most recently used copies, up to this size
        #[arg(long, value_name = "SIZE|none", value_parser = bytes_limit)]
        limit: Option<Limit>,
        /// Keep at most N copies, the most recently used ones
        #[arg(long, value_name = "N|none", value_parser = count_limit)]
        copies: Option<Limit>,
        /// Remove the copy of this tarball only
        #[arg(long, value_name = "TARBALL", conflicts_with_all = ["limit", "copies"])]
        archive: Option<PathBuf>,
        /// The cache
        #[arg(value_name = "DIR")]
        cache: PathBuf,
        /// Print the removed copies as JSON, as `cache list --json`
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let cache = |directory| ImagerCache {
        session: globals.session(),
        directory,
    };
    let mut observer = Terminal::new(globals);
    match args.action {
        Action::List {
            cache: directory,
            json,
        } => {
            let copies = cache(directory).list(&mut observer)?;
            report::result(&match json {
                true => object(&copies),
                false => table(&copies),
            })?;
        }
        Action::Prune {
            limit,
            copies,
            archive,
            cache: directory,
            json,
        } => {
            let which = match archive {
                Some(archive) => Prune::Archive(archive),
                None => Prune::Beyond(beyond(limit, copies)),
            };
            let removed = cache(directory).prune(&which, &mut observer)?;
            if json {
                report::result(&object(&removed))?;
            } else if !globals.quiet {
                let bytes = removed.iter().map(|copy| copy.bytes).sum();
                report::note(&format!(
                    "removed copies: {}, with {}\n",
                    removed.len(),
                    human(bytes)
                ));
            }
        }
    }
    Ok(Status::Done)
}

/// If only one limit is given, the other is unlimited. If none is given, no copy stays.
fn beyond(bytes: Option<Limit>, copies: Option<Limit>) -> CacheLimit {
    match (bytes, copies) {
        (None, None) => CacheLimit::NOTHING,
        (bytes, copies) => CacheLimit {
            bytes: bytes.and_then(|limit| limit.0),
            copies: copies.and_then(|limit| limit.0),
        },
    }
}

fn object(copies: &[CachedCopy]) -> String {
    let copies: Vec<_> = copies
        .iter()
        .map(|copy| {
            json!({
                "sha256": copy.sha256,
                "bytes": copy.bytes,
                "last_use": copy.last_use,
                "xattrs": copy.xattrs,
                "in_use": copy.in_use,
                "holders": copy.holders,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "copies": copies }))
}

/// A line for each copy: the beginning of its SHA-256, its size, its last use, and who uses it.
fn table(copies: &[CachedCopy]) -> String {
    let mut text = String::new();
    for copy in copies {
        let sha256 = copy.sha256.get(..16).unwrap_or_default();
        let (size, last_use) = (human(copy.bytes), local_time_text(copy.last_use));
        // Writing to a string cannot fail.
        let _ = write!(text, "{sha256}  {size:>9}  {last_use}");
        if !copy.xattrs {
            text.push_str("  without xattrs");
        }
        if copy.in_use {
            text.push_str("  in use");
            let holders: Vec<String> = copy.holders.iter().map(u32::to_string).collect();
            if !holders.is_empty() {
                let _ = write!(text, " by {}", holders.join(", "));
            }
        }
        text.push('\n');
    }
    text
}
