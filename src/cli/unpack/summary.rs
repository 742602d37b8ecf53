//! What `unpack` says when it is done.

use std::fmt::Write as _;
use std::time::Duration;

use isar_tarball::unpack::Summary;
use serde_json::json;

use super::Args;
use crate::cli::Globals;
use crate::cli::members;
use crate::cli::report;
use crate::cli::values::{human, list};

/// Prints the summary on stdout.
pub fn print(
    summary: &Summary,
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

fn for_people(summary: &Summary, took: Duration, args: &Args) -> String {
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

fn as_json(summary: &Summary, took: Duration, args: &Args) -> serde_json::Value {
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
    })
}
