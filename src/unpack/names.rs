//! The path below the target directory for the name of a member. Pure.

/// Maximum depth. Names have at most 4 KiB, so this only limits the work.
const MAX_DEPTH: usize = 1024;

/// Maximum length of a path in a system call, in bytes (`PATH_MAX` without the NUL).
pub const MAX_PATH: usize = 4095;

/// Maximum length of a component, in bytes (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// A name that is not a path below the target directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It begins with a slash.
    #[error("is absolute")]
    Absolute,
    /// It contains `..`.
    #[error("has `..` in it, and might lead out of the directory")]
    Above,
    /// More than 1024 components.
    #[error("has more than {MAX_DEPTH} components")]
    TooDeep,
    /// More than 4095 bytes.
    #[error("has more than {MAX_PATH} bytes")]
    TooLong,
    /// A component of more than 255 bytes.
    #[error("has a component of more than {MAX_COMPONENT} bytes")]
    LongComponent,
}

/// Changes of names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Number of leading components to remove.
    pub strip_components: usize,
    /// Remove the leading slashes of absolute names.
    pub strip_leading_slash: bool,
}

impl Rules {
    /// The path below the target directory for a name in an archive: components joined by single
    /// slashes, empty for the directory itself. `None` if no component is left.
    pub fn path(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if name.starts_with(b"/") && !self.strip_leading_slash {
            return Err(Error::Absolute);
        }
        let components = || {
            name.split(|byte| *byte == b'/')
                .filter(|part| !matches!(*part, b"" | b"."))
        };
        if components().any(|part| part == b"..") {
            return Err(Error::Above);
        }
        let count = components().count();
        if count > MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        if self.strip_components > 0 && count <= self.strip_components {
            return Ok(None);
        }
        let mut path = Vec::with_capacity(name.len());
        for part in components().skip(self.strip_components) {
            if !path.is_empty() {
                path.push(b'/');
            }
            if part.len() > MAX_COMPONENT {
                return Err(Error::LongComponent);
            }
            path.extend_from_slice(part);
        }
        if path.len() > MAX_PATH {
            return Err(Error::TooLong);
        }
        Ok(Some(path))
    }
}

/// Splits a path into its directory and its name. The directory of a single component is the root,
/// whose path is empty.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_stand_for_places_below_the_directory_or_are_refused() {
        let deep = [&b"a/"[..]; 1025].concat();
        let wide = [b'n'; 256];
        let long = [&[&[b'n'; 255][..], b"/"].concat()[..]; 16].concat();
        type Case<'a> = (&'a [u8], Result<Option<&'a str>, Error>);
        let cases: &[Case] = &[
            (b"a", Ok(Some("a"))),
            (b"", Ok(Some(""))),
            (b"./", Ok(Some(""))),
            (b"a//b/./c/", Ok(Some("a/b/c"))),
            (b"..a/b..", Ok(Some("..a/b.."))),
            (b"/a", Err(Error::Absolute)),
            (b"..", Err(Error::Above)),
            (b"a/../b", Err(Error::Above)),
            (b"a/..", Err(Error::Above)),
            (&deep, Err(Error::TooDeep)),
            (&wide, Err(Error::LongComponent)),
            (&[&long[..], b"n"].concat(), Err(Error::TooLong)),
        ];
        assert_eq!(Rules::default().path(&long).unwrap().unwrap().len(), 4095);
        for (name, expected) in cases {
            let found = Rules::default().path(name);
            assert_eq!(
                found,
                expected.map(|path| path.map(|path| path.as_bytes().to_vec())),
                "{name:?}"
            );
        }
    }

    #[test]
    fn components_and_slashes_are_stripped_when_asked() {
        let rules = Rules {
            strip_components: 1,
            strip_leading_slash: true,
        };
        assert_eq!(rules.path(b"/a/b").unwrap().unwrap(), b"b");
        assert_eq!(rules.path(b"./a").unwrap(), None);
        assert_eq!(rules.path(b"./").unwrap(), None);
        assert_eq!(rules.path(b"a/../../b"), Err(Error::Above));
    }

    #[test]
    fn paths_are_split_before_the_last_component() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
