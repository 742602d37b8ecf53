//! `isar-tarball unpack`.

mod args;
mod summary;
mod target;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use isar_tarball::error::describe;
use isar_tarball::ids::SubidFiles;
use isar_tarball::input::Input;
use isar_tarball::pack::hex;
use isar_tarball::progress::Progress;
use isar_tarball::tree::resolve::is_inside;
use isar_tarball::unpack::{self, Hashed, Options, Summary, TargetState, UndoJournal, Unpacking};
use isar_tarball::userns::{
    Isolation, Outcome, Outside, Request, clean_up, hold_signals, supervise,
};
use rustix::fs::fstat;

use super::report::{self, Status};
use super::{Globals, place, progress, remove};

pub use args::Args;
pub use target::Target;

/// The process inside is about to change DIR: from here on there is something to undo.
const BEGIN: Request = b'b';

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let context = format!("cannot unpack {:?}", args.archive);
    unpack(&args, globals, &context).context(context.clone())
}

fn unpack(args: &Args, globals: &Globals, context: &str) -> anyhow::Result<Status> {
    let archive = open_archive(args)?;
    if let (Some(expected), false) = (args.sha256, is_pipe(&archive)?) {
        must_be(
            expected,
            unpack::sha256(&archive).context("read the archive")?,
        )?;
    }
    let place = place::place(globals)?;
    let maps = match &place {
        Isolation::Namespace(maps) => maps.clone(),
        Isolation::None => SubidFiles::default().identity()?,
    };
    // Mistakes on the command line are found before anything is removed or made.
    let options = args.options(TargetState::New, &place, maps)?;
    if args.replace {
        must_lie_outside(args)?;
        let removed = remove::remove_one(&args.dir, globals)?;
        if removed != Status::Done {
            return Ok(removed);
        }
    }
    // A signal that comes before there is somebody to clean up waits for that.
    hold_signals()?;
    let target = Target::open(&args.dir, args.merge, &place)?;
    let options = Options {
        found: target.found,
        ..options
    };
    let warns_of_setuid = warns_of_setuid(&place, args, globals);
    let made = UndoJournal::new().context("make the list of what is made")?;
    let job = Job {
        archive,
        root: target
            .directory()
            .try_clone_to_owned()
            .context("open the directory once more")?,
        args,
        options: options.clone(),
        made: &made,
        globals,
        warns_of_setuid,
    };
    let mut has_begun = false;
    let outcome = supervise(
        &place,
        |request| match request {
            BEGIN => {
                has_begun = true;
                Ok(())
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        },
        |outside| match job.run(outside) {
            Ok(()) => Status::Done.code(),
            Err(error) => {
                report::error(&error.context(context.to_owned()));
                Status::Failed.code()
            }
        },
    );
    let done = outcome.map(|outcome| place::of_work(outcome, || context.to_owned()));
    if !matches!(done, Ok(Status::Done)) {
        let undone = if has_begun {
            undo(&target, &options, &made, &place)
        } else {
            Ok(())
        };
        undone
            .and_then(|()| target.abandon())
            .context("what was unpacked could not be removed")?;
    }
    Ok(done?)
}

/// DIR is about to be removed: the archive must not go with it.
fn must_lie_outside(args: &Args) -> anyhow::Result<()> {
    // Neither a pipe nor what is no file any more lies anywhere.
    let (Ok(archive), Ok(dir)) = (args.archive.canonicalize(), File::open(&args.dir)) else {
        return Ok(());
    };
    if !args.is_stream() && is_inside(&archive, dir.as_fd())? {
        bail!(
            "it lies inside {:?}, which --replace removes; move it out of there first",
            args.dir
        );
    }
    Ok(())
}

fn open_archive(args: &Args) -> anyhow::Result<File> {
    if args.is_stream() {
        return Ok(io::stdin().as_fd().try_clone_to_owned().map(File::from)?);
    }
    File::open(&args.archive).map_err(|error| anyhow!("open: {}", describe(&error)))
}

fn is_pipe(archive: &File) -> anyhow::Result<bool> {
    Ok(!archive.metadata().context("look at the archive")?.is_file())
}

fn must_be(expected: [u8; 32], found: [u8; 32]) -> anyhow::Result<()> {
    if found == expected {
        return Ok(());
    }
    bail!(
        "its SHA-256 is {}, not {} as demanded",
        hex(&found),
        hex(&expected)
    )
}

/// Are files of the tree that run as its root to be reported? In layout `caller` that root is the
/// caller, for every user who reaches the file.
fn warns_of_setuid(place: &Isolation, args: &Args, globals: &Globals) -> bool {
    let is_caller = matches!(globals.id_layout, place::Layout::Caller) && *place != Isolation::None;
    is_caller && !globals.quiet && target::is_reachable(&args.dir)
}

/// Removes what a process that failed or was killed has made, from another one in the same place.
fn undo(
    target: &Target<'_>,
    options: &Options,
    made: &UndoJournal,
    place: &Isolation,
) -> anyhow::Result<()> {
    let made = (options.found == TargetState::Tree).then_some(made);
    let (root, before, threads) = (
        target.directory(),
        target.before(&options.maps),
        options.threads,
    );
    let outcome = clean_up(place, move || {
        match unpack::undo(root, made, before, threads) {
            Ok(()) => Status::Done.code(),
            Err(error) => {
                report::error(&error.into());
                Status::Failed.code()
            }
        }
    })?;
    if outcome == Outcome::Exited(0) {
        Ok(())
    } else {
        Err(anyhow!("see above"))
    }
}

/// The work inside.
struct Job<'a> {
    archive: File,
    root: OwnedFd,
    args: &'a Args,
    options: Options,
    made: &'a UndoJournal,
    globals: &'a Globals,
    warns_of_setuid: bool,
}

impl Job<'_> {
    fn run(self, outside: &mut Outside) -> anyhow::Result<()> {
        let begin = Instant::now();
        let root = self
            .root
            .try_clone()
            .context("open the directory once more")?;
        let (args, globals, warns) = (self.args, self.globals, self.warns_of_setuid);
        let summary = self.unpack(outside)?;
        if warns && summary.setuid_root > 0 && fstat(&root)?.st_mode & 0o001 != 0 {
            report::warning(&format!(
                "{:?} has {} files that run with the caller's own rights for every user who starts them: \
                 close a directory above it to others (chmod o-x), or use --id-layout subid",
                args.dir, summary.setuid_root
            ));
        }
        summary::print(&summary, begin.elapsed(), args, globals)
    }

    fn unpack(self, outside: &mut Outside) -> anyhow::Result<Summary> {
        let progress = Arc::new(Progress::default());
        let metadata = self.archive.metadata().context("look at the archive")?;
        if metadata.is_file() {
            progress.total.store(metadata.len(), Ordering::Relaxed);
        }
        let (hashed, archive) = match self.args.sha256 {
            Some(expected) if !metadata.is_file() => {
                let (hashed, pipe) = Hashed::begin(self.archive).context("hash the archive")?;
                (Some((hashed, expected)), pipe)
            }
            _ => (None, self.archive),
        };
        let mut input = Input::open(archive, &self.args.input())?;
        let unpacking = Unpacking::prepare(self.root.as_fd(), input.content(), &self.options)
            .map_err(|error| anyhow!("{:?}: {error}", self.args.dir))?;
        outside.ask(BEGIN)?;
        let _shown = progress::Shown::begin(
            self.globals.progress,
            self.globals.quiet,
            Arc::clone(&progress),
        );
        let summary = unpacking.run(&mut input, Some(self.made), &progress)?;
        drop(input);
        if let Some((hashed, expected)) = hashed {
            must_be(expected, hashed.finish().context("read the archive")?)?;
        }
        Ok(summary)
    }
}
