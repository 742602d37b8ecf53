//! The object that `info --json` documents.

use isar_tarball::info::{Frames, Info};
use isar_tarball::pack::hex;
use isar_tarball::sbuild::accounts;
use isar_tarball::sbuild::build_user::BuildUsers;
use serde_json::{Value, json};

use super::{Args, table};
use crate::cli::members;

pub fn object(
    info: &Info,
    args: &Args,
    users: Option<Result<BuildUsers, accounts::Error>>,
) -> Value {
    let system = &info.system;
    let ratio = (info.archive_bytes > 0).then(|| info.tar_bytes as f64 / info.archive_bytes as f64);
    let users = users.and_then(Result::ok);
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
