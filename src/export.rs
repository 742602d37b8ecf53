//! Finding the files and directories of a tree that are exported, and which permissions their
//! copies may have.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags, fgetxattr, fstat};
use rustix::io::Errno;

use crate::acl;
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
    /// The member is neither a regular file nor a directory.
    #[error(
        "{}: it is a {kind}, and only regular files and directories can be exported",
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

/// Type of a member that can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory with all below it.
    Directory,
}

/// A member that is exported: its path in the tree and its type.
pub type Found = (Vec<u8>, Kind);

/// Finds the files and directories of the tree at `root` that match the members. A path follows
/// symbolic links within the tree (such as `/vmlinuz`). A pattern matches regular files, or
/// directories where it matches no file. Returns each once, sorted by path.
pub fn find(root: BorrowedFd<'_>, members: &[Vec<u8>]) -> Result<Vec<Found>, Error> {
    let mut found: Vec<Found> = Vec::new();
    let mut tree = None;
    for member in members {
        let path = relative(member);
        match kind(root, path)? {
            Some(kind) => found.push((path.to_vec(), kind)),
            None if is_pattern(path) => {
                if tree.is_none() {
                    tree = Some(walk::walk(root, &walk::Options::default(), 1)?);
                }
                let before = found.len();
                if let Some(tree) = &tree {
                    found.extend(matching(tree, path));
                }
                if found.len() == before {
                    return Err(Error::NotFound(path.to_vec()));
                }
            }
            None => return Err(Error::NotFound(path.to_vec())),
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Opens a member by its path within the tree, for reading.
pub fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, FileError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = if path.is_empty() { b"." } else { path };
    // A pattern may find a path that is too long for one system call. It has no links.
    match resolve::open_in_root(root, path, flags) {
        Err(Errno::NAMETOOLONG) => walk::open(root, path, OFlags::RDONLY),
        opened => opened.at(path, "open"),
    }
}

/// The permissions that owner, group and others have for an open file or directory.
pub fn mode_of(file: BorrowedFd<'_>, path: &[u8]) -> Result<u32, FileError> {
    /// Larger than any ACL that a file system stores.
    const LARGEST: usize = 64 << 10;
    let mode = fstat(file).at(path, "stat")?.st_mode & 0o777;
    let mut access = vec![0; LARGEST];
    match fgetxattr(file, c"system.posix_acl_access", &mut access) {
        Ok(length) => Ok(acl::class_mode(
            mode,
            access.get(..length).unwrap_or_default(),
        )),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(mode),
        Err(error) => Err(FileError::new(path, "read the ACL", error)),
    }
}

/// Refuses files of the same name, which cannot be exported to one directory.
pub fn refuse_same_names(found: &[Found]) -> Result<(), Error> {
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

fn matching(tree: &Tree, pattern: &[u8]) -> Vec<Found> {
    // A malformed pattern matches nothing.
    let Ok(pattern) = Pattern::new(pattern) else {
        return Vec::new();
    };
    let of = |wanted: NodeKind, kind: Kind| -> Vec<Found> {
        (1..tree.nodes.len() as NodeId)
            .filter(|id| tree.node(*id).kind == wanted)
            .map(|id| (tree.path(id), kind))
            .filter(|(path, _)| pattern.matches(path))
            .collect()
    };
    let files = of(NodeKind::File, Kind::File);
    match files.is_empty() {
        true => of(NodeKind::Directory, Kind::Directory),
        false => files,
    }
}

/// The type of a member by its path within the tree; `None` if it does not exist.
fn kind(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Kind>, Error> {
    let path = if path.is_empty() { b"." } else { path };
    let found = match resolve::open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(None),
        found => found.at(path, "open")?,
    };
    let kind = match FileType::from_raw_mode(fstat(&found).at(path, "stat")?.st_mode) {
        FileType::RegularFile => return Ok(Some(Kind::File)),
        FileType::Directory => return Ok(Some(Kind::Directory)),
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
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &std::path::Path, members: &[&str]) -> Result<Vec<String>, String> {
        let members: Vec<Vec<u8>> = members
            .iter()
            .map(|member| member.as_bytes().to_vec())
            .collect();
        let root = std::fs::File::open(root).unwrap();
        let found = find(root.as_fd(), &members).map_err(|error| error.to_string())?;
        Ok(found
            .into_iter()
            .map(|(path, kind)| {
                let end = if kind == Kind::Directory { "/" } else { "" };
                String::from_utf8(path).unwrap() + end
            })
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
        assert_eq!(names(&root, &["boot", "b*"]).unwrap(), ["boot/"]);
        assert_eq!(names(&root, &["boot/*"]).unwrap().len(), 3, "files alone");
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(
            names(&root, &["fifo"]).unwrap_err(),
            "fifo: it is a named pipe, and only regular files and directories can be exported"
        );
    }
}
