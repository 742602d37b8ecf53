//! A file that appears whole or not at all: written under a hidden name beside it, then renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstat, fsync, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::directory::is_unfinished;
use super::lock::{self, Mode as LockMode};
use super::removal;
use crate::error::{Classify, ErrorKind, FileError, PathContext};
use crate::sys::{self, piece, start_writeback};
use crate::tree::resolve::{is_inside, open_parent};

/// Why nothing can be written to a path.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The path has no last component: `/`, `..`.
    #[error("{0:?} names no file")]
    NoName(PathBuf),
    /// A directory or socket has the name.
    #[error("{path:?} is a {kind}, not a file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Something has the name, and is not replaced.
    #[error("{0:?} exists; remove it first, or choose another name")]
    Exists(PathBuf),
    /// The path lies inside the tree that is to be packed.
    #[error("{path:?} lies inside the tree that is packed; choose a path outside of it")]
    InsideTree {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to a terminal.
    #[error("{path:?} is a terminal, and binary data does not belong there")]
    Terminal {
        /// The path.
        path: PathBuf,
    },
}

impl Classify for Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Refused::File(error) => error.kind(),
            _ => ErrorKind::InvalidInput,
        }
    }
}

/// A file to write to.
///
/// ```text
/// regular file, or missing   open ──> begin: .NAME.XXXXXXXX.part ──> publish: rename to NAME
///                                     a crash leaves the .part file, and NAME as it was:
///                                     the next output of NAME finds it without a lock
///                                     and removes it
/// pipe, terminal, device     open ──> written to as it is
/// ```
///
/// Dropped before [`OutputFile::publish`], it leaves nothing behind.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// What is no regular file is written to and never replaced.
    Stream(File),
    /// A name in an open directory.
    Name {
        directory: OwnedFd,
        name: OsString,
        part: Option<Part>,
    },
}

/// The file while it is written, locked.
#[derive(Debug)]
struct Part {
    name: OsString,
    file: File,
}

impl OutputFile {
    /// Opens what `path` leads to, without creating anything. A pipe is opened once it has a
    /// reader.
    pub fn open(path: &Path) -> Result<OutputFile, Refused> {
        let shown = path.as_os_str().as_bytes();
        let no_name = || Refused::NoName(path.to_owned());
        let name = path
            .file_name()
            .filter(|_| !shown.ends_with(b"/"))
            .ok_or_else(no_name)?
            .to_owned();
        let directory = open_parent(path)?;
        let target = match open_stream(&directory, &name, path)? {
            Some(stream) => Target::Stream(stream),
            None => Target::Name {
                directory,
                name,
                part: None,
            },
        };
        Ok(OutputFile {
            path: path.to_owned(),
            target,
        })
    }

    /// stdout.
    pub fn stdout() -> Result<OutputFile, FileError> {
        let file = io::stdout().as_fd().try_clone_to_owned();
        Ok(OutputFile {
            path: "stdout".into(),
            target: Target::Stream(file.at("stdout", "open once more")?.into()),
        })
    }

    /// Refuses a terminal, for binary data.
    pub fn refuse_terminal(&self) -> Result<(), Refused> {
        match self.is_terminal() {
            true => Err(Refused::Terminal {
                path: self.path.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Creates the file beside its name, with mode 0666 less the umask, and removes those that
    /// killed runs have left there. A stream is ready as it is.
    pub fn begin(&mut self) -> Result<(), FileError> {
        self.begin_with_mode(0o666)
    }

    /// [`OutputFile::begin`] with another mode than 0666: at no time it has more permissions.
    pub fn begin_with_mode(&mut self, mode: u32) -> Result<(), FileError> {
        let shown = self.path.as_os_str().as_bytes();
        if let Target::Name {
            directory,
            name,
            part: part @ None,
        } = &mut self.target
        {
            remove_abandoned(directory, name).at(shown, "remove what an earlier run has left")?;
            let created = create_part(directory, name, Mode::from_raw_mode(mode));
            *part = Some(created.at(shown, "create a file beside it")?);
        }
        Ok(())
    }

    /// True for a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.target, Target::Stream(stream) if stream.is_terminal())
    }

    /// The open file: readable and writable, unless it is a stream.
    pub fn file(&self) -> Result<&File, FileError> {
        match &self.target {
            Target::Stream(file) => Ok(file),
            Target::Name {
                part: Some(part), ..
            } => Ok(&part.file),
            Target::Name { part: None, .. } => {
                let path = self.path.as_os_str().as_bytes();
                Err(FileError::new(
                    path,
                    "write before it is created",
                    Errno::BADF,
                ))
            }
        }
    }

    /// True for a pipe, a terminal, a device.
    pub fn is_stream(&self) -> bool {
        matches!(self.target, Target::Stream(_))
    }

    /// True if `other` would replace what this one publishes.
    pub fn is_same_name(&self, other: &OutputFile) -> Result<bool, FileError> {
        match (&self.target, &other.target) {
            (
                Target::Name {
                    directory, name, ..
                },
                Target::Name {
                    directory: other_directory,
                    name: other_name,
                    ..
                },
            ) => {
                let id = |directory: &OwnedFd| {
                    let stat = fstat(directory).at(self.path.as_os_str().as_bytes(), "stat")?;
                    Ok((stat.st_dev, stat.st_ino))
                };
                Ok(name == other_name && id(directory)? == id(other_directory)?)
            }
            _ => Ok(false),
        }
    }

    /// Gives the file its name, in one step. Its content must have been synced.
    pub fn publish(&mut self) -> Result<(), FileError> {
        let shown = self.path.as_os_str().as_bytes();
        if let Target::Name {
            directory,
            name,
            part: Some(part),
        } = &self.target
        {
            renameat(directory, &part.name, directory, name)
                .at(shown, "rename the finished file")?;
            fsync(directory).at(shown, "sync its directory")?;
        }
        if let Target::Name { part, .. } = &mut self.target {
            *part = None;
        }
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Target::Name {
            directory,
            part: Some(part),
            ..
        } = &self.target
        {
            // The next run tries again.
            let _ = unlinkat(directory, &part.name, AtFlags::empty());
        }
    }
}

/// Writes to a file in pieces of a cheap size, and starts writeback on the way: otherwise all of it
/// would wait for the sync at the end.
#[derive(Debug)]
pub struct WritebackWriter<'f> {
    file: &'f File,
    written: u64,
    begun: u64,
}

impl<'f> WritebackWriter<'f> {
    /// A writer of `file`, which is empty.
    pub fn new(file: &'f File) -> WritebackWriter<'f> {
        WritebackWriter {
            file,
            written: 0,
            begun: 0,
        }
    }
}

impl Write for WritebackWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(piece(bytes))?;
        self.written += count as u64;
        if self.written - self.begun >= STRETCH {
            // Only a hint: a pipe has no disk, and the sync tells what goes wrong.
            let _ = start_writeback(self.file.as_fd(), self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much is handed to the disk at a time, in bytes.
const STRETCH: u64 = 8 << 20;

/// Refuses a place inside the directory `tree`, whichever way `path` leads there. To be asked
/// before anything is made: a temporary file would change the tree.
pub fn refuse_inside(path: &Path, tree: &OwnedFd) -> Result<(), Refused> {
    if is_inside(path, tree.as_fd())? {
        Err(Refused::InsideTree {
            path: path.to_owned(),
        })
    } else {
        Ok(())
    }
}

/// Opens what has the name for writing if it is a pipe or a device; `None` for a regular file and a
/// free name. A symbolic link counts as what it leads to. One that leads to a regular file, or
/// nowhere, is replaced itself, except for the likes of `/dev/stdout`.
fn open_stream(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<File>, Refused> {
    let shown = path.as_os_str().as_bytes();
    if let Some(number) = open_file(path) {
        return Ok(Some(sys::duplicate(number).at(shown, "open")?.into()));
    }
    let kind = match statat(directory, name, AtFlags::empty()) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(FileError::new(shown, "stat", error).into()),
    };
    let kind = match kind {
        FileType::RegularFile => return Ok(None),
        FileType::Directory => "directory",
        FileType::Socket => "socket",
        _ => {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
            let opened =
                rustix::io::retry_on_intr(|| openat(directory, name, flags, Mode::empty()));
            return Ok(Some(opened.at(shown, "open")?.into()));
        }
    };
    Err(Refused::NotAFile {
        path: path.to_owned(),
        kind,
    })
}

/// The descriptor of this process that `path` means, as `/dev/stdout` and `/dev/fd/3` do through
/// symbolic links to `/proc/self/fd`: an open file, and not a name.
fn open_file(path: &Path) -> Option<i32> {
    /// More links in a row the kernel does not follow.
    const MAX_LINKS: usize = 40;
    let own = Path::new("/proc/self/fd").canonicalize().ok()?;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if parent.canonicalize().is_ok_and(|parent| parent == own) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = parent.join(std::fs::read_link(&path).ok()?);
    }
    None
}

/// Names of unfinished files begin with this. The dot hides them from sbuild, which takes any
/// `NAME.t*` in its cache for a chroot.
fn part_prefix(name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    // A name has at most 255 bytes; the rest is for the dots, the random part and the ending.
    [b".", name.get(..200).unwrap_or(name), b"."].concat()
}

const PART_SUFFIX: &[u8] = b".part";

/// Hexadecimal digits of a random name.
const RANDOM_DIGITS: usize = 8;

/// A part of a name that no other process can foresee.
pub fn random_name() -> String {
    let mut bytes = [0; RANDOM_DIGITS / 2];
    // Without random numbers the time tells names apart; the names are checked to be new anyway.
    if !getrandom(&mut bytes[..], GetRandomFlags::empty()).is_ok_and(|filled| filled == 4) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = now.unwrap_or_default().subsec_nanos().to_ne_bytes();
    }
    format!("{:08x}", u32::from_ne_bytes(bytes))
}

/// True for what [`random_name`] gives.
pub fn is_random_name(name: &[u8]) -> bool {
    name.len() == RANDOM_DIGITS && name.iter().all(u8::is_ascii_hexdigit)
}

/// How many names are tried.
pub const ATTEMPTS: u32 = 100;

/// A new hidden name for the unfinished output `name`.
pub fn part_name(name: &OsStr) -> OsString {
    OsString::from_vec([&part_prefix(name), random_name().as_bytes(), PART_SUFFIX].concat())
}

fn create_part(directory: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<Part> {
    for _ in 0..ATTEMPTS {
        let part = part_name(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(directory, &part, flags, mode) {
            Ok(file) => {
                // A process that looks for abandoned files may hold the lock, and removes the file.
                // Another user may hold it to keep this process waiting.
                if lock::try_lock(&file, LockMode::Exclusive)? && fstat(&file)?.st_nlink > 0 {
                    let file = File::from(file);
                    return Ok(Part { name: part, file });
                }
                let _ = unlinkat(directory, &part, AtFlags::empty());
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Removes the unfinished files, and marked directories, of runs that were killed: those without a
/// lock. What belongs to another user stays.
pub fn remove_abandoned(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let prefix = part_prefix(name);
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let found = entry.file_name().to_bytes();
        let random = found
            .strip_prefix(prefix.as_slice())
            .and_then(|rest| rest.strip_suffix(PART_SUFFIX));
        if !random.is_some_and(is_random_name) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat(directory, entry.file_name(), flags, Mode::empty()) else {
            continue;
        };
        if !lock::try_lock(&file, LockMode::Exclusive).is_ok_and(|locked| locked) {
            continue;
        }
        let kind = match is_unfinished(file.as_fd()) {
            true => {
                // What cannot be removed is seen next.
                let _ = removal::contents(file.as_fd(), &removal::Options::all(1));
                AtFlags::REMOVEDIR
            }
            false => AtFlags::empty(),
        };
        match unlinkat(directory, entry.file_name(), kind) {
            Ok(())
            | Err(
                Errno::NOENT
                | Errno::PERM
                | Errno::ACCESS
                | Errno::ISDIR
                | Errno::NOTDIR
                | Errno::NOTEMPTY,
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn begun(path: &Path) -> OutputFile {
        let mut output = OutputFile::open(path).unwrap();
        output.begin().unwrap();
        output
    }

    #[test]
    fn a_file_has_its_name_only_once_it_is_published() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("schroot.tar.zst");
        fs::write(&path, "old").unwrap();
        let mut output = begun(&path);
        output.file().unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.publish().unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(scratch.path()), ["schroot.tar.zst"]);
    }

    #[test]
    fn an_output_that_is_given_up_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        drop(begun(&scratch.path().join("a")));
        assert!(names(scratch.path()).is_empty());
    }

    #[test]
    fn the_next_run_removes_what_a_killed_one_left_but_not_what_another_writes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a");
        for name in [".a.0123abcd.part", ".a.b.part", ".ab.0123abcd.part"] {
            fs::write(scratch.path().join(name), "x").unwrap();
        }
        fs::create_dir(scratch.path().join(".a.01234567.part")).unwrap();
        let other = begun(&path);
        let mine = begun(&path);
        let left = names(scratch.path());
        assert!(!left.contains(&".a.0123abcd.part".to_owned()), "{left:?}");
        assert_eq!(left.len(), 5, "{left:?}");
        drop((other, mine));
        assert_eq!(
            names(scratch.path()),
            [".a.01234567.part", ".a.b.part", ".ab.0123abcd.part"]
        );
    }

    #[test]
    fn directories_and_nameless_paths_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        let refused = |path: &Path| OutputFile::open(path).unwrap_err();
        let directory = refused(&scratch.path().join("d"));
        assert!(matches!(
            directory,
            Refused::NotAFile {
                kind: "directory",
                ..
            }
        ));
        assert!(matches!(
            refused(&scratch.path().join("x/")),
            Refused::NoName(_)
        ));
        assert!(matches!(refused(Path::new("/")), Refused::NoName(_)));
    }

    #[test]
    fn devices_are_written_to_and_never_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [Path::new("/dev/null"), &link] {
            let mut output = begun(path);
            assert!(output.is_stream());
            output.file().unwrap().write_all(b"x").unwrap();
            output.publish().unwrap();
        }
        assert_eq!(names(scratch.path()), ["link"]);
        assert!(link.is_symlink());
    }

    #[test]
    fn two_outputs_of_one_name_are_told_apart_from_neighbours() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        let open = |path: &str| OutputFile::open(&scratch.path().join(path)).unwrap();
        let first = open("a");
        for (path, same) in [("a", true), ("d/../a", true), ("b", false), ("d/a", false)] {
            assert_eq!(first.is_same_name(&open(path)).unwrap(), same, "{path}");
        }
    }
}
