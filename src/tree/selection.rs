//! Files selected by path or pattern, each with everything below it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::exclude;
use super::pattern::Pattern;

/// The selected files; all files if no name is given.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    wanted: Vec<Wanted>,
}

#[derive(Clone, Debug)]
struct Wanted {
    text: OsString,
    /// The name as a path: `[` is also a valid file name.
    literal: Vec<u8>,
    pattern: Option<Pattern>,
    is_found: bool,
}

impl Selection {
    /// Selects the files in `names`, with or without a leading `/` or `./`.
    pub fn new<S: AsRef<OsStr>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Selection, exclude::Error> {
        let wanted = |text: &OsStr| {
            let pattern = match Pattern::new(text.as_bytes()) {
                Ok(pattern) => Some(pattern),
                // A malformed pattern may still be a path. The root selects all files.
                Err(exclude::Error::Malformed { .. }) => None,
                Err(exclude::Error::NamesRoot { .. }) if !text.is_empty() => None,
                Err(error) => return Err(error),
            };
            Ok(Wanted {
                text: text.to_owned(),
                literal: clean(text.as_bytes()),
                pattern,
                is_found: false,
            })
        };
        Ok(Selection {
            wanted: names
                .into_iter()
                .map(|name| wanted(name.as_ref()))
                .collect::<Result<_, _>>()?,
        })
    }

    /// True if all files are selected.
    pub fn is_everything(&self) -> bool {
        self.wanted.is_empty()
    }

    /// True if the file at `path` is selected. Records the match.
    pub fn takes(&mut self, path: &[u8]) -> bool {
        let mut is_wanted = self.wanted.is_empty();
        for wanted in &mut self.wanted {
            let rest = path.strip_prefix(wanted.literal.as_slice());
            let is_literal = wanted.literal.is_empty()
                || rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
            if is_literal
                || wanted
                    .pattern
                    .as_ref()
                    .is_some_and(|pattern| pattern.covers(path))
            {
                wanted.is_found = true;
                is_wanted = true;
            }
        }
        is_wanted
    }

    /// The names that matched no file.
    pub fn missing(&self) -> Vec<OsString> {
        self.wanted
            .iter()
            .filter(|wanted| !wanted.is_found)
            .map(|wanted| wanted.text.clone())
            .collect()
    }
}

/// Normalizes a stored or typed name to a path below the root: components joined by single slashes,
/// without `.`. Keeps `..`.
pub fn clean(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len());
    for part in name
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
    {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_wanted_with_all_below_them() {
        for (name, path, expected) in [
            ("usr/bin", "usr/bin", true),
            ("/usr/bin/", "usr/bin/ls", true),
            ("./usr/bin", "usr/bin2", false),
            ("usr/*", "usr/bin/ls", true),
            ("*/bin", "usr/bin", true),
            ("*/bin", "bin", false),
            ("usr/bin/[", "usr/bin/[", true),
            ("usr/bin", "usr", false),
        ] {
            let mut selection = Selection::new([name]).unwrap();
            assert_eq!(
                selection.takes(path.as_bytes()),
                expected,
                "{name} and {path}"
            );
            assert_eq!(
                selection.missing().is_empty(),
                expected,
                "{name} and {path}"
            );
        }
        for (name, path, expected) in [
            (&b"a/\xff"[..], &b"a/\xff/b"[..], true),
            (b"a/\xff", b"a/\xfe", false),
            (b"*/\xff?[x-y]", b"a/\xff\xfex", true),
            (b"*/\xff?[x-y]", b"a/\xff\xfez", false),
            (b"\xff*", b"\xff\xc3\xbc/b", true),
        ] {
            let mut selection = Selection::new([OsStr::from_bytes(name)]).unwrap();
            assert_eq!(selection.takes(path), expected, "{}", name.escape_ascii());
        }
        assert!(Selection::default().takes(b"anything"));
        assert!(Selection::new(["."]).unwrap().takes(b"anything"));
        assert!(Selection::new([""]).is_err());
    }

    #[test]
    fn names_become_paths_below_the_root() {
        for (name, path) in [
            ("./", ""),
            ("/a//b/./c/", "a/b/c"),
            ("..a/..", "..a/.."),
            (".", ""),
        ] {
            assert_eq!(clean(name.as_bytes()), path.as_bytes());
        }
    }
}
