//! The order of an archive's members, and where its frames are cut: a pure function of the tree.
//!
//! Members stand in strict depth-first order; only the files of one directory are permuted among themselves, because some extractors
//! set a directory's times wrong when they come back to it later.

use std::collections::HashMap;
use std::ops::Range;

use crate::archive::{header, sparse};
use crate::tree::walk::{Identity, Node, NodeId, NodeKind, Tree};

/// The largest content of a frame, in bytes: the widest window that sbuild's zstd decodes.
pub const MAX_FRAME: u64 = 128 << 20;

/// A frame of members is closed once it holds this much, in bytes.
const FRAME: u64 = 16 << 20;

/// A file of this many bytes is large: large files of one directory stand together, because they tend to be variants of one another (the compilers proper of gcc).
const LARGE: u64 = 8 << 20;

/// What goes into one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Whole members: a range of [`Plan::order`].
    Members(Range<usize>),
    /// A part of a member too large for one frame.
    Part {
        /// Its place in [`Plan::order`].
        member: usize,
        /// Which bytes of its stored data (holes left out). The part that begins at 0 holds the header too, the last one the padding.
        data: Range<u64>,
    },
}

/// An archive before it is written.
#[derive(Debug, Default)]
pub struct Plan {
    /// The members in the order of the archive.
    pub order: Vec<NodeId>,
    /// For each name of a file but the first in that order: the first.
    pub hard_links: HashMap<NodeId, NodeId>,
    /// The frames, together all members in order.
    pub frames: Vec<Frame>,
    /// For each frame, about how many bytes it holds (extension headers are not counted).
    pub sizes: Vec<u64>,
}

impl Plan {
    /// Bytes of file data in the archive.
    pub fn data(&self, tree: &Tree) -> u64 {
        self.order.iter().filter(|id| !self.hard_links.contains_key(id)).map(|id| stored(tree, *id)).sum()
    }
}

/// Plans the archive of `tree`, with frames of at most `max_frame` bytes.
pub fn plan(tree: &Tree, max_frame: u64) -> Plan {
    let mut plan = Plan { order: order(tree), ..Plan::default() };
    plan.hard_links = hard_links(tree, &plan.order);
    cut(tree, &mut plan, max_frame);
    plan
}

/// Depth first: of each directory the small files by extension and name, the large ones, then the directories.
fn order(tree: &Tree) -> Vec<NodeId> {
    let mut order = Vec::with_capacity(tree.nodes.len());
    let mut stack = vec![Tree::ROOT];
    while let Some(id) = stack.pop() {
        order.push(id);
        let mut children: Vec<NodeId> = tree.node(id).children.clone().collect();
        children.sort_by_cached_key(|child| sibling_key(tree, *child));
        // A stack gives back the last first.
        stack.extend(children.into_iter().rev());
    }
    order
}

fn sibling_key(tree: &Tree, id: NodeId) -> (u8, Vec<u8>, Vec<u8>) {
    let node = tree.node(id);
    let name = tree.name(id).to_vec();
    let class = match node.kind {
        NodeKind::Directory => 2,
        NodeKind::File if stored(tree, id) >= LARGE => 1,
        _ => 0,
    };
    (class, if class == 0 { extension(&name) } else { Vec::new() }, name)
}

fn extension(name: &[u8]) -> Vec<u8> {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 => name[dot..].to_vec(),
        _ => Vec::new(),
    }
}

fn hard_links(tree: &Tree, order: &[NodeId]) -> HashMap<NodeId, NodeId> {
    let mut first: HashMap<((u32, u32), u64), NodeId> = HashMap::new();
    let mut links = HashMap::new();
    for id in order {
        let node = tree.node(*id);
        // Nothing can be linked to a device: each name of one stands for itself.
        if node.links > 1 && matches!(node.kind, NodeKind::File | NodeKind::Symlink | NodeKind::Fifo) {
            let Identity { device, inode, .. } = node.identity;
            let target = *first.entry((device, inode)).or_insert(*id);
            if target != *id {
                links.insert(*id, target);
            }
        }
    }
    links
}

fn cut(tree: &Tree, plan: &mut Plan, max_frame: u64) {
    let mut open = Open::default();
    for index in 0..plan.order.len() {
        let id = plan.order[index];
        let data = if plan.hard_links.contains_key(&id) { 0 } else { stored(tree, id) };
        let size = data + header::padding(data) as u64 + header::BLOCK as u64;
        let is_large = data >= LARGE;
        if data > max_frame {
            open.close(plan, index);
            for start in (0..data).step_by(max_frame as usize) {
                let end = data.min(start + max_frame);
                plan.frames.push(Frame::Part { member: index, data: start..end });
                plan.sizes.push(end - start);
            }
            open = Open { start: index + 1, ..Open::default() };
            continue;
        }
        let limit = if is_large { max_frame } else { FRAME.min(max_frame) };
        if open.size > 0 && (open.is_large != is_large || open.size + size > limit) {
            open.close(plan, index);
        }
        open.size += size;
        open.is_large = is_large;
    }
    open.close(plan, plan.order.len());
}

/// The frame that is being filled.
#[derive(Default)]
struct Open {
    start: usize,
    size: u64,
    is_large: bool,
}

impl Open {
    fn close(&mut self, plan: &mut Plan, end: usize) {
        if self.start < end {
            plan.frames.push(Frame::Members(self.start..end));
            plan.sizes.push(self.size);
        }
        *self = Open { start: end, ..Open::default() };
    }
}

/// How many bytes of data a file has in the archive, holes left out.
pub fn stored(tree: &Tree, id: NodeId) -> u64 {
    let Node { kind: NodeKind::File, size, .. } = tree.node(id) else { return 0 };
    tree.extents(id).map_or(*size, sparse::data)
}
