//! What `--reuse`, `--state` and `--trust-metadata` mean: the older archive, its state, and the
//! state of the new one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use isar_tarball::entry::Timestamp;
use isar_tarball::error::describe;
use isar_tarball::pack::Summary;
use isar_tarball::pack::reuse::{self, Old, Reuse};
use rustix::fs::OFlags;

use super::Args;
use crate::cli::Globals;
use crate::cli::report;

/// What the caller has opened for it.
pub struct Inputs {
    /// This program: another one may compress in another way.
    program: File,
    /// The older archive with its state, or why there is none.
    old: anyhow::Result<(File, Vec<u8>)>,
}

impl Inputs {
    /// `None` when neither an archive to take frames from nor a state for the next time is asked
    /// for.
    pub fn open(args: &Args) -> anyhow::Result<Option<Inputs>> {
        if args.reuse.is_none() && args.state.is_none() {
            return Ok(None);
        }
        let program =
            File::open("/proc/self/exe").context("--reuse, --state: open the program itself")?;
        let old = match &args.reuse {
            Some(old) => open_old(old, &state_path(args, old)?),
            None => Err(anyhow!("--reuse was not given")),
        };
        Ok(Some(Inputs { program, old }))
    }

    /// For the pack that is about to begin. What keeps frames from being taken over is said, and is
    /// no error.
    pub fn reuse(self, args: &Args, globals: &Globals) -> anyhow::Result<Reuse> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let started = Timestamp {
            seconds: now.as_secs().cast_signed(),
            nanoseconds: now.subsec_nanos(),
        };
        let maps = id_maps().context("read the maps of the user namespace")?;
        let context = reuse::context(&self.program, &maps).context("read the program itself")?;
        let old = self
            .old
            .and_then(|(file, state)| Ok(Old::new(file, &state, &context)?));
        if let (Some(path), Err(error)) = (&args.reuse, &old) {
            note(
                globals,
                &format!("nothing is taken over from {path:?}: {error:#}"),
            );
        }
        Ok(Reuse {
            context,
            old: old.ok(),
            trust_metadata: args.trust_metadata,
            started,
        })
    }
}

/// Where the state of `archive` stands. A dot hides it from sbuild, which takes any `NAME.t*` in
/// its cache for a chroot.
pub fn state_path(args: &Args, archive: &Path) -> anyhow::Result<PathBuf> {
    let name = archive
        .file_name()
        .ok_or_else(|| anyhow!("{archive:?} names no file"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".state");
    Ok(match &args.state {
        Some(directory) => directory.join(hidden),
        None => archive.with_file_name(hidden),
    })
}

fn open_old(archive: &Path, state: &Path) -> anyhow::Result<(File, Vec<u8>)> {
    let open = |path: &Path| -> anyhow::Result<File> {
        // Not waiting for the other end, should it be a pipe.
        let file = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        let file = file.map_err(|error| anyhow!("open {path:?}: {}", describe(&error)))?;
        if !file.metadata()?.is_file() {
            bail!("{path:?} is not a regular file");
        }
        Ok(file)
    };
    let archive = open(archive)?;
    let file = open(state)?;
    refuse_untrusted(&file, state)?;
    let mut bytes = Vec::new();
    let read = file.take(reuse::LARGEST).read_to_end(&mut bytes);
    read.map_err(|error| anyhow!("read {state:?}: {}", describe(&error)))?;
    Ok((archive, bytes))
}

/// Whoever can write a state can have anything taken over.
fn refuse_untrusted(state: &File, path: &Path) -> anyhow::Result<()> {
    let metadata = state.metadata()?;
    let caller = rustix::process::geteuid().as_raw();
    if ![0, caller].contains(&metadata.uid()) {
        bail!(
            "{path:?} belongs to another user (uid {}), who could have written anything into it",
            metadata.uid()
        );
    }
    if metadata.mode() & 0o002 != 0 {
        bail!("anyone may write to {path:?}; take that right away (chmod o-w)");
    }
    Ok(())
}

/// Which ids the tree's owners, ACLs and capabilities are shown as.
fn id_maps() -> io::Result<Vec<u8>> {
    let mut maps = std::fs::read("/proc/self/uid_map")?;
    maps.extend(std::fs::read("/proc/self/gid_map")?);
    Ok(maps)
}

/// Says that the older archive is damaged, if it is.
pub fn note_damage(summary: &Summary, args: &Args, globals: &Globals) {
    if let (Some(old), 1..) = (&args.reuse, summary.damaged_frames) {
        let count = summary.damaged_frames;
        note(
            globals,
            &format!("{count} frame(s) of {old:?} are not what was written, and were made anew"),
        );
    }
}

fn note(globals: &Globals, text: &str) {
    if !globals.quiet {
        report::warning(text);
    }
}
