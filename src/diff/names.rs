//! The names of one side. What paths have in common is kept once, so that the memory is the same
//! for long and for short names.

use std::hash::{BuildHasher, RandomState};
use std::mem::size_of;

use hashbrown::HashTable;

use super::FileId;
use crate::allowance::{Allowance, Exceeded};

/// Index of a name: of a path of the side, or of a directory above one.
pub type NameId = u32;

/// The names, as a tree of path components.
#[derive(Debug)]
pub struct Names {
    nodes: Vec<Node>,
    /// The components of all nodes.
    text: Vec<u8>,
    /// The nodes by parent and component.
    table: HashTable<NameId>,
    /// So no archive can be made to contain components whose hashes collide.
    key: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Where the component begins.
    start: u64,
    length: u32,
    /// The root is its own parent.
    parent: NameId,
    /// `NONE` for a directory that no path of the side names.
    file: u32,
}

const NONE: u32 = u32::MAX;

/// The empty path.
const ROOT: NameId = 0;

/// Memory for a node in addition to its component, in bytes: with its place in the table, which has
/// a control byte for each place and is doubled when 7 of 8 places are taken.
const PER_NODE: usize = size_of::<Node>() + 3 * (size_of::<NameId>() + 1);

impl Default for Names {
    fn default() -> Names {
        Names {
            nodes: vec![Node {
                start: 0,
                length: 0,
                parent: ROOT,
                file: NONE,
            }],
            text: Vec::new(),
            table: HashTable::new(),
            key: RandomState::new(),
        }
    }
}

impl Names {
    /// Sets the file at `path`.
    pub fn insert(
        &mut self,
        path: &[u8],
        file: FileId,
        allowance: &Allowance,
    ) -> Result<(), Exceeded> {
        let file = u32::try_from(file).map_err(|_| allowance.exceeded())?;
        let mut id = ROOT;
        for component in components(path) {
            id = match self.child(id, component) {
                Some(id) => id,
                None => self.add(id, component, allowance)?,
            };
        }
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.file = file;
        }
        Ok(())
    }

    /// The file at `path`.
    pub fn get(&self, path: &[u8]) -> Option<FileId> {
        let mut id = ROOT;
        for component in components(path) {
            id = self.child(id, component)?;
        }
        self.file(id)
    }

    /// The names of files, a directory before what is below it.
    pub fn iter(&self) -> impl Iterator<Item = (NameId, FileId)> {
        (0..self.nodes.len() as NameId).filter_map(|id| Some((id, self.file(id)?)))
    }

    /// The path of a name.
    pub fn path(&self, mut id: NameId) -> Vec<u8> {
        let mut parts = Vec::new();
        while id != ROOT {
            parts.push(self.component(id));
            id = self.node(id).map_or(ROOT, |node| node.parent);
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// For each name, the file that `other` has under the same path.
    pub fn twins(&self, other: &Names) -> Twins {
        let mut found: Vec<NameId> = Vec::with_capacity(self.nodes.len());
        let mut has_twin = vec![false; other.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            // A parent precedes its children.
            let parent = found.get(node.parent as usize).copied();
            let twin = match parent {
                _ if id == ROOT as usize => ROOT,
                Some(parent) if parent != NONE => other
                    .child(parent, self.component(id as NameId))
                    .unwrap_or(NONE),
                _ => NONE,
            };
            if node.file != NONE
                && let Some(has_twin) = has_twin.get_mut(twin as usize)
            {
                *has_twin = true;
            }
            found.push(twin);
        }
        Twins { found, has_twin }
    }

    /// The file under this name; `None` for a directory that no path names.
    pub fn file(&self, id: NameId) -> Option<FileId> {
        let file = self.node(id)?.file;
        (file != NONE).then_some(file as FileId)
    }

    fn node(&self, id: NameId) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn component(&self, id: NameId) -> &[u8] {
        component(&self.nodes, &self.text, id)
    }

    fn child(&self, parent: NameId, name: &[u8]) -> Option<NameId> {
        let is_it = |id: &NameId| {
            self.node(*id).is_some_and(|node| node.parent == parent) && self.component(*id) == name
        };
        let hash = self.key.hash_one((parent, name));
        self.table.find(hash, is_it).copied()
    }

    fn add(
        &mut self,
        parent: NameId,
        name: &[u8],
        allowance: &Allowance,
    ) -> Result<NameId, Exceeded> {
        allowance.take(PER_NODE + name.len())?;
        let id = u32::try_from(self.nodes.len()).map_err(|_| allowance.exceeded())?;
        let length = u32::try_from(name.len()).map_err(|_| allowance.exceeded())?;
        if id == NONE {
            return Err(allowance.exceeded());
        }
        self.nodes.push(Node {
            start: self.text.len() as u64,
            length,
            parent,
            file: NONE,
        });
        self.text.extend_from_slice(name);
        let (nodes, text, key) = (&self.nodes, &self.text, &self.key);
        let hash = |id: &NameId| {
            let parent = nodes.get(*id as usize).map_or(ROOT, |node| node.parent);
            key.hash_one((parent, component(nodes, text, *id)))
        };
        self.table.insert_unique(hash(&id), id, hash);
        Ok(id)
    }
}

/// The names that two sides have in common.
#[derive(Debug)]
pub struct Twins {
    /// The name in the other side, for each name of the first one.
    found: Vec<NameId>,
    /// For each name of the other side.
    has_twin: Vec<bool>,
}

impl Twins {
    /// The name of the second side with the path of this name of the first one.
    pub fn of(&self, id: NameId) -> Option<NameId> {
        self.found
            .get(id as usize)
            .copied()
            .filter(|twin| *twin != NONE)
    }

    /// True if the first side has a file under this name of the second one.
    pub fn has(&self, other: NameId) -> bool {
        self.has_twin.get(other as usize) == Some(&true)
    }
}

fn component<'t>(nodes: &[Node], text: &'t [u8], id: NameId) -> &'t [u8] {
    let text = nodes.get(id as usize).and_then(|node| {
        let start = node.start as usize;
        text.get(start..start + node.length as usize)
    });
    text.unwrap_or_default()
}

/// The components of a path, empty ones too, so that joining them gives the path again.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = path.split(|byte| *byte == b'/');
    parts.take(if path.is_empty() { 0 } else { usize::MAX })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(paths: &[&str]) -> Names {
        let mut names = Names::default();
        for (file, path) in paths.iter().enumerate() {
            let all = Allowance::default();
            names.insert(path.as_bytes(), file, &all).unwrap();
        }
        names
    }

    #[test]
    fn each_path_is_given_back_as_it_was() {
        let paths = ["", "a", "a/b/c", "/a", "a//b", "a/b", "b/a/b/c", "a-"];
        let names = names(&paths);
        for (file, path) in paths.iter().enumerate() {
            assert_eq!(names.get(path.as_bytes()), Some(file), "{path:?}");
        }
        let mut listed: Vec<(FileId, Vec<u8>)> = names
            .iter()
            .map(|(name, file)| (file, names.path(name)))
            .collect();
        listed.sort();
        let expected = paths.map(|path| path.as_bytes().to_vec());
        assert!(listed.into_iter().map(|(_, path)| path).eq(expected));
        // The last is a directory above a path, and no path of its own.
        for missing in [&b"c"[..], b"a/b/c/d", b"a/", b"b/a"] {
            assert_eq!(names.get(missing), None, "{missing:?}");
        }
    }

    #[test]
    fn what_two_sides_have_in_common_is_found_whatever_the_order() {
        let (a, b) = (
            names(&["x/y/z", "x", "only/a"]),
            names(&["x", "w", "x/y/z"]),
        );
        let twins = a.twins(&b);
        let common: Vec<_> = a
            .iter()
            .filter_map(|(name, _)| Some((a.path(name), b.path(twins.of(name)?))))
            .collect();
        assert_eq!(common.len(), 2);
        assert!(common.iter().all(|(a, b)| a == b));
        let lone = b.iter().filter(|(name, _)| !twins.has(*name));
        let lone: Vec<_> = lone.map(|(name, _)| b.path(name)).collect();
        assert_eq!(lone, [b"w"]);
    }

    #[test]
    fn a_long_directory_is_kept_once() {
        let allowance = Allowance::new(200_000);
        let mut names = Names::default();
        let above = "directory/".repeat(300);
        for file in 0..1000 {
            let path = format!("{above}{file:04}");
            names.insert(path.as_bytes(), file, &allowance).unwrap();
        }
        let mut short = Names::default();
        let exceeded = (0..10_000).find(|file| {
            let path = file.to_string();
            short.insert(path.as_bytes(), *file, &allowance).is_err()
        });
        assert!(exceeded.is_some());
    }
}
