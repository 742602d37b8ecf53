//! `isar-tarball pack`.

mod args;
mod reuse;
mod summary;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use isar_tarball::error::describe;
use isar_tarball::pack::output::{self, Output, WritebackWriter};
use isar_tarball::pack::{self, Options, Packed, Progress};
use isar_tarball::remove;
use isar_tarball::sbuild::check::StreamingCheck;
use isar_tarball::sbuild::rules::{self, Rule};
use isar_tarball::sys;
use isar_tarball::userns::{Outside, Request, hold_signals, supervise};
use rustix::fs::{AtFlags, CWD, unlinkat};

use super::report::{self, Status};
use super::{Globals, place, progress, rootfs};

pub use args::{Args, DEFAULT_EXCLUDES};

/// What the process inside asks of the caller outside: to put the archive and its digest into their
/// places.
const PUBLISH: Request = b'p';

/// The emptied ROOTFS is to be removed from the caller's directory.
const REMOVE_ROOT: Request = b'r';

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let shown = args.rootfs.clone();
    pack_tree(args, globals).with_context(|| format!("cannot pack {shown:?}"))
}

fn pack_tree(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let options = args.options(globals)?;
    // What is let go of to keep to the memory allowed has to be gone.
    sys::give_memory_back();
    let root = rootfs::open(&args.rootfs)?;
    hold_signals()?;
    let inputs = reuse::Inputs::open(&args)?;
    let mut outputs = Outputs::create(&args, &root)?;
    let place = place::place(globals)?;
    let job = Job {
        root,
        archive: outputs.archive_file()?,
        digest: again(&outputs.digest).context("open the digest once more")?,
        state: again(&outputs.state).context("open the state once more")?,
        inputs,
        args: &args,
        options,
        globals,
    };
    let rootfs = args.rootfs.clone();
    let outcome = supervise(
        &place,
        |request| match request {
            PUBLISH => outputs.publish(),
            REMOVE_ROOT => Ok(unlinkat(CWD, &rootfs, AtFlags::REMOVEDIR)?),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        },
        |outside| match job.run(outside) {
            Ok(()) => Status::Done.code(),
            Err(error) => {
                report::error(&error.context(format!("cannot pack {:?}", args.rootfs)));
                Status::Failed.code()
            }
        },
    )?;
    Ok(place::of_work(outcome, || {
        format!("cannot pack {rootfs:?}")
    }))
}

/// The files that are made, as the caller sees them.
struct Outputs {
    /// `None` for stdout.
    archive: Option<Output>,
    digest: Option<Output>,
    /// With which a later pack can take over frames.
    state: Option<Output>,
}

impl Outputs {
    fn create(args: &Args, root: &OwnedFd) -> anyhow::Result<Outputs> {
        let create = |path: &Path| -> anyhow::Result<Output> {
            output::refuse_inside(path, root)?;
            Ok(Output::create(path)?)
        };
        let archive = if args.is_stream() {
            None
        } else {
            Some(create(&args.archive)?)
        };
        let digest = args.digest.as_deref().map(create).transpose()?;
        let has_state = archive.is_some() && (args.reuse.is_some() || args.state.is_some());
        let state = if has_state {
            Some(create(&reuse::state_path(args, &args.archive)?)?)
        } else {
            None
        };
        for (output, name) in [(&archive, "archive itself"), (&state, "archive's state")] {
            if let (Some(output), Some(digest)) = (output, &digest)
                && output.is_place_of(digest)?
            {
                bail!("--digest names the {name}; choose another file");
            }
        }
        Ok(Outputs {
            archive,
            digest,
            state,
        })
    }

    fn archive_file(&self) -> anyhow::Result<File> {
        let file = match &self.archive {
            Some(output) => output.file().try_clone(),
            None => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        };
        file.context("open the archive once more")
    }

    fn publish(&mut self) -> io::Result<()> {
        // The state last: until it stands, the old one does not fit the new archive, which the next
        // pack sees.
        for output in self
            .archive
            .iter_mut()
            .chain(&mut self.digest)
            .chain(&mut self.state)
        {
            output.publish().map_err(|error| error.cause)?;
        }
        Ok(())
    }
}

/// The file of an output, for the process inside.
fn again(output: &Option<Output>) -> io::Result<Option<File>> {
    output
        .as_ref()
        .map(|output| output.file().try_clone())
        .transpose()
}

/// The work inside.
struct Job<'a> {
    root: OwnedFd,
    archive: File,
    digest: Option<File>,
    state: Option<File>,
    inputs: Option<reuse::Inputs>,
    args: &'a Args,
    options: Options,
    globals: &'a Globals,
}

impl Job<'_> {
    fn run(mut self, outside: &mut Outside) -> anyhow::Result<()> {
        let begin = Instant::now();
        let Packed {
            summary,
            rules,
            state,
        } = self.write()?;
        reuse::note_damage(&summary, self.args, self.globals);
        if !self.args.is_stream() {
            // The one waits for the disk, the other computes.
            thread::scope(|scope| {
                let synced = scope.spawn(|| self.archive.sync_all());
                self.judge(rules)?;
                synced
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    .context("sync the archive")
            })?;
        }
        if let (Some(digest), Some(sha256)) = (&mut self.digest, &summary.sha256) {
            let line = summary::digest_line(sha256, self.args);
            digest
                .write_all(&line)
                .and_then(|()| digest.sync_all())
                .context("write the digest")?;
        }
        if let (Some(file), Some(state)) = (&mut self.state, state) {
            file.write_all(&state.encode())
                .and_then(|()| file.sync_all())
                .context("write the archive's state")?;
        }
        outside
            .ask(PUBLISH)
            .with_context(|| format!("put {:?} into its place", self.args.archive))?;
        if self.args.remove_source {
            self.remove_source(outside)
                .context("the archive stands, but the tree could not be removed")?;
        }
        summary::print(&summary, begin.elapsed(), self.args, self.globals)
    }

    fn write(&mut self) -> anyhow::Result<Packed> {
        let reuse = self
            .inputs
            .take()
            .map(|inputs| inputs.reuse(self.args, self.globals))
            .transpose()?;
        let progress = Arc::new(Progress::default());
        let _shown = progress::Shown::begin(
            self.globals.progress,
            self.globals.quiet,
            Arc::clone(&progress),
        );
        let root = self.root.try_clone().context("open the tree once more")?;
        let (options, out) = (&self.options, &mut WritebackWriter::new(&self.archive));
        Ok(pack::pack(root, options, &progress, reuse.as_ref(), out)?)
    }

    /// Would sbuild load what has just been written? A no is a mistake of this program or of the
    /// disk.
    fn judge(&self, rules: StreamingCheck) -> anyhow::Result<()> {
        let name = self.args.archive.file_name().unwrap_or_default();
        let report = rules
            .end(&self.archive, name.as_encoded_bytes())
            .context("read the archive back")?;
        // Device nodes that were asked for are the caller's wish, though sbuild 0.85 takes few of
        // them.
        let is_wanted = |rule: &Rule| self.options.walk.devices && *rule == rules::DEVICE_NODE;
        let is_bad = |rule: &Rule| !rule.is_intact || !rule.loaders.is_empty() && !is_wanted(rule);
        let bad = report
            .findings
            .iter()
            .filter(|finding| is_bad(finding.rule));
        let findings: Vec<String> = bad.take(3).map(ToString::to_string).collect();
        if findings.is_empty() {
            return Ok(());
        }
        bail!(
            "the archive is not what sbuild loads: {}",
            findings.join("; ")
        )
    }

    /// Empties the tree, and has the directory itself removed by whoever may: the caller, or the
    /// owner of the tree.
    fn remove_source(&self, outside: &mut Outside) -> anyhow::Result<()> {
        let options = remove::Options {
            threads: self.options.threads,
            dry_run: false,
            take_group: false,
        };
        remove::contents(self.root.as_fd(), &options)?;
        outside
            .ask(REMOVE_ROOT)
            .or_else(|error| {
                unlinkat(CWD, &self.args.rootfs, AtFlags::REMOVEDIR).map_err(|_| error)
            })
            .map_err(|error| anyhow!("{:?}: {}", self.args.rootfs, describe(&error)))
    }
}
