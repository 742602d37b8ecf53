//! The order of the members and the boundaries of the frames: a pure function of the tree.
//!
//! Members are in strict depth-first order, and only the entries of a directory are permuted,
//! because some extractors set wrong times on a directory that they return to later.

use std::collections::HashMap;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::{header, sparse};
use crate::tree::walk::{Identity, Node, NodeId, NodeKind, Tree};

/// Maximum content of a frame, in bytes. One frame can hold the compilers proper of gcc 14 (137
/// MB), and a reader can keep it in memory.
const MAX_FRAME: u64 = 192 << 20;

/// Maximum content of a frame, in bytes, unless it holds variants of one file. Two such frames and
/// those that wait to be written fit the default memory of two workers, so neither waits. On 1.2 GB
/// of compilers with libraries of up to 200 MB this is 1.4 times as fast as 128 MiB, and the
/// archive is 1.1 % larger.
const USUAL_FRAME: u64 = 48 << 20;

/// Minimum size of a large file, in bytes. The same for all formats, because the order of members
/// depends on it.
const LARGE: u64 = 16 << 20;

/// Sizes and boundaries of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSizing {
    /// A frame of small files ends at the first boundary after this many bytes.
    pub least: u64,
    /// A frame of small files ends before it holds more than this many bytes.
    pub longest: u64,
    /// One path out of this many is a boundary, where a frame may begin.
    pub boundaries: u64,
    /// A file of this many bytes is large. Large files of a directory are grouped, because they
    /// tend to be variants of one another (the compilers proper of gcc).
    pub large: u64,
    /// A frame of large files exceeds this many bytes only if the files have about the same size. A
    /// larger file is divided into parts.
    pub usual: u64,
    /// No frame has more content than this many bytes.
    pub most: u64,
}

impl FrameSizing {
    /// Frames of small files have at least `least` bytes, up to 64 MiB. The default is 12 MiB, the
    /// best compression of a buildd chroot whose frames still decode in parallel.
    pub fn sized(least: u64) -> FrameSizing {
        let least = least.clamp(1, 64 << 20);
        // The average distance of boundaries is a third of a frame, with files of 30 KiB on
        // average.
        let boundaries = (least / (96 << 10)).max(1);
        FrameSizing {
            least,
            longest: least * 10 / 3,
            boundaries,
            large: LARGE,
            usual: USUAL_FRAME,
            most: MAX_FRAME,
        }
    }

    /// For a plain tar, where a frame is only the unit of reading and writing: one that fits the
    /// processor's cache.
    pub const PLAIN: FrameSizing = FrameSizing {
        least: 1 << 20,
        longest: 4 << 20,
        boundaries: 32,
        large: LARGE,
        usual: 4 << 20,
        most: 4 << 20,
    };
}

impl Default for FrameSizing {
    fn default() -> FrameSizing {
        FrameSizing::sized(12 << 20)
    }
}

/// A frame of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its content.
    pub content: Content,
    /// Approximate size of its content in bytes (without extension headers).
    pub size: u64,
    /// Its content is large files that may be variants of one another, at a large distance.
    pub is_large: bool,
}

/// Content of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Whole members: a range of [`Plan::order`].
    Members(Range<usize>),
    /// A part of a member too large for one frame.
    Part {
        /// Index of the member in [`Plan::order`].
        member: usize,
        /// Range of its stored data (without holes). The part that begins at 0 includes the header,
        /// the last one the padding.
        data: Range<u64>,
    },
}

/// The plan of an archive.
#[derive(Debug, Default)]
pub struct Plan {
    /// The members in the order of the archive.
    pub order: Vec<NodeId>,
    /// For each further name of a file: the first name in that order.
    pub hard_links: HashMap<NodeId, NodeId>,
    /// The frames, which contain all members in order.
    pub frames: Vec<Frame>,
}

impl Plan {
    /// Bytes of file data in the archive.
    pub fn data(&self, tree: &Tree) -> u64 {
        self.frames
            .iter()
            .map(|frame| self.data_of(frame, tree))
            .sum()
    }

    /// Bytes of file data in one frame.
    pub fn data_of(&self, frame: &Frame, tree: &Tree) -> u64 {
        match &frame.content {
            Content::Members(range) => {
                let members = self.order[range.clone()]
                    .iter()
                    .filter(|id| !self.hard_links.contains_key(id));
                members.map(|id| stored(tree, *id)).sum()
            }
            Content::Part { data, .. } => data.end - data.start,
        }
    }
}

/// Plans the archive of `tree`.
pub fn plan(tree: &Tree, cuts: &FrameSizing) -> Plan {
    let mut plan = Plan {
        order: order(tree, cuts),
        ..Plan::default()
    };
    plan.hard_links = hard_links(tree, &plan.order);
    cut(tree, &mut plan, cuts);
    plan
}

/// Orders the members depth first. Siblings are permuted so that large files are adjacent, also
/// those of neighbouring directories: they tend to be variants of one another and then share a
/// frame. They are sorted by size, which brings the closest variants together (lto-dump, lto1, cc1,
/// cc1plus). Small files are sorted by type and extension.
///
/// Large files come late, because their frame takes longest to compress: frames before it are
/// written meanwhile, frames after it wait in memory. Of two directories with large files, the one
/// with less data is first. Its own member is then before its small files, far from the large
/// frame. Nearly every package changes the directory of programs (`usr/bin`) but not that of
/// compilers (`usr/lib/gcc`), and next to the large frame this change would prevent its reuse.
fn order(tree: &Tree, cuts: &FrameSizing) -> Vec<NodeId> {
    let (holds_large, held) = (holds_large(tree, cuts), held(tree));
    let mut order = Vec::with_capacity(tree.nodes.len());
    let mut after_large = false;
    let mut stack = vec![Tree::ROOT];
    while let Some(id) = stack.pop() {
        order.push(id);
        if tree.node(id).kind != NodeKind::Directory {
            after_large = is_large(tree, id, cuts);
            continue;
        }
        let mut children: Vec<NodeId> = tree.node(id).children.clone().collect();
        children.sort_by_cached_key(|child| {
            let is_directory = tree.node(*child).kind == NodeKind::Directory;
            // After a large file, large files come first and directories with large files next;
            // before one, they come last.
            let class = match (holds_large[*child as usize], after_large) {
                (true, true) => u8::from(is_directory),
                (false, true) => 3 - u8::from(is_directory),
                (false, false) => u8::from(is_directory),
                (true, false) => 2 + u8::from(is_directory),
            };
            let name = tree.name(*child).to_vec();
            let size = if holds_large[*child as usize] {
                held[*child as usize]
            } else {
                0
            };
            (
                class,
                size,
                if is_directory {
                    Vec::new()
                } else {
                    extension(&name)
                },
                name,
            )
        });
        // The stack is popped in reverse.
        stack.extend(children.into_iter().rev());
    }
    order
}

fn is_large(tree: &Tree, id: NodeId, cuts: &FrameSizing) -> bool {
    stored(tree, id) >= cuts.large
}

/// For each node: true for a large file and for a directory with one below.
fn holds_large(tree: &Tree, cuts: &FrameSizing) -> Vec<bool> {
    let mut holds = vec![false; tree.nodes.len()];
    // Every node is after its directory.
    for id in (0..tree.nodes.len() as NodeId).rev() {
        if holds[id as usize] || is_large(tree, id, cuts) {
            holds[id as usize] = true;
            holds[tree.node(id).parent as usize] = true;
        }
    }
    holds
}

/// For each node: the bytes of data of it and everything below it.
fn held(tree: &Tree) -> Vec<u64> {
    let mut held: Vec<u64> = (0..tree.nodes.len() as NodeId)
        .map(|id| stored(tree, id))
        .collect();
    for id in (1..tree.nodes.len()).rev() {
        held[tree.nodes[id].parent as usize] += held[id];
    }
    held
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
        // A device cannot be the target of a hard link: each of its names is a member of its own.
        if node.links > 1
            && matches!(
                node.kind,
                NodeKind::File | NodeKind::Symlink | NodeKind::Fifo
            )
        {
            let Identity { device, inode, .. } = node.identity;
            let target = *first.entry((device, inode)).or_insert(*id);
            if target != *id {
                links.insert(*id, target);
            }
        }
    }
    links
}

fn cut(tree: &Tree, plan: &mut Plan, cuts: &FrameSizing) {
    let (most, usual) = (cuts.most, cuts.usual.min(cuts.most));
    let mut open = Open::default();
    for index in 0..plan.order.len() {
        let id = plan.order[index];
        let data = if plan.hard_links.contains_key(&id) {
            0
        } else {
            stored(tree, id)
        };
        let size = data + header::padding(data) as u64 + header::BLOCK as u64;
        if data > usual {
            open.close(plan, index);
            for start in (0..data).step_by(usual as usize) {
                let end = data.min(start + usual);
                let content = Content::Part {
                    member: index,
                    data: start..end,
                };
                plan.frames.push(Frame {
                    content,
                    size: end - start,
                    is_large: true,
                });
            }
            open.start = index + 1;
            continue;
        }
        // Directories between two large files stay in their frame.
        let is_large =
            data >= cuts.large || open.is_large && tree.node(id).kind == NodeKind::Directory;
        let limit = if !is_large {
            cuts.longest.min(most)
        } else if data == 0 || are_variants(open.last_large, data) {
            most
        } else {
            usual
        };
        let ends = open.is_large != is_large
            || open.size + size > limit
            || !is_large
                && open.size >= cuts.least.min(most / 2)
                && is_boundary(&tree.path(id), cuts);
        if open.size > 0 && ends {
            open.close(plan, index);
        }
        open.size += size;
        open.is_large = is_large;
        if is_large && data > 0 {
            open.last_large = data;
        }
    }
    open.close(plan, plan.order.len());
}

/// True if large files of these sizes may be variants of one another. The compilers proper of gcc
/// differ by less than an eighth.
fn are_variants(before: u64, after: u64) -> bool {
    before.abs_diff(after) <= before / 8
}

/// True if a frame may begin with the member at `path`. Depends only on the path, so an added,
/// removed or grown file moves only the next boundary.
fn is_boundary(path: &[u8], cuts: &FrameSizing) -> bool {
    xxh3_64(path).is_multiple_of(cuts.boundaries)
}

/// The current frame.
#[derive(Default)]
struct Open {
    start: usize,
    size: u64,
    is_large: bool,
    /// Bytes of data of the last large file in the frame.
    last_large: u64,
}

impl Open {
    fn close(&mut self, plan: &mut Plan, end: usize) {
        if self.start < end {
            let content = Content::Members(self.start..end);
            plan.frames.push(Frame {
                content,
                size: self.size,
                is_large: self.is_large,
            });
        }
        *self = Open {
            start: end,
            ..Open::default()
        };
    }
}

/// Bytes of data of a file in the archive, without holes.
pub fn stored(tree: &Tree, id: NodeId) -> u64 {
    let Node {
        kind: NodeKind::File,
        size,
        ..
    } = tree.node(id)
    else {
        return 0;
    };
    tree.extents(id).map_or(*size, sparse::data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;
    use crate::tree::exclude::Patterns;
    use crate::tree::walk;

    const CUTS: FrameSizing = FrameSizing {
        least: 2000,
        longest: 6000,
        boundaries: 3,
        large: 5000,
        usual: 16_000,
        most: 20_000,
    };

    /// The plan of a tree that has files of these lengths.
    fn planned(files: &[(&str, usize)], cuts: &FrameSizing) -> (Vec<String>, Plan) {
        let scratch = tempfile::tempdir().unwrap();
        for (path, length) in files {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; *length]).unwrap();
        }
        let root = fs::File::open(scratch.path()).unwrap();
        let options = walk::Options {
            exclude: Patterns::new([]).unwrap(),
            cross_mounts: false,
            devices: false,
        };
        let tree = walk::walk(root.as_fd(), &options, 1).unwrap();
        let plan = plan(&tree, cuts);
        let order = plan
            .order
            .iter()
            .map(|id| String::from_utf8(tree.path(*id)).unwrap())
            .collect();
        (order, plan)
    }

    #[test]
    fn large_files_of_neighbouring_directories_stand_together_by_size() {
        let files = [
            ("bin/dump", 9000),
            ("bin/small", 10),
            ("lib/gcc/cc1", 9900),
            ("lib/gcc/lto1", 9100),
            ("lib/gcc/note", 10),
            ("lib/z", 4000),
            ("share/doc", 4000),
        ];
        let (order, plan) = planned(
            &files,
            &FrameSizing {
                most: 40_000,
                ..CUTS
            },
        );
        let place = |path: &str| order.iter().position(|here| here == path).unwrap();
        // Only the larger directory and its subdirectories are between them, and the rest of its
        // files after them.
        let directories = ["lib", "lib/gcc"];
        let rest = ["lib/gcc/note", "lib/z"];
        let large = [
            &["bin/dump"],
            &directories[..],
            &["lib/gcc/lto1", "lib/gcc/cc1"],
        ]
        .concat();
        assert_eq!(
            order[place("bin/small")..],
            [&["bin/small"], &large[..], &rest].concat()
        );
        let frames: Vec<&Frame> = plan.frames.iter().filter(|frame| frame.is_large).collect();
        assert!(
            matches!(&frames[..], [Frame { content: Content::Members(range), .. }]
            if *range == (place("bin/dump")..place("lib/gcc/note")))
        );
    }

    #[test]
    fn a_frame_is_larger_than_usual_only_for_variants() {
        let cuts = FrameSizing {
            usual: 20_000,
            most: 40_000,
            ..CUTS
        };
        let large = |files: &[(&str, usize)]| {
            let (order, plan) = planned(files, &cuts);
            let content = |frame: &Frame| match &frame.content {
                Content::Members(range) => order[range.clone()].concat(),
                Content::Part { member, data } => format!("{} {data:?}", order[*member]),
            };
            plan.frames
                .iter()
                .filter(|frame| frame.is_large)
                .map(content)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            large(&[("a", 9000), ("b", 9900), ("c", 10_900)]),
            ["abc"],
            "each an eighth larger than the one before, or less"
        );
        assert_eq!(
            large(&[("a", 7000), ("b", 8500), ("c", 12_000)]),
            ["ab", "c"]
        );
        assert_eq!(
            large(&[("a", 12_000), ("b", 12_100), ("c", 12_200), ("d", 12_280)]),
            ["abc", "d"],
            "no more than the most"
        );
        assert_eq!(
            large(&[("a", 30_000)]),
            ["a 0..20000", "a 20000..30000"],
            "cut into parts"
        );
    }

    #[test]
    fn frames_hold_every_byte_once_and_keep_to_their_limits() {
        let names: Vec<(String, usize)> = (0..300)
            .map(|n| (format!("d{}/f{n}", n % 7), n * 37 % 3000))
            .collect();
        let mut files: Vec<(&str, usize)> = names
            .iter()
            .map(|(name, length)| (name.as_str(), *length))
            .collect();
        files.push(("d3/huge", 90_000));
        let (order, plan) = planned(&files, &CUTS);
        let (mut next, mut parts) = (0, 0);
        for frame in &plan.frames {
            match &frame.content {
                Content::Members(range) => {
                    assert_eq!(range.start, next);
                    assert!(
                        frame.size <= CUTS.most && (frame.is_large || frame.size <= CUTS.longest),
                        "{frame:?}"
                    );
                    next = range.end;
                }
                Content::Part { member, data } => {
                    assert_eq!(
                        (order[*member].as_str(), *member, data.start),
                        ("d3/huge", next, parts)
                    );
                    assert!(data.end - data.start <= CUTS.most);
                    parts = data.end;
                    next += usize::from(parts == 90_000);
                }
            }
        }
        assert_eq!((next, parts), (order.len(), 90_000));
        assert!(plan.frames.len() > 40);
    }
}
