//! The bytes of a frame: headers from the tree, data from the files.

use std::ffi::{CString, OsStr};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FileType, OFlags, Statx};

use super::plan::{Content, Plan, stored};
use super::reuse::Reuse;
use super::{Error, Options};
use crate::archive::outline::{Gap, Outline};
use crate::archive::{header, writer};
use crate::entry::{Entry, Extent, Kind};
use crate::error::FileError;
use crate::sys::pread_append;
use crate::tree::walk::{self, Identity, NodeId, NodeKind, Tree};
use crate::tree::xattr::{self, Handle, Kept, Skipped};

/// The inputs that all workers share.
pub struct PackContext<'a> {
    /// The root of the tree.
    pub root: BorrowedFd<'a>,
    /// The files below it.
    pub tree: &'a Tree,
    /// Their order and frames.
    pub plan: &'a Plan,
    /// The options of the user.
    pub options: &'a Options,
    /// A PAX comment for the root's member.
    pub comment: Option<&'a [u8]>,
    /// The older archive whose frames are reused.
    pub reuse: Option<&'a Reuse>,
    /// Counts the bytes of data in finished frames.
    pub done: &'a AtomicU64,
}

/// Reads members. Keeps the last directory open.
pub struct Reader<'a> {
    source: &'a PackContext<'a>,
    directory: Option<(NodeId, OwnedFd)>,
    /// Do not read the files: leave out data and extended attributes.
    is_unread: bool,
    /// The data ranges of the frame read last, which its outline leaves out.
    gaps: Vec<Gap>,
    /// Bytes of this data read so far.
    data: usize,
    /// Skipped extended attributes of the frame read last.
    pub skipped_xattrs: Skipped,
}

impl<'a> Reader<'a> {
    /// A reader of `source`.
    pub fn new(source: &'a PackContext<'a>) -> Reader<'a> {
        Reader {
            source,
            directory: None,
            is_unread: false,
            gaps: Vec::new(),
            data: 0,
            skipped_xattrs: Skipped::default(),
        }
    }

    /// Reads the bytes of a frame into `out`, replacing what it had.
    pub fn frame(&mut self, content: &Content, out: &mut Vec<u8>) -> Result<(), Error> {
        out.clear();
        self.skipped_xattrs = Skipped::default();
        self.gaps.clear();
        self.data = 0;
        match content {
            Content::Members(range) => {
                for index in range.clone() {
                    self.member(index, None, out)?;
                }
            }
            Content::Part { member, data } => self.member(*member, Some(data.clone()), out)?,
        }
        Ok(())
    }

    /// The outline of the frame read last, whose bytes `content` begins with.
    pub fn outline(&self, content: &[u8]) -> Outline {
        let mut bytes = Vec::with_capacity(content.len() - self.data);
        let mut rest = content;
        for Gap { at, length } in &self.gaps {
            let (kept, behind) = rest.split_at(at - bytes.len());
            bytes.extend_from_slice(kept);
            rest = &behind[*length as usize..];
        }
        bytes.extend_from_slice(rest);
        Outline {
            bytes,
            gaps: self.gaps.clone(),
        }
    }

    /// The outline of a frame whose files need not be read. It has no extended attributes.
    pub fn unread(&mut self, content: &Content) -> Result<Outline, Error> {
        let mut bytes = Vec::new();
        self.is_unread = true;
        let done = self.frame(content, &mut bytes);
        self.is_unread = false;
        done.map(|()| Outline {
            bytes,
            gaps: self.gaps.clone(),
        })
    }

    /// Appends member `index`. With `part`, appends only these bytes of its data, with the header
    /// before the first part and the padding after the last.
    fn member(
        &mut self,
        index: usize,
        part: Option<Range<u64>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let PackContext { tree, plan, .. } = *self.source;
        let id = plan.order[index];
        let path = tree.path(id);
        let node = tree.node(id);
        let linked = plan.hard_links.get(&id);
        let file = match node.kind {
            _ if self.is_unread => None,
            NodeKind::File if linked.is_none() && !node.is_mount_point => {
                Some(self.open(id, &path, OFlags::RDONLY)?)
            }
            NodeKind::Directory if !node.is_mount_point => {
                Some(self.open(id, &path, OFlags::RDONLY | OFlags::DIRECTORY)?)
            }
            _ => None,
        };
        let data = part.unwrap_or(
            0..if linked.is_some() {
                0
            } else {
                stored(tree, id)
            },
        );
        if data.start == 0 {
            let kept = if linked.is_some() || self.is_unread {
                Kept::default()
            } else {
                self.xattrs(id, file.as_ref(), &path)?
            };
            let entry = entry(self.source, id, path.clone(), kept);
            let comment = self.source.comment.filter(|_| id == Tree::ROOT);
            writer::append_header(out, &entry, comment)?;
        }
        let at = out.len();
        if let Some(file) = &file {
            self.data(id, file, &path, &data, out)?;
        }
        if data.start < data.end {
            self.gaps.push(Gap {
                at: at - self.data,
                length: data.end - data.start,
            });
        }
        self.data += out.len() - at;
        if data.end == stored(tree, id) && linked.is_none() {
            out.resize(out.len() + header::padding(data.end), 0);
        }
        Ok(())
    }

    fn data(
        &self,
        id: NodeId,
        file: &OwnedFd,
        path: &[u8],
        data: &Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let node = self.source.tree.node(id);
        if node.kind == NodeKind::File {
            let whole = [Extent {
                offset: 0,
                length: node.size,
            }];
            let extents = self.source.tree.extents(id).unwrap_or(&whole);
            for Extent { offset, length } in slice(extents, data) {
                read(file, offset, length, path, out)?;
            }
        }
        unchanged(node, &walk::stat(file.as_fd(), c"", path)?, path)
    }

    fn xattrs(&mut self, id: NodeId, file: Option<&OwnedFd>, path: &[u8]) -> Result<Kept, Error> {
        let node = self.source.tree.node(id);
        if !self.source.options.xattrs || node.kind == NodeKind::Symlink || node.is_mount_point {
            return Ok(Kept::default());
        }
        let unmapped = self.source.options.unmapped.into();
        let kept = match file {
            Some(file) => xattr::read(Handle::Open(file.as_fd()), path, unmapped)?,
            None => {
                let name = OsStr::from_bytes(self.source.tree.name(id));
                let directory = self.directory(node.parent)?;
                let kept = xattr::read(Handle::Named(directory, name), path, unmapped)?;
                let name = CString::new(name.as_bytes()).unwrap_or_default();
                unchanged(node, &walk::stat(directory, &name, path)?, path)?;
                kept
            }
        };
        self.skipped_xattrs += kept.skipped;
        Ok(kept)
    }

    /// Opens a file or directory, and checks before reading that it is the one seen by the walk.
    fn open(&mut self, id: NodeId, path: &[u8], flags: OFlags) -> Result<OwnedFd, Error> {
        let PackContext { root, tree, .. } = *self.source;
        if id == Tree::ROOT {
            return Ok(walk::open(root, b"", flags)?);
        }
        let directory = self.directory(tree.node(id).parent)?;
        let file = walk::open(directory, tree.name(id), flags)
            .map_err(|error| Error::gone(error, path))?;
        unchanged(tree.node(id), &walk::stat(file.as_fd(), c"", path)?, path)?;
        Ok(file)
    }

    fn directory(&mut self, id: NodeId) -> Result<BorrowedFd<'_>, Error> {
        let PackContext { root, tree, .. } = *self.source;
        if self.directory.as_ref().is_none_or(|(open, _)| *open != id) {
            let path = tree.path(id);
            let directory = walk::open(root, &path, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|error| Error::gone(error, &path))?;
            let stat = walk::stat(directory.as_fd(), c"", &path)?;
            let Identity { device, inode, .. } = Identity::of(&stat);
            let walked = tree.node(id).identity;
            if (device, inode) != (walked.device, walked.inode) {
                return Err(Error::Replaced { path });
            }
            self.directory = Some((id, directory));
        }
        match &self.directory {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Ok(root),
        }
    }
}

/// Checks that the file has not changed since the walk.
fn unchanged(node: &walk::Node, now: &Statx, path: &[u8]) -> Result<(), Error> {
    let path = || path.to_vec();
    let identity = Identity::of(now);
    // The inode number of a removed file may be reused, perhaps for a file of another type.
    let is_other_kind = (node.kind == NodeKind::File)
        != (FileType::from_raw_mode(now.stx_mode.into()) == FileType::RegularFile);
    if is_other_kind
        || (identity.device, identity.inode) != (node.identity.device, node.identity.inode)
    {
        return Err(Error::Replaced { path: path() });
    }
    if identity.ctime == node.identity.ctime {
        return Ok(());
    }
    match node.kind {
        NodeKind::File if now.stx_size < node.size => Err(Error::Shrank {
            path: path(),
            from: node.size,
            to: now.stx_size,
        }),
        NodeKind::File if now.stx_size > node.size => Err(Error::Grew {
            path: path(),
            from: node.size,
            to: now.stx_size,
        }),
        _ => Err(Error::Changed { path: path() }),
    }
}

/// The ranges of a file that hold the bytes `data` of its stored data.
fn slice(extents: &[Extent], data: &Range<u64>) -> Vec<Extent> {
    let mut pieces = Vec::new();
    let mut position = 0;
    for extent in extents {
        let start = data.start.max(position);
        let end = data.end.min(position + extent.length);
        if start < end {
            pieces.push(Extent {
                offset: extent.offset + (start - position),
                length: end - start,
            });
        }
        position += extent.length;
    }
    pieces
}

/// Appends `length` bytes of `file` at `offset`. Fails if the file has shrunk.
fn read(
    file: &OwnedFd,
    offset: u64,
    length: u64,
    path: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut have = 0;
    while have < length {
        match pread_append(file.as_fd(), offset + have, (length - have) as usize, out) {
            Ok(0) => {
                return Err(Error::Shrank {
                    path: path.to_vec(),
                    from: offset + length,
                    to: offset + have,
                });
            }
            Ok(count) => have += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::new(path, "read", error).into()),
        }
    }
    Ok(())
}

/// The entry of node `id` as the archive stores it.
fn entry(source: &PackContext<'_>, id: NodeId, path: Vec<u8>, kept: Kept) -> Entry {
    let PackContext {
        tree,
        plan,
        options,
        ..
    } = source;
    let node = tree.node(id);
    let kind = match (plan.hard_links.get(&id), node.kind) {
        (Some(first), _) => Kind::HardLink {
            target: tree.path(*first),
        },
        (None, NodeKind::Directory) => Kind::Directory,
        (None, NodeKind::File) => Kind::File {
            size: node.size,
            extents: tree.extents(id).map(<[Extent]>::to_vec),
        },
        (None, NodeKind::Symlink) => Kind::Symlink {
            target: tree.target(id).to_vec(),
        },
        (None, NodeKind::Fifo) => Kind::Fifo,
        (None, NodeKind::CharDevice(major, minor)) => Kind::CharDevice { major, minor },
        (None, NodeKind::BlockDevice(major, minor)) => Kind::BlockDevice { major, minor },
    };
    Entry {
        path,
        kind,
        uid: super::audit::stored_id(node.uid),
        gid: super::audit::stored_id(node.gid),
        mode: node.mode.into(),
        mtime: options.mtime(node.mtime),
        xattrs: kept.xattrs,
        access_acl: kept.access_acl,
        default_acl: kept.default_acl,
    }
}
