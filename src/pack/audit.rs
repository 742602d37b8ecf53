//! The ids that sbuild's map cannot hold.

use crate::error::Escaped;
use crate::tree::walk::{Node, NodeId, Tree};

/// Number of ids that sbuild maps: 0..=65535.
pub const IDS: u32 = 65536;

/// `nobody` and `nogroup` of Debian.
pub const NOBODY: u32 = 65534;

/// Maximum number of paths in a message.
const NAMED: usize = 5;

/// User and group; `None` if one of them is not mapped in this namespace.
pub type Owner = Option<(u32, u32)>;

/// Files whose owners cannot be stored.
#[derive(Debug, thiserror::Error)]
#[error(
    "{count} of its files have an owner or group that sbuild cannot map, which has ids from 0 to 65535: {}; pack in the namespace that the tree belongs to, change the owner, or store them as {NOBODY}",
    named(.first, *.count)
)]
pub struct UnmappedIds {
    /// How many files.
    pub count: usize,
    /// The first of them in byte order of their paths, with their owners.
    pub first: Vec<(Vec<u8>, Owner)>,
}

fn named(first: &[(Vec<u8>, Owner)], count: usize) -> String {
    let name = |(path, owner): &(Vec<u8>, Owner)| match owner {
        Some((uid, gid)) => format!("{} ({uid}:{gid})", Escaped(path)),
        None => format!("{} (an owner from outside of the namespace)", Escaped(path)),
    };
    let mut names: Vec<String> = first.iter().map(name).collect();
    if count > first.len() {
        names.push(String::from("…"));
    }
    names.join(", ")
}

/// Finds the files of `tree` whose owner or group cannot be stored.
pub fn unmapped(tree: &Tree) -> Option<UnmappedIds> {
    let nodes = (0..tree.nodes.len() as NodeId).map(|id| (id, tree.node(id)));
    let bad: Vec<NodeId> = nodes
        .filter(|(_, node)| node.uid >= IDS || node.gid >= IDS || node.is_unmapped)
        .map(|(id, _)| id)
        .collect();
    if bad.is_empty() {
        return None;
    }
    let owner = |node: &Node| (!node.is_unmapped).then_some((node.uid, node.gid));
    let mut first: Vec<_> = bad
        .iter()
        .map(|id| (tree.path(*id), owner(tree.node(*id))))
        .collect();
    first.sort();
    first.truncate(NAMED);
    for (path, ..) in &mut first {
        if path.is_empty() {
            path.push(b'.');
        }
    }
    Some(UnmappedIds {
        count: bad.len(),
        first,
    })
}

/// The id to store for an owner: [`NOBODY`] for ids that sbuild does not map, which occur only with
/// [`super::Unmapped::Squash`].
pub fn stored_id(id: u32) -> u32 {
    if id < IDS { id } else { NOBODY }
}
