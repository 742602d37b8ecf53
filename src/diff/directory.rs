//! The files of a directory.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::content::{Digest, Hasher};
use super::{Error, Facts, FileId, Files, LeftOut, Options};
use crate::allowance::{Allowance, Exceeded};
use crate::entry::{Extent, Kind};
use crate::error::FileError;
use crate::parallel;
use crate::sys::pread_append;
use crate::tree::walk::{self, Identity, Node, NodeId, NodeKind, Reason, Tree};
use crate::tree::xattr::{self, Handle, Kept, UnmappedEntries};

/// Bytes per read.
const PIECE: usize = 256 << 10;

/// Number of files that a thread takes at a time.
const BATCH: usize = 64;

/// Reads the tree at `root`, a directory opened in any mode (`O_PATH` suffices).
pub fn directory(root: OwnedFd, options: &Options) -> Result<Files, Error> {
    let root = if options.cross_mounts {
        root
    } else {
        walk::without_mounts(root)
    };
    let walk = walk::Options {
        exclude: options.exclude.clone(),
        cross_mounts: options.cross_mounts,
        devices: true,
    };
    let tree = walk::walk(root.as_fd(), &walk, options.threads)?;
    for left_out in &tree.left_out {
        if left_out.reason == Reason::Excluded {
            options.exclude.leaves_out(&left_out.path);
        }
    }
    let walk::Skipped {
        sockets,
        excluded,
        mounts,
        ..
    } = tree.skipped;
    let mut files = Files {
        is_directory: true,
        left_out: LeftOut {
            excluded,
            sockets,
            mounts,
            acl_entries: 0,
        },
        ..Files::default()
    };
    let firsts = files.name(&tree, &options.allowance)?;
    let read = read(root.as_fd(), &tree, &firsts, options)?;
    (files.files, files.left_out.acl_entries) = read;
    Ok(files)
}

impl Files {
    /// Takes the names of the tree, and returns the nodes of the files in the order of [`FileId`].
    fn name(&mut self, tree: &Tree, allowance: &Allowance) -> Result<Vec<NodeId>, Exceeded> {
        let mut firsts = Vec::new();
        let mut linked: HashMap<((u32, u32), u64), FileId> = HashMap::new();
        for id in 0..tree.nodes.len() as NodeId {
            let node = tree.node(id);
            let Identity { device, inode, .. } = node.identity;
            // Each name of a device is a file of its own: archives have no hard links to devices.
            let may_link = node.links > 1
                && matches!(
                    node.kind,
                    NodeKind::File | NodeKind::Symlink | NodeKind::Fifo
                );
            let next = firsts.len();
            let file = if may_link {
                *linked.entry((device, inode)).or_insert(next)
            } else {
                next
            };
            if file == next {
                firsts.push(id);
            }
            self.names.insert(&tree.path(id), file, allowance)?;
        }
        Ok(firsts)
    }
}

/// Reads the facts of the files with `threads` threads. Counts the ACL entries of users and groups
/// that the namespace does not map, which are left out.
fn read(
    root: BorrowedFd<'_>,
    tree: &Tree,
    nodes: &[NodeId],
    options: &Options,
) -> Result<(Vec<Facts>, u64), Error> {
    let batches: Vec<&[NodeId]> = nodes.chunks(BATCH).collect();
    let acl_entries = AtomicU64::new(0);
    let reader = || Reader {
        root,
        tree,
        acl_entries: &acl_entries,
        hasher: Hasher::default(),
        buffer: Vec::new(),
    };
    let facts = |reader: &mut Reader<'_>, batch: &&[NodeId]| {
        let facts = |id: &NodeId| {
            let facts = reader.facts(*id)?;
            options.allowance.take(facts.bytes())?;
            Ok::<_, Error>(facts)
        };
        batch.iter().map(facts).collect()
    };
    let batches: Vec<Vec<Facts>> = parallel::each(&batches, options.threads, reader, facts)?;
    let facts = batches.into_iter().flatten().collect();
    Ok((facts, acl_entries.into_inner()))
}

/// Reads files.
struct Reader<'a> {
    root: BorrowedFd<'a>,
    tree: &'a Tree,
    acl_entries: &'a AtomicU64,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn facts(&mut self, id: NodeId) -> Result<Facts, Error> {
        let (node, path) = (self.tree.node(id), self.tree.path(id));
        let (kept, digest) = match node.kind {
            NodeKind::File => {
                let file = self.open(node, &path, OFlags::RDONLY)?;
                (
                    self.xattrs(Handle::Open(file.as_fd()), &path)?,
                    self.digest(id, &file, &path)?,
                )
            }
            NodeKind::Directory if !node.is_mount_point => {
                let file = self.open(node, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                (
                    self.xattrs(Handle::Open(file.as_fd()), &path)?,
                    Digest::default(),
                )
            }
            // Mount points and symbolic links have no attributes that can be read.
            NodeKind::Directory | NodeKind::Symlink => Default::default(),
            NodeKind::Fifo | NodeKind::CharDevice(..) | NodeKind::BlockDevice(..) => {
                (self.of_special(id, &path)?, Digest::default())
            }
        };
        Ok(Facts {
            kind: kind(self.tree, id),
            mode: node.mode.into(),
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            xattrs: kept.xattrs,
            access_acl: kept.access_acl,
            default_acl: kept.default_acl,
            digest,
        })
    }

    fn xattrs(&self, file: Handle<'_>, path: &[u8]) -> Result<Kept, Error> {
        let kept = xattr::read(file, path, UnmappedEntries::LeaveOut)?;
        let left_out = kept.skipped.acl_entries;
        self.acl_entries.fetch_add(left_out, Ordering::Relaxed);
        Ok(kept)
    }

    /// Opens a file, and checks that it is the one seen by the walk.
    fn open(&self, node: &Node, path: &[u8], flags: OFlags) -> Result<OwnedFd, Error> {
        let file = walk::open(self.root, path, flags)?;
        unchanged(node, file.as_fd(), path)?;
        Ok(file)
    }

    fn digest(&mut self, id: NodeId, file: &OwnedFd, path: &[u8]) -> Result<Digest, Error> {
        let node = self.tree.node(id);
        let whole = [Extent {
            offset: 0,
            length: node.size,
        }];
        for extent in self.tree.extents(id).unwrap_or(&whole) {
            let mut done = 0;
            while done < extent.length {
                let offset = extent.offset + done;
                self.buffer.clear();
                let most = usize::try_from(extent.length - done)
                    .unwrap_or(PIECE)
                    .min(PIECE);
                match pread_append(file.as_fd(), offset, most, &mut self.buffer) {
                    Ok(0) => {
                        return Err(Error::Changed {
                            path: path.to_vec(),
                        });
                    }
                    Ok(count) => done += count as u64,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(FileError::new(path, "read", error).into()),
                }
                self.hasher.update(offset, &self.buffer);
            }
        }
        unchanged(node, file.as_fd(), path)?;
        Ok(self.hasher.finish())
    }

    /// The attributes of files that must not be opened.
    fn of_special(&self, id: NodeId, path: &[u8]) -> Result<Kept, Error> {
        let parent = self.tree.node(id).parent;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = walk::open(self.root, &self.tree.path(parent), flags)?;
        let name = self.tree.name(id);
        let handle = Handle::Named(directory.as_fd(), OsStr::from_bytes(name));
        let kept = self.xattrs(handle, path)?;
        let name = CString::new(name).unwrap_or_default();
        let now = Identity::of(&walk::stat(directory.as_fd(), &name, path)?);
        if now == self.tree.node(id).identity {
            Ok(kept)
        } else {
            Err(Error::Changed {
                path: path.to_vec(),
            })
        }
    }
}

fn unchanged(node: &Node, file: BorrowedFd<'_>, path: &[u8]) -> Result<(), Error> {
    let now = Identity::of(&walk::stat(file, c"", path)?);
    if now == node.identity {
        Ok(())
    } else {
        Err(Error::Changed {
            path: path.to_vec(),
        })
    }
}

fn kind(tree: &Tree, id: NodeId) -> Kind {
    let node = tree.node(id);
    match node.kind {
        NodeKind::Directory => Kind::Directory,
        NodeKind::File => Kind::File {
            size: node.size,
            extents: None,
        },
        NodeKind::Symlink => Kind::Symlink {
            target: tree.target(id).to_vec(),
        },
        NodeKind::Fifo => Kind::Fifo,
        NodeKind::CharDevice(major, minor) => Kind::CharDevice { major, minor },
        NodeKind::BlockDevice(major, minor) => Kind::BlockDevice { major, minor },
    }
}
