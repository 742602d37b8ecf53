//! The metadata of a frame's members as seen by the walk: everything that determines their bytes
//! except file contents and extended attributes, and everything that changes when those do (size,
//! mtime, ctime, inode).

use std::ops::Range;

use blake3::Hasher;

use super::state::Digest;
use crate::entry::{Extent, Timestamp};
use crate::pack::Unmapped;
use crate::pack::members::PackContext;
use crate::pack::plan::{Content, Frame};
use crate::tree::walk::{NodeId, NodeKind, Tree};

/// The metadata of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A digest that is equal only for equal members, options and parts.
    pub digest: Digest,
    /// The last change of any member.
    pub changed: Timestamp,
}

/// The metadata of the members of `frame`. `is_last`: the frame also contains the end of the
/// archive.
pub fn seen(source: &PackContext<'_>, frame: &Frame, is_last: bool) -> Seen {
    let mut fields = Fields {
        hasher: Hasher::new(),
        changed: Timestamp {
            seconds: i64::MIN,
            nanoseconds: 0,
        },
    };
    let options = source.options;
    fields.flag(is_last);
    fields.flag(options.xattrs);
    fields.flag(options.unmapped == Unmapped::Squash);
    fields.flag(options.whole_seconds);
    fields.flag(options.clamp_mtime.is_some());
    fields.signed(options.clamp_mtime.unwrap_or_default());
    fields.bytes(source.comment.unwrap_or_default());
    let (members, part): (Range<usize>, _) = match &frame.content {
        Content::Members(range) => (range.clone(), None),
        Content::Part { member, data } => (*member..member + 1, Some(data)),
    };
    fields.flag(part.is_some());
    for number in part.map_or([0, 0], |part| [part.start, part.end]) {
        fields.number(number);
    }
    for id in &source.plan.order[members] {
        fields.member(source, *id);
    }
    Seen {
        digest: fields.hasher.finalize().into(),
        changed: fields.changed,
    }
}

/// Feeds fields to a hash, encoded so that different lists of fields give different bytes.
struct Fields {
    hasher: Hasher,
    changed: Timestamp,
}

impl Fields {
    fn member(&mut self, source: &PackContext<'_>, id: NodeId) {
        let tree = source.tree;
        let node = tree.node(id);
        self.bytes(&tree.path(id));
        self.kind(tree, id);
        let first = source.plan.hard_links.get(&id);
        self.flag(first.is_some());
        self.bytes(&first.map(|first| tree.path(*first)).unwrap_or_default());
        for number in [
            node.mode.into(),
            node.uid,
            node.gid,
            node.identity.device.0,
            node.identity.device.1,
        ] {
            self.number(u64::from(number));
        }
        self.flag(node.is_unmapped);
        self.flag(node.is_mount_point);
        self.number(node.identity.inode);
        self.time(node.mtime);
        self.time(node.identity.ctime);
        self.changed = self.changed.max(node.identity.ctime);
    }

    fn kind(&mut self, tree: &Tree, id: NodeId) {
        let node = tree.node(id);
        let (tag, numbers) = match node.kind {
            NodeKind::Directory => (0, [0, 0]),
            NodeKind::File => (1, [node.size, 0]),
            NodeKind::Symlink => (2, [0, 0]),
            NodeKind::Fifo => (3, [0, 0]),
            NodeKind::CharDevice(major, minor) => (4, [major.into(), minor.into()]),
            NodeKind::BlockDevice(major, minor) => (5, [major.into(), minor.into()]),
        };
        self.number(tag);
        self.number(numbers[0]);
        self.number(numbers[1]);
        self.bytes(tree.target(id));
        let extents = tree.extents(id);
        self.flag(extents.is_some());
        self.number(extents.map_or(0, <[Extent]>::len) as u64);
        for Extent { offset, length } in extents.unwrap_or_default() {
            self.number(*offset);
            self.number(*length);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hasher.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn signed(&mut self, number: i64) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.hasher.update(&[flag.into()]);
    }

    fn time(&mut self, time: Timestamp) {
        self.signed(time.seconds);
        self.number(time.nanoseconds.into());
    }
}
