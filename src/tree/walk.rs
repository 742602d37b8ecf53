//! The files of a tree, without their contents.
//!
//! Uses descriptors and mount ids. The crate `walkdir` does not: it opens paths, so a directory
//! replaced by a symbolic link leads it out of the tree, and it compares device numbers, so it
//! enters bind mounts of the same file system.

use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    Access, AtFlags, FileType, OFlags, RawDir, Statx, StatxFlags, accessat, readlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::exclude::Patterns;
use super::holes::extents;
use super::mount_record::{self, Added};
use super::resolve::open_below;
use crate::entry::{Extent, Timestamp};
use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext};
use crate::parallel;
use crate::sys;

/// A tree that could not be walked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file was replaced by another during the walk.
    #[error(
        "{}: replaced by another file while it was being read; stop the program that writes there, then try again",
        Escaped(path)
    )]
    Replaced {
        /// The path.
        path: Vec<u8>,
    },
}

/// Options of a walk.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files to leave out, with everything below them.
    pub exclude: Patterns,
    /// Cross mount points. By default they are kept as empty directories.
    pub cross_mounts: bool,
    /// Keep device nodes. By default they are skipped and counted.
    pub devices: bool,
}

/// The number of a node in [`Tree::nodes`].
pub type NodeId = u32;

/// Type of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device, major and minor number.
    CharDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
}

/// Identifies a file and its state, to detect replacements and changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Last change of its content, owner, mode, attributes or links.
    pub ctime: Timestamp,
}

/// A file of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// The directory that holds it; the root is its own parent.
    pub parent: NodeId,
    /// Type of the file.
    pub kind: NodeKind,
    /// Permission bits, 0..=0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes, holes included, for a regular file.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Its identity at the time of the walk.
    pub identity: Identity,
    /// Its owner or group is not mapped in this namespace, so that `uid` or `gid` is the overflow
    /// id (65534).
    pub is_unmapped: bool,
    /// Number of hard links, in this tree or elsewhere.
    pub links: u32,
    /// A mount point: a directory that was not entered, or a file that is not read. It counts as
    /// empty.
    pub is_mount_point: bool,
    /// Entries of a directory: ids in byte order of their names.
    pub children: Range<NodeId>,
    name: Range<u32>,
    target: Range<u32>,
}

/// Counts of skipped files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Sockets.
    pub sockets: u64,
    /// Character and block devices.
    pub devices: u64,
    /// Files and directories that match an exclude pattern, without those below them.
    pub excluded: u64,
    /// Mount points whose contents were left out.
    pub mounts: u64,
}

impl Skipped {
    fn add(&mut self, more: Skipped) {
        let Skipped {
            sockets,
            devices,
            excluded,
            mounts,
        } = more;
        self.sockets += sockets;
        self.devices += devices;
        self.excluded += excluded;
        self.mounts += mounts;
    }
}

/// A file that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Why it was left out.
    pub reason: Reason,
}

/// Why a file was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It matches an exclude pattern. What is below it is left out too.
    Excluded,
    /// It is a mount point, which is kept empty.
    Mount,
    /// It is a device node.
    Device,
    /// It is a socket.
    Socket,
}

impl Reason {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Excluded => "excluded",
            Reason::Mount => "content of a mount point",
            Reason::Device => "device node",
            Reason::Socket => "socket",
        }
    }
}

/// All files of a tree.
#[derive(Debug, Default)]
pub struct Tree {
    /// The files: the root first, those of a directory next to each other.
    pub nodes: Vec<Node>,
    /// Counts of skipped files.
    pub skipped: Skipped,
    /// What was skipped, by path within each directory.
    pub left_out: Vec<LeftOut>,
    /// Names and link targets of all nodes, concatenated: a million small allocations would cost
    /// more than the walk.
    text: Vec<u8>,
    extents: std::collections::HashMap<NodeId, Vec<Extent>>,
}

impl Tree {
    /// The id of the root.
    pub const ROOT: NodeId = 0;

    /// The node `id`, which must come from this tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The last component of a node's path; empty for the root.
    pub fn name(&self, id: NodeId) -> &[u8] {
        self.text_at(&self.node(id).name)
    }

    /// The target of a symbolic link.
    pub fn target(&self, id: NodeId) -> &[u8] {
        self.text_at(&self.node(id).target)
    }

    /// The data extents of a sparse file; `None` for a file without holes.
    pub fn extents(&self, id: NodeId) -> Option<&[Extent]> {
        self.extents.get(&id).map(Vec::as_slice)
    }

    /// The path below the root; empty for the root itself.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let mut components = Vec::new();
        let mut at = id;
        while at != Tree::ROOT {
            components.push(self.name(at));
            at = self.node(at).parent;
        }
        components.reverse();
        components.join(&b'/')
    }

    fn text_at(&self, range: &Range<u32>) -> &[u8] {
        &self.text[range.start as usize..range.end as usize]
    }

    fn add_text(&mut self, text: &[u8]) -> io::Result<Range<u32>> {
        let start = length(&self.text)?;
        self.text.extend_from_slice(text);
        Ok(start..length(&self.text)?)
    }

    /// Adds the entries of directory `id`.
    fn add(&mut self, id: NodeId, listing: Tree) -> Result<(), FileError> {
        let Tree {
            nodes,
            skipped,
            left_out,
            text,
            extents,
        } = listing;
        let added = self
            .add_text(&text)
            .map_err(|error| FileError::new(self.path(id), "remember the names", error))?;
        let first = self.nodes.len() as NodeId;
        let shifted = |range: Range<u32>| added.start + range.start..added.start + range.end;
        let moved = |node: Node| Node {
            name: shifted(node.name),
            target: shifted(node.target),
            ..node
        };
        self.nodes.extend(nodes.into_iter().map(moved));
        self.nodes[id as usize].children = first..self.nodes.len() as NodeId;
        self.extents.extend(
            extents
                .into_iter()
                .map(|(id, extents)| (first + id, extents)),
        );
        self.skipped.add(skipped);
        self.left_out.extend(left_out);
        Ok(())
    }
}

/// Opens a view of `root` without the mounts below it, if the kernel permits; otherwise returns
/// `root`.
///
/// In this view a mount point is the underlying directory, which is stored instead of the mount.
pub fn without_mounts(root: OwnedFd) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&root, c"", flags).unwrap_or(root)
}

/// Number of directories listed at a time. Their entries are briefly in memory twice.
const BATCH: usize = 128;

/// Walks the tree at `root`, a directory opened in any mode (`O_PATH` suffices), with up to
/// `threads` threads. The result is the same for any number.
pub fn walk(root: BorrowedFd<'_>, options: &Options, threads: usize) -> Result<Tree, Error> {
    let stat = stat(root, c"", b"")?;
    // If the record of mount points is excluded, the walk leaves out the mount points in it too.
    let added = match options.exclude.matches(mount_record::NAME.as_bytes()) {
        true => Added::read(root)?,
        false => Added::default(),
    };
    let mut tree = Tree::default();
    let is_unmapped = is_unmapped(root, c".", &stat);
    let mut top = node(Tree::ROOT, NodeKind::Directory, &stat);
    let Identity { device, inode, .. } = top.identity;
    top.mtime = added.own_time(device, inode).unwrap_or(top.mtime);
    tree.nodes.push(Node { is_unmapped, ..top });
    let mut next = 0;
    // The entries of a directory are appended, so this loop visits every level.
    while next < tree.nodes.len() {
        let is_entered = |node: &Node| node.kind == NodeKind::Directory && !node.is_mount_point;
        let mut directories = Vec::with_capacity(BATCH);
        while next < tree.nodes.len() && directories.len() < BATCH {
            if is_entered(&tree.nodes[next]) {
                directories.push(next as NodeId);
            }
            next += 1;
        }
        let lister = || Lister {
            root,
            options,
            mount: Mount::of(&stat),
            added: &added,
            tree: &tree,
            listing: Tree::default(),
            buffer: Vec::with_capacity(64 << 10),
        };
        let listings =
            parallel::each(&directories, threads, lister, |lister, id| lister.list(*id))?;
        for (id, listing) in directories.into_iter().zip(listings) {
            tree.add(id, listing)?;
        }
    }
    Ok(tree)
}

/// Lists directories.
struct Lister<'a> {
    root: BorrowedFd<'a>,
    options: &'a Options,
    mount: Mount,
    added: &'a Added,
    /// The tree so far.
    tree: &'a Tree,
    /// The entries of the current directory, numbered from 0.
    listing: Tree,
    buffer: Vec<u8>,
}

impl Lister<'_> {
    /// The files of directory `id`.
    fn list(&mut self, id: NodeId) -> Result<Tree, Error> {
        let path = self.tree.path(id);
        let directory = open(self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if id != Tree::ROOT
            && Identity::of(&stat(directory.as_fd(), c"", &path)?) != self.tree.node(id).identity
        {
            return Err(Error::Replaced { path });
        }
        let mut names = self.names(directory.as_fd(), &path)?;
        names.sort_unstable();
        for name in &names {
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.to_bytes());
            self.add(id, directory.as_fd(), name, &child)?;
        }
        Ok(mem::take(&mut self.listing))
    }

    fn names(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<CString>, FileError> {
        let mut names = Vec::new();
        let mut entries = RawDir::new(directory, spare(&mut self.buffer));
        while let Some(entry) = entries.next() {
            let entry = entry.at(path, "list the directory")?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    /// Adds the entry `name` of an open directory, unless it is left out.
    fn add(
        &mut self,
        parent: NodeId,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> Result<(), Error> {
        if self.options.exclude.matches(path) {
            self.listing.skipped.excluded += 1;
            self.leave_out(path, Reason::Excluded);
            return Ok(());
        }
        let stat = stat(directory, name, path)?;
        let Some(kind) = self.kind(&stat, path) else {
            return Ok(());
        };
        let mut node = node(parent, kind, &stat);
        let Identity { device, inode, .. } = node.identity;
        if self.added.contains(device, inode) {
            return Ok(());
        }
        node.mtime = self.added.own_time(device, inode).unwrap_or(node.mtime);
        node.is_unmapped = is_unmapped(directory, name, &stat);
        node.name = self
            .listing
            .add_text(name.to_bytes())
            .at(path, "remember the name")?;
        match kind {
            NodeKind::Directory | NodeKind::File
                if !self.options.cross_mounts && Mount::of(&stat) != self.mount =>
            {
                self.listing.skipped.mounts += 1;
                self.leave_out(path, Reason::Mount);
                node.is_mount_point = true;
                (node.size, node.links) = (0, 1);
                // The visible owner is that of the mounted file, which is not packed. The
                // underlying directory of the tree is not visible, so assume root.
                if node.is_unmapped {
                    (node.uid, node.gid, node.is_unmapped) = (0, 0, false);
                }
            }
            NodeKind::Symlink => {
                let target = readlinkat(directory, name, Vec::new()).at(path, "read the link")?;
                node.target = self
                    .listing
                    .add_text(target.to_bytes())
                    .at(path, "remember the link")?;
            }
            // Fewer blocks than bytes, so there may be holes.
            NodeKind::File if stat.stx_blocks.saturating_mul(512) < stat.stx_size => {
                let file = open(directory, name.to_bytes(), OFlags::RDONLY).map_err(|error| {
                    FileError {
                        path: path.to_vec(),
                        ..error
                    }
                })?;
                let found = extents(file.as_fd(), stat.stx_size).at(path, "find its holes")?;
                if let Some(extents) = found {
                    self.listing
                        .extents
                        .insert(self.listing.nodes.len() as NodeId, extents);
                }
            }
            _ => {}
        }
        self.listing.nodes.push(node);
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8], reason: Reason) {
        self.listing.left_out.push(LeftOut {
            path: path.to_vec(),
            reason,
        });
    }

    /// The type of a file; `None` if it is skipped, which is counted.
    fn kind(&mut self, stat: &Statx, path: &[u8]) -> Option<NodeKind> {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Some(NodeKind::Directory),
            FileType::RegularFile => Some(NodeKind::File),
            FileType::Symlink => Some(NodeKind::Symlink),
            FileType::Fifo => Some(NodeKind::Fifo),
            FileType::CharacterDevice if self.options.devices => Some(NodeKind::CharDevice(
                stat.stx_rdev_major,
                stat.stx_rdev_minor,
            )),
            FileType::BlockDevice if self.options.devices => Some(NodeKind::BlockDevice(
                stat.stx_rdev_major,
                stat.stx_rdev_minor,
            )),
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.listing.skipped.devices += 1;
                self.leave_out(path, Reason::Device);
                None
            }
            _ => {
                self.listing.skipped.sockets += 1;
                self.leave_out(path, Reason::Socket);
                None
            }
        }
    }
}

/// The length of the text of a tree, which must fit its ranges.
fn length(text: &[u8]) -> io::Result<u32> {
    u32::try_from(text.len()).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The mount of a file: its id (since Linux 5.8), or else the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// The mount id.
    Id(u64),
    /// Major and minor number of the device.
    Device(u32, u32),
}

impl Mount {
    /// From the result of statx(2).
    pub fn of(stat: &Statx) -> Mount {
        if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            Mount::Id(stat.stx_mnt_id)
        } else {
            Mount::Device(stat.stx_dev_major, stat.stx_dev_minor)
        }
    }
}

impl Identity {
    /// From the result of statx(2).
    pub fn of(stat: &Statx) -> Identity {
        Identity {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            ctime: Timestamp {
                seconds: stat.stx_ctime.tv_sec,
                nanoseconds: stat.stx_ctime.tv_nsec,
            },
        }
    }
}

fn node(parent: NodeId, kind: NodeKind, stat: &Statx) -> Node {
    Node {
        parent,
        kind,
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: if kind == NodeKind::File {
            stat.stx_size
        } else {
            0
        },
        mtime: Timestamp {
            seconds: stat.stx_mtime.tv_sec,
            nanoseconds: stat.stx_mtime.tv_nsec,
        },
        identity: Identity::of(stat),
        is_unmapped: false,
        links: stat.stx_nlink,
        is_mount_point: false,
        children: 0..0,
        name: 0..0,
        target: 0..0,
    }
}

/// Calls statx(2) for `name` in an open directory, or for the open file itself if the name is
/// empty. Does not follow symbolic links.
pub fn stat(directory: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Statx, FileError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    sys::statx(
        directory,
        name,
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::MNT_ID,
    )
    .at(path, "stat")
}

/// Opens `path` below `root` (empty: the root itself), whatever its length. Does not follow a
/// symbolic link at its end, and does not block on a named pipe.
///
/// A directory on the way may have been replaced: compare the [`Identity`] of the opened file.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, FileError> {
    let name = if path.is_empty() { b"." } else { path };
    open_below(root, name, flags | OFlags::NONBLOCK | OFlags::NOCTTY).at(path, "open")
}

/// The kernel's overflow id for unmapped owners (the default of `/proc/sys/kernel/overflowuid`).
const OVERFLOW_ID: u32 = 65534;

/// True if the owner or group of the file is not mapped in this namespace, so that statx(2) returns
/// the overflow id (65534).
///
/// The kernel denies all writes to such a file, even to namespace root (`inode_permission`). On a
/// read-only mount this cannot be told.
fn is_unmapped(directory: BorrowedFd<'_>, name: &CStr, stat: &Statx) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EACCESS;
    [stat.stx_uid, stat.stx_gid].contains(&OVERFLOW_ID)
        && accessat(directory, name, Access::WRITE_OK, flags) == Err(Errno::ACCESS)
}

fn spare(buffer: &mut Vec<u8>) -> &mut [MaybeUninit<u8>] {
    buffer.clear();
    buffer.spare_capacity_mut()
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            Error::Replaced { .. } => ErrorKind::Changed,
        }
    }
}
