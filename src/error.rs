//! What went wrong with a file: its path, the act, the cause.

use std::fmt;
use std::io;

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
            path: shown_root(path.as_ref()).to_vec(),
            act,
            cause: cause.into(),
        }
    }
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

fn shown_root(path: &[u8]) -> &[u8] {
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
