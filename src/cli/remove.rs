//! `isar-tarball remove`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::remove::{self, Failed, Options, Removed, Target};
use isar_tarball::userns::{Isolation, Outside, Request, handover, supervise};
use rustix::fs::fstat;
use serde_json::{Value, json};

use super::report::{self, Status};
use super::values::threads;
use super::{Globals, place};

/// Remove trees that belong to the caller's subordinate ids
///
/// Works on whatever the caller and its subordinate ids own, in any mixture, on unreadable and
/// read-only directories. Never enters a mount and never follows a symbolic link; refuses `/`, home
/// directories and mount points. A DIR that is not there is no error.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball remove build/tmp/work/*/rootfs")]
pub struct Args {
    /// The trees
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON what was removed: {"dry_run": BOOL, "trees": [{"dir": PATH, "missing": BOOL,
    /// "ok": BOOL, "files": N, "directories": N}, …]}
    #[arg(long)]
    json: bool,
}

/// The process inside goes on to the next tree.
const NEXT: Request = b'n';
/// The caller is to remove of the current tree what only it can reach.
const REMOVE_CONTENTS: Request = b'c';
/// The caller is to remove the current directory itself, which is empty.
const REMOVE_ROOT: Request = b'r';

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let homes = homes();
    // All are looked at before the first is touched.
    let (mut trees, mut known) = (Vec::new(), HashSet::new());
    for path in &args.dirs {
        let target = Target::open(path, &homes).context("cannot remove")?;
        let id = target
            .as_ref()
            .map(|target| fstat(target.directory()))
            .transpose()?;
        // One that is named twice is removed once.
        if id.is_none_or(|stat| known.insert((stat.st_dev, stat.st_ino))) {
            trees.push((path.as_path(), target));
        }
    }
    let place = place::whole_place(globals)?;
    let mut current = trees.iter().filter_map(|(_, target)| target.as_ref());
    let mut target = None;
    let outcome = supervise(
        &place,
        |request| {
            match (request, target) {
                (NEXT, _) => target = current.next(),
                // It is one thread that must stay one: it may have to fork again.
                (REMOVE_CONTENTS, Some(target)) => _ = as_caller(target),
                (REMOVE_ROOT, Some(target)) => remove_root(target, &place)?,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
            Ok(())
        },
        |outside| match remove_all(&trees, &args, globals, outside) {
            Ok(status) => status.code(),
            Err(error) => {
                report::error(&error);
                Status::Failed.code()
            }
        },
    )?;
    Ok(place::of_work(outcome, || String::from("cannot remove")))
}

/// Removes one tree, as `isar-tarball remove` does.
pub fn remove_one(dir: &Path, globals: &Globals) -> anyhow::Result<Status> {
    run(
        Args {
            dirs: vec![dir.to_owned()],
            dry_run: false,
            json: false,
        },
        globals,
    )
}

/// The homes of all users, and what `HOME` says.
pub fn homes() -> Vec<PathBuf> {
    let mut homes = remove::homes(&fs::read("/etc/passwd").unwrap_or_default());
    homes.extend(
        std::env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from),
    );
    // Accounts of services have `/` or a directory of programs for a home; those are as worth
    // keeping.
    homes
}

/// In a tree that belongs to others for the most part, errors are to be expected here, and what
/// they are about is tried again inside.
fn as_caller(target: &Target) -> Result<Removed, Failed> {
    remove::contents(
        target.directory(),
        &Options {
            threads: 1,
            dry_run: false,
            take_group: true,
        },
    )
}

/// Removes the directory itself, as the caller, once it is empty.
pub fn remove_root(target: &Target, place: &Isolation) -> io::Result<()> {
    let error = match target.remove() {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // In a directory with the sticky bit, such as /tmp, only the owner removes.
    if let (Some(libc::EPERM), Isolation::Namespace(maps)) = (error.raw_os_error(), place)
        && handover::to_caller(target.directory(), maps).is_ok()
    {
        return target.remove();
    }
    Err(error)
}

fn remove_all(
    trees: &[(&Path, Option<Target>)],
    args: &Args,
    globals: &Globals,
    outside: &mut Outside,
) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    let mut results = Vec::new();
    for (path, target) in trees {
        let removed = match target {
            None => Ok(None),
            Some(target) => {
                outside.ask(NEXT)?;
                remove_tree(target, args, outside).map(Some)
            }
        };
        match &removed {
            Ok(Some(removed)) if args.dry_run || globals.verbose => say(path, *removed, args),
            Ok(_) => {}
            Err(errors) => {
                for error in errors {
                    report::error(&anyhow!("cannot remove {path:?}: {error}"));
                }
                status = Status::Failed;
            }
        }
        results.push(result(path, &removed));
    }
    if args.json {
        report::result(&format!(
            "{:#}\n",
            json!({"dry_run": args.dry_run, "trees": results})
        ))?;
    }
    Ok(status)
}

fn remove_tree(
    target: &Target,
    args: &Args,
    outside: &mut Outside,
) -> Result<Removed, Vec<String>> {
    let options = Options {
        threads: threads(0),
        dry_run: args.dry_run,
        take_group: false,
    };
    let mut done = remove::contents(target.directory(), &options);
    // A group that the namespace does not have keeps its root out of the caller's own directories.
    if done.as_ref().is_err_and(Failed::lacks_rights)
        && !args.dry_run
        && outside.ask(REMOVE_CONTENTS).is_ok()
    {
        done = remove::contents(target.directory(), &options);
    }
    let removed = done.map_err(messages)?;
    if !args.dry_run {
        let by_either = target.remove().or_else(|_| outside.ask(REMOVE_ROOT));
        by_either
            .map_err(|error| vec![format!("remove the directory itself: {}", describe(&error))])?;
    }
    Ok(removed)
}

fn messages(failed: Failed) -> Vec<String> {
    let mut messages: Vec<String> = failed.errors.iter().map(ToString::to_string).collect();
    let more = failed.count.saturating_sub(messages.len() as u64);
    if more > 0 {
        messages.push(format!("and {more} more"));
    }
    messages
}

fn say(path: &Path, removed: Removed, args: &Args) {
    let did = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    // One more directory: the tree's own.
    let (directories, files) = (removed.directories + 1, removed.files);
    let name = Escaped(path.as_os_str().as_encoded_bytes());
    let line = format!("{did} {name}: {directories} directories, {files} other files\n");
    if args.json || !args.dry_run {
        report::note(&line);
    } else {
        _ = report::result(&line);
    }
}

fn result(path: &Path, removed: &Result<Option<Removed>, Vec<String>>) -> Value {
    let counts = removed.as_ref().ok().copied().flatten();
    json!({
        "dir": path.to_string_lossy(),
        "missing": matches!(removed, Ok(None)),
        "ok": removed.is_ok(),
        "files": counts.map(|counts| counts.files),
        "directories": counts.map(|counts| counts.directories + 1),
    })
}
