//! What `pack` says when it is done.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use isar_tarball::pack::{Summary, hex};
use serde_json::json;

use super::Args;
use crate::cli::Globals;
use crate::cli::members;
use crate::cli::report;
use crate::cli::values::{counted, human, list};

/// The line that `sha256sum` would print for the archive, so that `sha256sum --check` finds it from
/// the digest's directory.
pub fn digest_line(sha256: &[u8; 32], args: &Args) -> Vec<u8> {
    let same_directory = args.digest.as_deref().and_then(Path::parent) == args.archive.parent();
    let name = match args.archive.file_name() {
        Some(name) if same_directory => name.as_bytes().to_vec(),
        _ => std::path::absolute(&args.archive)
            .unwrap_or_else(|_| args.archive.clone())
            .as_os_str()
            .as_bytes()
            .to_vec(),
    };
    // sha256sum marks a name with escapes by a backslash in front of the line.
    let escaped: Vec<u8> = name
        .iter()
        .flat_map(|byte| match byte {
            b'\\' => b"\\\\".to_vec(),
            b'\n' => b"\\n".to_vec(),
            b'\r' => b"\\r".to_vec(),
            other => vec![*other],
        })
        .collect();
    let mark: &[u8] = if escaped == name { b"" } else { b"\\" };
    [mark, hex(sha256).as_bytes(), b"  ", &escaped, b"\n"].concat()
}

/// Prints the summary: on stdout, or on stderr when the archive went to stdout.
pub fn print(
    summary: &Summary,
    took: Duration,
    args: &Args,
    globals: &Globals,
) -> anyhow::Result<()> {
    let text = if args.json {
        format!("{:#}\n", as_json(summary, took, args))
    } else if globals.quiet {
        return Ok(());
    } else {
        for_people(summary, took, args)
    };
    if args.is_stream() {
        report::note(&text);
        return Ok(());
    }
    report::result(&text)
}

fn for_people(summary: &Summary, took: Duration, args: &Args) -> String {
    let mut text = String::new();
    let name = if args.is_stream() {
        String::from("stdout")
    } else {
        format!("{:?}", args.archive)
    };
    let ratio = summary.tar_bytes as f64 / summary.archive_bytes.max(1) as f64;
    let frames = if summary.frames > 0 {
        format!(", {}", counted(summary.frames, "frame", "frames"))
    } else {
        String::new()
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
        let Summary {
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

fn skipped(summary: &Summary) -> Option<String> {
    let counts = [
        (summary.skipped.excluded, "excluded", String::new()),
        (summary.skipped.mounts, "mounts", String::new()),
        (summary.skipped.devices, "device nodes", String::new()),
        (summary.skipped.sockets, "sockets", String::new()),
        (summary.skipped_xattrs, "extended attributes", String::new()),
    ];
    Some(list(&counts)).filter(|text| !text.is_empty())
}

fn as_json(summary: &Summary, took: Duration, args: &Args) -> serde_json::Value {
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
        },
        "squashed": summary.squashed,
    })
}
