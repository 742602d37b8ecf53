//! The object that `info --json` documents.

use isar_tarball::{Frames, InfoReport, hex};
use serde_json::{Value, json};

use super::{Args, table};
use crate::cli::members;

pub fn object(found: &InfoReport, args: &Args) -> Value {
    let info = &found.description;
    let system = &info.system;
    let ratio = (info.archive_bytes > 0).then(|| info.tar_bytes as f64 / info.archive_bytes as f64);
    let users = found
        .build_users
        .as_ref()
        .and_then(|users| users.as_ref().ok());
    json!({
        "archive": args.archive.to_string_lossy(),
        "archive_bytes": info.archive_bytes,
        "sha256": hex(&info.sha256),
        "compression": table::compression(info.compression),
        "ratio": ratio,
        "frames": info.frames.as_ref().map(frames),
        "tar_bytes": info.tar_bytes,
        "members": members::object(&info.members),
        "file_bytes": info.file_bytes,
        "with_xattrs": info.with_xattrs,
        "with_acls": info.with_acls,
        "distribution": {
            "name": system.name,
            "id": system.id,
            "codename": system.codename,
            "debian_version": system.debian_version,
        },
        "sources": system.sources,
        "architecture": system.architecture,
        "foreign_architectures": system.foreign_architectures,
        "packages": system.packages,
        "build_users": users.map(|users| json!({"sbuild": users.sbuild, "caller": users.caller})),
    })
}

fn frames(frames: &Frames) -> Value {
    json!({
        "count": frames.count,
        "skippable": frames.skippable,
        "with_checksum": frames.with_checksum,
        "with_size": frames.with_size,
        "window": frames.window,
        "longest": frames.longest,
    })
}
