//! Files of a tree, copied out of it as the caller's own.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::{Escaped, FileError, PathContext};
use crate::tree::exclude::Patterns;
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
    /// A member that is not in the tree.
    #[error("{}: the tree has no such file", Escaped(.0))]
    NotFound(Vec<u8>),
    /// A member that is no regular file.
    #[error("{}: it is a {kind}, and only files are exported", Escaped(path))]
    NotAFile {
        /// The path.
        path: Vec<u8>,
        /// What it is.
        kind: &'static str,
    },
    /// Two members that would be one file.
    #[error("{} and {} have the same name: export them one at a time", Escaped(.0), Escaped(.1))]
    SameName(Vec<u8>, Vec<u8>),
}

/// The regular files of the tree at `root` that the members name: paths, which follow symbolic
/// links within the tree (`/vmlinuz` is one), or patterns, which find files only. Sorted, each
/// once, with their paths for messages and names.
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

/// Files of one name cannot lie in one directory.
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
    // A pattern that is no UTF-8 or malformed matches nothing.
    let Ok(patterns) = Patterns::new(std::str::from_utf8(pattern)) else {
        return Ok(());
    };
    for id in 0..tree.nodes.len() as NodeId {
        let path = tree.path(id);
        if tree.node(id).kind == NodeKind::File && patterns.matches(&path) {
            found.extend(open(root, &path)?.map(|file| (path, file)));
        }
    }
    Ok(())
}

/// Opens a regular file as the tree itself sees the path; `None` when there is none.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let found = match resolve::open_in_root(root, path, OFlags::PATH) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        found => found.at(path, "open")?,
    };
    let kind = match FileType::from_raw_mode(fstat(&found).at(path, "look at it")?.st_mode) {
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

/// Sends an open file to the process at the other end of the socket, which need not have the right
/// to open it.
pub fn send(socket: BorrowedFd<'_>, path: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    attached.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(
        socket,
        &[IoSlice::new(path)],
        &mut attached,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives what [`send`] has sent.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    // The kernel takes no longer path.
    let mut path = vec![0; 4096];
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut path)],
        &mut attached,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    path.truncate(received.bytes);
    let files = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok((path, files.ok_or(io::ErrorKind::UnexpectedEof)?))
}

/// The two ends of a socket for [`send`] and [`receive`].
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
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
            "boot: it is a directory, and only files are exported"
        );
    }

    #[test]
    fn open_files_go_from_one_end_to_the_other() {
        let (one, other) = channel().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(one.as_fd(), b"a/b", file.as_fd()).unwrap();
        let (path, received) = receive(other.as_fd()).unwrap();
        assert_eq!(
            (path, fstat(&received).unwrap().st_ino),
            (b"a/b".to_vec(), fstat(&file).unwrap().st_ino)
        );
        drop(one);
        assert!(receive(other.as_fd()).is_err());
    }
}
