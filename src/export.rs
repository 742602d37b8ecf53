//! Finding the files of a tree that are exported.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags, fstat};

use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext};
use crate::tree::pattern::Pattern;
use crate::tree::resolve;
use crate::tree::walk::{self, NodeId, NodeKind, Tree};

/// Files that could not be found or copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tree could not be walked.
    #[error(transparent)]
    Walk(#[from] walk::Error),
    /// The tree has no such member.
    #[error("{}: the tree has no such file", Escaped(.0))]
    NotFound(Vec<u8>),
    /// The member is not a regular file.
    #[error(
        "{}: it is a {kind}, and only regular files can be exported",
        Escaped(path)
    )]
    NotAFile {
        /// The path.
        path: Vec<u8>,
        /// Type of the file.
        kind: &'static str,
    },
    /// Two members have the same file name.
    #[error("{} and {} have the same name: export them one at a time", Escaped(.0), Escaped(.1))]
    SameName(Vec<u8>, Vec<u8>),
}

/// Opens the regular files of the tree at `root` that match the members. A path follows symbolic
/// links within the tree (such as `/vmlinuz`); a pattern matches regular files only. Returns each
/// file once, with its path, sorted by path.
pub fn find(root: &OwnedFd, members: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, OwnedFd)>, Error> {
    let mut found: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
    let mut tree = None;
    for member in members {
        let path = relative(member);
        match open(root.as_fd(), path)? {
            Some(file) => found.push((path.to_vec(), file)),
            None if is_pattern(path) => {
                if tree.is_none() {
                    tree = Some(walk::walk(root.as_fd(), &walk::Options::default(), 1)?);
                }
                let before = found.len();
                if let Some(tree) = &tree {
                    matching(root.as_fd(), tree, path, &mut found)?;
                }
                if found.len() == before {
                    return Err(Error::NotFound(path.to_vec()));
                }
            }
            None => return Err(Error::NotFound(path.to_vec())),
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found.dedup_by(|one, other| one.0 == other.0);
    Ok(found)
}

/// Refuses files of the same name, which cannot be exported to one directory.
pub fn refuse_same_names(found: &[(Vec<u8>, OwnedFd)]) -> Result<(), Error> {
    let mut names = std::collections::HashMap::new();
    for (path, _) in found {
        if let Some(other) = names.insert(name(path), path) {
            return Err(Error::SameName(other.clone(), path.clone()));
        }
    }
    Ok(())
}

/// The last component of a member's path.
pub fn name(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path))
}

fn matching(
    root: BorrowedFd<'_>,
    tree: &Tree,
    pattern: &[u8],
    found: &mut Vec<(Vec<u8>, OwnedFd)>,
) -> Result<(), Error> {
    // A malformed pattern matches nothing.
    let Ok(pattern) = Pattern::new(pattern) else {
        return Ok(());
    };
    for id in 0..tree.nodes.len() as NodeId {
        let path = tree.path(id);
        if tree.node(id).kind == NodeKind::File && pattern.matches(&path) {
            found.extend(open(root, &path)?.map(|file| (path, file)));
        }
    }
    Ok(())
}

/// Opens a regular file by its path within the tree; `None` if it does not exist.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let found = match resolve::open_in_root(root, path, OFlags::PATH) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        found => found.at(path, "open")?,
    };
    let kind = match FileType::from_raw_mode(fstat(&found).at(path, "stat")?.st_mode) {
        FileType::RegularFile => {
            return Ok(Some(
                resolve::open_in_root(root, path, flags).at(path, "open")?,
            ));
        }
        FileType::Directory => "directory",
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        _ => "device",
    };
    Err(Error::NotAFile {
        path: path.to_vec(),
        kind,
    })
}

fn relative(member: &[u8]) -> &[u8] {
    let mut rest = member;
    while let Some(shorter) = rest.strip_prefix(b"/").or_else(|| rest.strip_prefix(b"./")) {
        rest = shorter;
    }
    rest
}

fn is_pattern(path: &[u8]) -> bool {
    path.iter()
        .any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'{'))
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::Walk(error) => error.kind(),
            Error::NotFound(_) => ErrorKind::MemberNotFound,
            Error::NotAFile { .. } | Error::SameName(..) => ErrorKind::InvalidInput,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &std::path::Path, members: &[&str]) -> Result<Vec<String>, String> {
        let members: Vec<Vec<u8>> = members
            .iter()
            .map(|member| member.as_bytes().to_vec())
            .collect();
        let found = find(&std::fs::File::open(root).unwrap().into(), &members)
            .map_err(|error| error.to_string())?;
        Ok(found
            .into_iter()
            .map(|(path, _)| String::from_utf8(path).unwrap())
            .collect())
    }

    #[test]
    fn paths_follow_links_within_the_tree_and_patterns_find_files() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("boot/sub")).unwrap();
        for file in [
            "boot/vmlinuz-1",
            "boot/vmlinuz-2",
            "boot/initrd",
            "boot/sub/vmlinuz-3",
        ] {
            fs::write(root.join(file), file).unwrap();
        }
        symlink("/boot/initrd", root.join("initrd")).unwrap();
        symlink("../../outside", root.join("escape")).unwrap();
        fs::write(scratch.path().join("outside"), "secret").unwrap();
        assert_eq!(
            names(&root, &["/initrd", "./boot/initrd"]).unwrap(),
            ["boot/initrd", "initrd"]
        );
        assert_eq!(
            names(&root, &["boot/vmlinuz-*", "boot/vmlinuz-1"]).unwrap(),
            ["boot/vmlinuz-1", "boot/vmlinuz-2"]
        );
        assert_eq!(
            names(&root, &["**/vmlinuz-3"]).unwrap(),
            ["boot/sub/vmlinuz-3"]
        );
        assert_eq!(
            names(&root, &["escape"]).unwrap_err(),
            "escape: the tree has no such file"
        );
        assert_eq!(
            names(&root, &["boot/none-*"]).unwrap_err(),
            "boot/none-*: the tree has no such file"
        );
        assert_eq!(
            names(&root, &["boot"]).unwrap_err(),
            "boot: it is a directory, and only regular files can be exported"
        );
    }
}
