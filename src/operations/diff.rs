//! Two trees or archives, compared.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use super::archive::{ArchivePath, Reading, open_error, threads};
use super::excludes;
use super::pack::DEFAULT_EXCLUDES;
use super::session::Session;
use super::tree_path::open_tree_inside;
use crate::allowance::Allowance;
use crate::diff::{self, Difference, Files, LeftOut, Mtime, Options, Rules};
use crate::error::{Context, Error, ErrorKind};
use crate::input::Input;
use crate::observer::{Notice, Observer};
use crate::parallel;
use crate::tree::exclude::Patterns;
use crate::userns::{self, HeldSignals, Supervision};

/// Compares two trees, each a directory or an archive.
#[derive(Clone, Debug)]
pub struct Diff {
    /// The user namespace in which directories are read.
    pub session: Session,
    /// The first.
    pub a: ArchivePath,
    /// The second.
    pub b: ArchivePath,
    /// How modification times are compared.
    pub mtime: Mtime,
    /// Patterns of what is left out on both sides.
    pub exclude: Vec<String>,
    /// Where one side is a directory, leave out what [`super::Pack`] leaves out by default.
    pub default_excludes: bool,
    /// Device nodes of a directory count as differences where the other side lacks them.
    pub devices: bool,
    /// Enter other file systems and bind mounts of a directory.
    pub cross_mounts: bool,
    /// How archives are read. Half of the memory is for the names and properties of all files and
    /// the differences, about 300 bytes per name.
    pub reading: Reading,
}

/// What [`Diff`] finds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReport {
    /// The differences, by path.
    pub differences: Vec<Difference>,
    /// Device nodes that were not compared.
    pub devices: u64,
    /// What else was not compared, on both sides together.
    pub left_out: LeftOut,
}

impl Diff {
    /// Compares `a` and `b` without their times.
    pub fn new(a: impl Into<ArchivePath>, b: impl Into<ArchivePath>) -> Diff {
        Diff {
            session: Session::default(),
            a: a.into(),
            b: b.into(),
            mtime: Mtime::Ignored,
            exclude: Vec::new(),
            default_excludes: true,
            devices: false,
            cross_mounts: false,
            reading: Reading {
                memory: 1 << 30,
                ..Reading::default()
            },
        }
    }

    /// Reads and compares both.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<DiffReport, Error> {
        let explain = |error, side: &ArchivePath| match side {
            ArchivePath::File(path) => self.session.explain(error, path),
            ArchivePath::Stdio => error,
        };
        self.diff(observer)
            .map_err(|error| explain(explain(error, &self.a), &self.b))
            .context(|| format!("cannot compare {} and {}", self.a, self.b))
    }

    fn diff(&self, observer: &mut dyn Observer) -> Result<DiffReport, Error> {
        if self.a == ArchivePath::Stdio && self.b == ArchivePath::Stdio {
            let text = "both are stdin, which can be read once";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let (a, b) = (self.open(&self.a)?, self.open(&self.b)?);
        let has_directory = a.is_directory() || b.is_directory();
        let options = self.options(has_directory)?;
        // Two archives need no other process.
        if !has_directory {
            let report = self.compare(a, b, &options)?;
            for notice in self.unmatched(&options) {
                observer.notice(&notice);
            }
            return Ok(report);
        }
        let namespaces = self.session.namespaces(observer)?;
        let _held = HeldSignals::new()?;
        userns::run(
            Supervision::of_work(&namespaces.work, observer),
            move |caller| {
                let report = self.compare(a, b, &options)?;
                for notice in self.unmatched(&options) {
                    caller.notice(notice);
                }
                Ok(report)
            },
        )
    }

    /// A notice for each pattern that matched nothing on both sides.
    fn unmatched(&self, options: &Options) -> Vec<Notice> {
        let left_out = options.exclude.left_out();
        let left_out: Vec<&[u8]> = left_out.iter().map(Vec::as_slice).collect();
        let tree = match &self.a {
            ArchivePath::File(path) => path.as_path(),
            ArchivePath::Stdio => Path::new(""),
        };
        excludes::unmatched(&options.exclude, &left_out, tree)
    }

    /// Opens a side as the caller, or a directory that only root of the namespace reaches, such as a
    /// copy in a cache, as that.
    fn open(&self, path: &ArchivePath) -> Result<Side, Error> {
        let ArchivePath::File(name) = path else {
            return Ok(Side::Archive(path.open().context(|| path)?));
        };
        let found = match look(name) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let whole = self.session.namespaces(&mut ())?.whole;
                open_tree_inside(name, &whole).map(Some).map_err(|_| error)
            }
            found => found,
        };
        match found.context(|| path)? {
            Some(directory) => Ok(Side::Directory(directory)),
            None => Ok(Side::Archive(path.open().context(|| path)?)),
        }
    }

    fn options(&self, has_directory: bool) -> Result<Options, Error> {
        let defaults: &[&str] = match has_directory && self.default_excludes {
            true => &DEFAULT_EXCLUDES,
            false => &[],
        };
        let patterns = defaults
            .iter()
            .copied()
            .chain(self.exclude.iter().map(String::as_str));
        Ok(Options {
            exclude: Patterns::new(patterns)?,
            cross_mounts: self.cross_mounts,
            threads: threads(self.reading.threads),
            allowance: Allowance::new(self.reading.memory / 2),
        })
    }

    /// Reads both sides at once.
    fn compare(&self, a: Side, b: Side, options: &Options) -> Result<DiffReport, Error> {
        let (a, b) = thread::scope(|scope| {
            let other = parallel::spawn(scope, || self.read(b, &self.b, options))?;
            let a = self.read(a, &self.a, options);
            Ok::<_, Error>((a?, parallel::join(other)?))
        })?;
        let rules = Rules {
            mtime: self.mtime,
            devices: self.devices,
        };
        let outcome = diff::compare(&a, &b, rules, &options.allowance)?;
        Ok(DiffReport {
            differences: outcome.differences,
            devices: outcome.devices,
            left_out: LeftOut {
                excluded: a.left_out.excluded + b.left_out.excluded,
                sockets: a.left_out.sockets + b.left_out.sockets,
                mounts: a.left_out.mounts + b.left_out.mounts,
                acl_entries: a.left_out.acl_entries + b.left_out.acl_entries,
            },
        })
    }

    fn read(&self, side: Side, name: &ArchivePath, options: &Options) -> Result<Files, Error> {
        let read = || -> Result<Files, Error> {
            match side {
                Side::Directory(root) => Ok(diff::directory(root, options)?),
                Side::Archive(file) => {
                    // Half of the memory for two sides.
                    let reading = Reading {
                        memory: (self.reading.memory / 4).min(Reading::default().memory),
                        ..self.reading
                    };
                    let mut input = Input::open(file, &reading.options())?;
                    Ok(diff::archive(&mut input, options)?)
                }
            }
        };
        read().context(|| name)
    }
}

/// A side, opened as the caller.
enum Side {
    Directory(OwnedFd),
    Archive(File),
}

impl Side {
    fn is_directory(&self) -> bool {
        matches!(self, Side::Directory(_))
    }
}

/// The directory of this name, open with `O_PATH`; `None` for anything else.
pub(super) fn look(path: &Path) -> Result<Option<OwnedFd>, Error> {
    let open = || -> rustix::io::Result<Option<OwnedFd>> {
        let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        Ok((kind == FileType::Directory).then_some(file))
    };
    open().map_err(|error| open_error("open", error))
}
