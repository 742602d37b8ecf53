//! `isar-tarball remove`.

use std::path::PathBuf;

use isar_tarball::{Escaped, Remove, RemovedTree};
use serde_json::{Value, json};

use super::Globals;
use super::observer::Terminal;
use super::report::{self, Status};

/// Remove trees that belong to the caller's subordinate ids
///
/// Works on what the caller and its subordinate ids own, in any mixture, and on unreadable and
/// read-only directories. Never crosses a mount point and never follows a symbolic link; refuses
/// `/`, home directories and mount points, and a tree in which another command works. A missing DIR
/// is no error; -v and --dry-run say so.
///
/// A tree gives up its name before its first file goes: after SIGKILL, the rest is hidden beside it
/// as .DIR.isar-tarball-old, and the next command on DIR removes it.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball remove build/tmp/work/*/rootfs")]
pub struct Args {
    /// The trees
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON what was removed: {"dry_run": BOOL, "trees": [{"dir": PATH, "missing": BOOL,
    /// "ok": BOOL, "files": N, "directories": N}, …]}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let removal = Remove {
        session: globals.session(),
        directories: args.dirs,
        dry_run: args.dry_run,
    };
    let trees = removal.run(&mut Terminal::new(globals))?;
    let mut status = Status::Done;
    let mut lines = String::new();
    for tree in &trees {
        for error in &tree.errors {
            report::library_error(error, "remove");
            status = Status::Failed;
        }
        if tree.errors.is_empty() && (args.dry_run || globals.verbose) {
            lines += &line(tree, args.dry_run);
        }
    }
    match args.dry_run && !args.json {
        true => report::result(&lines)?,
        false => report::note(&lines),
    }
    if args.json {
        let trees: Vec<Value> = trees.iter().map(object).collect();
        report::result(&format!(
            "{:#}\n",
            json!({"dry_run": args.dry_run, "trees": trees})
        ))?;
    }
    Ok(status)
}

fn line(tree: &RemovedTree, dry_run: bool) -> String {
    let did = if dry_run { "would remove" } else { "removed" };
    let name = Escaped(tree.directory.as_os_str().as_encoded_bytes());
    if tree.missing {
        return format!("{name} does not exist: nothing to remove\n");
    }
    let (directories, files) = (tree.directories, tree.files);
    format!("{did} {name}: {directories} directories, {files} other files\n")
}

fn object(tree: &RemovedTree) -> Value {
    let counts = (!tree.missing && tree.errors.is_empty()).then_some(tree);
    json!({
        "dir": tree.directory.to_string_lossy(),
        "missing": tree.missing,
        "ok": tree.errors.is_empty(),
        "files": counts.map(|tree| tree.files),
        "directories": counts.map(|tree| tree.directories),
    })
}
