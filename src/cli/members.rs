//! Members by kind, as summaries and tables show them.

use isar_tarball::Members;
use serde_json::{Value, json};

use super::values::list;

/// `13 members` in words: `13: 2 directories, 11 files (1 sparse)`.
pub fn words(members: &Members) -> String {
    let sparse = if members.sparse > 0 {
        format!(" ({} sparse)", members.sparse)
    } else {
        String::new()
    };
    let kinds = list(&[
        (members.directories, "directories", String::new()),
        (members.files, "files", sparse),
        (members.hard_links, "hard links", String::new()),
        (members.symlinks, "symbolic links", String::new()),
        (members.fifos, "pipes", String::new()),
        (members.devices, "device nodes", String::new()),
    ]);
    if kinds.is_empty() {
        members.total.to_string()
    } else {
        format!("{}: {kinds}", members.total)
    }
}

/// The same as a JSON object.
pub fn object(members: &Members) -> Value {
    json!({
        "total": members.total,
        "directories": members.directories,
        "files": members.files,
        "sparse": members.sparse,
        "hard_links": members.hard_links,
        "symlinks": members.symlinks,
        "fifos": members.fifos,
        "devices": members.devices,
    })
}
