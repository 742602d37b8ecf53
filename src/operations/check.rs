//! Would sbuild load an archive?

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::archive::{ArchivePath, open_error, threads};
use crate::archive::reader::Member;
use crate::error::{Context, Error, ErrorKind, FileError, PathContext, describe};
use crate::ids::{Extent as IdExtent, IdMap, IdMaps};
use crate::observer::Observer;
use crate::sbuild::check::{self, Report};
use crate::sbuild::rules::{self, Rule};
use crate::unpack::{self, Refusal};

/// Checks whether sbuild loads an archive, and whether it is intact and safe to unpack.
#[derive(Clone, Debug)]
pub struct Check {
    /// The archive.
    pub archive: ArchivePath,
    /// Threads that decompress; 0 for one per CPU.
    pub threads: usize,
    /// Limit of memory, in bytes.
    pub memory: u64,
}

/// The verdict of [`Check`].
pub type CheckReport = Report;

impl Check {
    /// Checks `archive` with default options.
    pub fn new(archive: impl Into<ArchivePath>) -> Check {
        Check {
            archive: archive.into(),
            threads: 0,
            memory: 512 << 20,
        }
    }

    /// Reads the whole archive.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<CheckReport, Error> {
        let options = check::Options {
            threads: threads(self.threads),
            memory: self.memory,
            refuses: refused_by_unpack,
        };
        let mut check = || -> Result<Report, Error> {
            let (file, name) = match &self.archive {
                ArchivePath::Stdio => (stdin()?, None),
                ArchivePath::File(path) => named(self.archive.open()?, path)?,
            };
            let report = check::check_watched(&file, name.as_deref(), &options, |done, total| {
                observer.progress(done, total);
            });
            observer.progress(0, 0);
            Ok(report?)
        };
        check().context(|| format!("cannot check {}", self.archive))
    }
}

/// Why [`Unpack`](super::Unpack) refuses a member, with default options and 65536 subordinate ids.
fn refused_by_unpack(member: &Member) -> Option<(&'static Rule, String)> {
    let refusal = unpack::refusal(member, default_maps()?)?;
    let rule = match refusal {
        Refusal::Capability(_) => &rules::FOREIGN_CAPABILITY,
        _ => &rules::UNPACK_REFUSES,
    };
    Some((rule, refusal.to_string()))
}

/// The ids that a namespace of 65536 subordinate ids has.
fn default_maps() -> Option<&'static IdMaps> {
    static MAPS: LazyLock<Option<IdMaps>> = LazyLock::new(|| {
        let ids = IdExtent {
            inner: 0,
            outer: 0,
            count: 65536,
        };
        let map = IdMap::from_extents(vec![ids]).ok()?;
        Some(IdMaps {
            uids: map.clone(),
            gids: map,
        })
    });
    MAPS.as_ref()
}

/// The archive, and the name that sbuild sees: it follows symbolic links first.
fn named(file: File, path: &Path) -> Result<(File, Option<Vec<u8>>), Error> {
    let failed = |error: io::Error| open_error("open", error);
    let name = fs::canonicalize(path).map_err(failed)?;
    let name = name.file_name().map(|name| name.as_bytes().to_vec());
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok((file, name)),
        false => Ok((spooled(file)?, name)),
    }
}

fn stdin() -> Result<File, Error> {
    let file = ArchivePath::Stdio.open()?;
    let mut position = &file;
    // A shell may have read the beginning of the file. The archive is what follows.
    let is_whole = file.metadata().at("stdin", "stat")?.is_file()
        && position.stream_position().is_ok_and(|at| at == 0);
    if is_whole { Ok(file) } else { spooled(file) }
}

/// The content of a pipe in a file without a name: the frames of an archive are found by its end as
/// well as by its beginning.
fn spooled(mut pipe: File) -> Result<File, Error> {
    let directory = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(CWD, &directory, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.map_err(|error| {
        let cause = describe(&error.into());
        Error::new(
            ErrorKind::Io,
            format!(
                "create a temporary file in {directory:?}: {cause}; set TMPDIR to another directory"
            ),
        )
    })?);
    let shown = directory.as_os_str().as_bytes();
    io::copy(&mut pipe, &mut file)
        .map_err(|error| FileError::new(shown, "copy it there", error))?;
    Ok(file)
}
