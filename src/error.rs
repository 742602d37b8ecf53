//! What goes wrong: the crate's public [`Error`], and the parts that its messages are made of.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why an operation failed.
///
/// The message is complete: it names the path or member, the action, the cause and, where the
/// library knows one, the remedy. There is no `source()`. Programs decide by [`Error::kind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    signal: Option<i32>,
}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A system call failed, for a reason that has no kind of its own here.
    Io,
    /// A file or directory is missing.
    NotFound,
    /// The caller, or root of the namespace, may not do this.
    PermissionDenied,
    /// The file system or the kernel lacks a feature, such as extended attributes.
    Unsupported,
    /// The file system is full.
    NoSpace,
    /// Options contradict each other, or a path names nothing that the operation can work on.
    InvalidInput,
    /// Another operation works in the directory.
    InUse,
    /// The directory is not empty.
    NotEmpty,
    /// Another user owns the file or directory, or could replace it.
    Untrusted,
    /// A directory, file or archive changed while it was read.
    Changed,
    /// The archive is damaged, or has a member that is refused.
    BadArchive,
    /// The SHA-256 of the archive is not the expected one.
    WrongDigest,
    /// A requested member is not in the archive or the tree.
    MemberNotFound,
    /// An absolute member name.
    AbsoluteName,
    /// A member below a symbolic link, or a directory in its place.
    ThroughLink,
    /// A file capability that cannot be restored.
    BadCapability,
    /// The archive exceeds the size limit.
    SizeLimit,
    /// The archive exceeds the limit of members.
    MemberLimit,
    /// The memory limit is too small for the work.
    MemoryLimit,
    /// An owner, or a user or group that an ACL names, has no place in the id map.
    UnmappedOwner,
    /// The tree was made under another id map: its root does not belong to root there.
    ForeignTree,
    /// The tree cannot be stored in an archive that sbuild loads.
    BadTree,
    /// The user has no usable subordinate ids.
    SubordinateIds,
    /// The user namespace cannot be created or entered.
    Namespace,
    /// The program has several threads; see [the crate's page](crate#threads).
    MultiThreaded,
    /// A signal stopped the operation; see [`Error::signal`].
    Interrupted,
    /// The process that does the work died.
    Died,
    /// The command to run does not exist.
    CommandNotFound,
    /// The command to run cannot be executed.
    CommandNotExecutable,
    /// Something could not be removed.
    NotRemoved,
}

impl Error {
    /// An error with this kind and a message that is complete in itself.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            signal: None,
        }
    }

    /// The operation was stopped by `signal`.
    pub(crate) fn interrupted(signal: i32) -> Error {
        let name = match signal {
            libc::SIGINT => "SIGINT".to_owned(),
            libc::SIGTERM => "SIGTERM".to_owned(),
            libc::SIGHUP => "SIGHUP".to_owned(),
            libc::SIGQUIT => "SIGQUIT".to_owned(),
            other => format!("signal {other}"),
        };
        Error {
            kind: ErrorKind::Interrupted,
            message: format!("stopped by {name}"),
            signal: Some(signal),
        }
    }

    /// A process was killed by `signal`. `who` is the subject with its verb: `the command was`.
    pub(crate) fn killed(who: &str, signal: i32) -> Error {
        let hint = match signal {
            libc::SIGKILL => ", as the kernel does when memory runs out",
            _ => "",
        };
        let message = format!("{who} killed by signal {signal}{hint}");
        Error {
            signal: Some(signal),
            ..Error::new(ErrorKind::Died, message)
        }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The number of the signal, for [`ErrorKind::Interrupted`] and [`ErrorKind::Died`].
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// The same error with what was being done in front of its message.
    pub(crate) fn context(self, context: impl fmt::Display) -> Error {
        Error {
            message: format!("{context}: {}", self.message),
            ..self
        }
    }
}

/// An error of a part of this crate, which knows its kind.
pub(crate) trait Classify: fmt::Display {
    /// The kind of the [`Error`] that it becomes.
    fn kind(&self) -> ErrorKind;
}

impl<E: Classify> From<E> for Error {
    fn from(error: E) -> Error {
        Error::new(error.kind(), error.to_string())
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    /// `self` as an [`Error`], with `context` in front of its message.
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T, Error> {
        self.map_err(|error| error.into().context(context()))
    }
}

/// Why a read fails if the file has other bytes than those that were hashed.
#[derive(Debug, thiserror::Error)]
#[error("another process changed it while it was being read; run this again when it is finished")]
pub struct Changed;

/// The kind of a failed system call.
impl Classify for io::Error {
    fn kind(&self) -> ErrorKind {
        match self.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => ErrorKind::NotFound,
            Some(Errno::ACCESS | Errno::PERM) => ErrorKind::PermissionDenied,
            Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
            Some(Errno::OPNOTSUPP) => ErrorKind::Unsupported,
            _ if self.kind() == io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ if self.get_ref().is_some_and(|cause| cause.is::<Changed>()) => ErrorKind::Changed,
            _ => ErrorKind::Io,
        }
    }
}

impl Classify for FileError {
    fn kind(&self) -> ErrorKind {
        Classify::kind(&self.cause)
    }
}

/// A system call on a file that failed: `usr/bin/ping: read: Input/output error`.
#[derive(Debug, thiserror::Error)]
#[error("{}: {act}: {}", Escaped(path), describe(cause))]
pub struct FileError {
    /// The path as the user knows it: as typed, or relative to the tree's root (`.` for the root
    /// itself).
    pub path: Vec<u8>,
    /// What was being done, as a verb: `read`, `open`, `list the directory`.
    pub act: &'static str,
    /// Why it failed. It stands in the message and is therefore no `source()` of this error.
    pub cause: io::Error,
}

impl FileError {
    /// `cause` with the path and the act that it belongs to.
    pub fn new(
        path: impl AsRef<[u8]>,
        act: &'static str,
        cause: impl Into<io::Error>,
    ) -> FileError {
        FileError {
            path: shown(path.as_ref()).to_vec(),
            act,
            cause: cause.into(),
        }
    }
}

/// A path as [`FileError::new`] and [`PathContext::at`] take it.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// Adds path and act to the error of a system call.
pub trait PathContext<T> {
    /// `self`, its error turned into a [`FileError`] about `path` while doing `act`.
    fn at(self, path: impl AsRef<[u8]>, act: &'static str) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> PathContext<T> for Result<T, E> {
    fn at(self, path: impl AsRef<[u8]>, act: &'static str) -> Result<T, FileError> {
        self.map_err(|cause| FileError::new(path, act, cause))
    }
}

/// A path below the root of a tree, for messages: `.` for the root itself.
pub fn shown(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// The text of an I/O error without the number that Rust appends: `No space left on device`.
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The error of a system call that some machines lack or block.
///
/// Names the call if it is missing, or if a seccomp filter of this process may be what refuses it.
/// Such an error has no number any more. Any other error is returned as it is.
pub fn of_call(call: &str, since: &str, cause: impl Into<io::Error>) -> io::Error {
    let cause = cause.into();
    match cause.raw_os_error() {
        Some(libc::ENOSYS) => io::Error::other(format!(
            "the system call {call} is missing (Linux has it since {since}), or a seccomp filter, \
             such as that of a container, blocks it"
        )),
        Some(libc::EPERM) if has_seccomp_filter() => io::Error::other(format!(
            "{call}: Operation not permitted: this process has a seccomp filter, such as that of a \
             container, which must allow this system call"
        )),
        _ => cause,
    }
}

/// True if a seccomp filter decides which system calls this process may use.
fn has_seccomp_filter() -> bool {
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    status
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"Seccomp:\t2")
}

/// A path or name for a message: bytes that are not printable UTF-8 are escaped (`\n`, `\xff`), so
/// that no name can forge a line or move a cursor.
pub struct Escaped<'a, B: AsRef<[u8]> + ?Sized>(pub &'a B);

impl<B: AsRef<[u8]> + ?Sized> fmt::Display for Escaped<'_, B> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_ref().utf8_chunks() {
            for character in chunk.valid().chars() {
                // Format characters (bidirectional overrides, zero-width) count as not printable
                // too: escape_debug escapes them.
                if character.is_control() || !is_plain(character) {
                    write!(out, "{}", character.escape_default())?;
                } else {
                    write!(out, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// False for the characters that change how the text around them is laid out.
fn is_plain(character: char) -> bool {
    !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_names_path_act_and_cause_without_the_number() {
        let error =
            Err::<(), _>(io::Error::from_raw_os_error(libc::EIO)).at("usr/bin/ping", "read");
        assert_eq!(
            error.expect_err("an error").to_string(),
            "usr/bin/ping: read: Input/output error"
        );
    }

    #[test]
    fn names_cannot_forge_lines_or_move_the_cursor() {
        assert_eq!(
            Escaped(b"a\nb\x1b[2J\xff\xc3\xbc").to_string(),
            "a\\nb\\u{1b}[2J\\xff\u{fc}"
        );
        assert_eq!(Escaped("x\u{202e}y").to_string(), "x\\u{202e}y");
    }
}
