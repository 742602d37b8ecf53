//! Files that a user names, by path or pattern, each with all below it.

use super::exclude::{self, Patterns};

/// The files that are wanted; all of them when none is named.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    wanted: Vec<Wanted>,
}

#[derive(Clone, Debug)]
struct Wanted {
    text: String,
    /// As a path: a name like `[` is a file's as well.
    literal: Vec<u8>,
    pattern: Option<Patterns>,
    is_found: bool,
}

impl Selection {
    /// The files that `names` name, with or without `/` or `./` in front.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Selection, exclude::Error> {
        let wanted = |text: &str| {
            let pattern = match Patterns::new([text]) {
                Ok(pattern) => Some(pattern),
                // What is no pattern may still be a path; the root has all files below it.
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
            wanted: names.into_iter().map(wanted).collect::<Result<_, _>>()?,
        })
    }

    /// Are all files wanted?
    pub fn is_everything(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Is the file at `path` wanted? Remembers that it was there.
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

    /// What was named and not met.
    pub fn missing(&self) -> Vec<String> {
        self.wanted
            .iter()
            .filter(|wanted| !wanted.is_found)
            .map(|wanted| wanted.text.clone())
            .collect()
    }
}

/// A stored or typed name as a path below the root: components joined by single slashes, `.` left
/// out. `..` stays as it is.
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
