//! A model of the tree while GNU tar extracts an archive: enough to tell whether tar can create the
//! next member.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Default for the maximum number of paths and links in the model.
const MAX_ENTRIES: usize = 1 << 23;

/// Memory for a path or a link, in bytes: 17, and as much again in each table that is being
/// enlarged.
pub const PER_ENTRY: usize = 60;

/// Maximum number of symbolic links followed in one path (`MAXSYMLINKS` of Linux).
const MAX_LINKS: u32 = 40;

/// The file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A directory.
    Directory {
        /// True if the directory is not empty.
        is_occupied: bool,
    },
    /// A file or pipe, or a hard link to one.
    File,
    /// A symbolic link that tar creates at once.
    Link,
    /// A symbolic link that tar creates at the end, because it is absolute or contains `..`.
    LateLink,
    /// A device node, which no loader creates: nothing is there.
    Device,
    /// A file that sbuild 0.85 skips.
    Skipped,
}

/// How a path is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through directories only.
    Plain,
    /// Through a symbolic link that tar follows.
    Followed,
    /// It cannot be resolved.
    Blocked,
}

/// A resolved path.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    id: u64,
    parent: u64,
    /// How it was resolved.
    pub way: Way,
}

/// The paths so far, as hashes with a random key, so no archive can be made to contain colliding
/// paths.
#[derive(Debug)]
pub struct Extraction {
    key: RandomState,
    standing: HashMap<u64, Standing>,
    /// The targets of links that tar follows; a hash of the target for the others.
    links: HashMap<u64, u64>,
    /// Maximum number of entries in both.
    max_entries: usize,
}

/// The hash of the root directory.
const ROOT: u64 = 0;

/// The empty directory that tar extracts into.
impl Default for Extraction {
    fn default() -> Extraction {
        let standing = HashMap::from([(ROOT, Standing::Directory { is_occupied: false })]);
        Extraction {
            key: RandomState::new(),
            standing,
            links: HashMap::new(),
            max_entries: MAX_ENTRIES,
        }
    }
}

impl Extraction {
    /// An empty directory that holds at most this number of paths and links.
    pub fn with_room_for(max_entries: usize) -> Extraction {
        Extraction {
            max_entries,
            ..Extraction::default()
        }
    }

    /// True if the model has the maximum number of paths and links.
    pub fn is_full(&self) -> bool {
        self.standing.len() + self.links.len() >= self.max_entries
    }

    /// Resolves `path`, which has no `..`; `None` for the root itself.
    pub fn place(&self, path: &[u8]) -> Option<Place> {
        let mut way = Way::Plain;
        let (mut id, mut parent) = (ROOT, ROOT);
        let mut components = components(path).peekable();
        components.peek()?;
        while let Some(component) = components.next() {
            parent = id;
            id = self.child(parent, component);
            if components.peek().is_none() {
                break;
            }
            match self.follow(id) {
                Some(target) if target == id => {}
                Some(target) => {
                    way = if way == Way::Plain {
                        Way::Followed
                    } else {
                        way
                    };
                    id = target;
                }
                None => way = Way::Blocked,
            }
        }
        Some(Place { id, parent, way })
    }

    /// The file at the path.
    pub fn standing(&self, place: Place) -> Option<Standing> {
        self.standing.get(&place.id).copied()
    }

    /// Adds a device node, which changes nothing but what a hard link to it means.
    pub fn put_device(&mut self, place: Place) {
        self.standing.entry(place.id).or_insert(Standing::Device);
    }

    /// Adds a file, and the missing directories above it.
    pub fn put(&mut self, path: &[u8], place: Place, standing: Standing) {
        let parent = Standing::Directory { is_occupied: true };
        let before = self.standing.insert(place.parent, parent);
        if !matches!(before, Some(Standing::Directory { .. })) {
            self.make_parents(path);
        }
        let standing = match (standing, self.standing(place)) {
            (Standing::Directory { .. }, Some(Standing::Directory { is_occupied })) => {
                Standing::Directory { is_occupied }
            }
            _ => standing,
        };
        self.standing.insert(place.id, standing);
    }

    /// Adds a symbolic link.
    pub fn put_link(&mut self, path: &[u8], place: Place, target: &[u8]) {
        if is_outside(target) {
            self.put(path, place, Standing::LateLink);
            self.links.insert(place.id, self.key.hash_one(target));
            return;
        }
        self.put(path, place, Standing::Link);
        let end = components(target).fold(place.parent, |id, component| self.child(id, component));
        self.links.insert(place.id, end);
    }

    /// True if the link at the path has this target. For a link that tar creates at the end.
    pub fn is_late_link_to(&self, place: Place, target: &[u8]) -> bool {
        self.links.get(&place.id) == Some(&self.key.hash_one(target))
    }

    /// True if a program is at the path, as far as the model knows: it does not follow absolute
    /// links, and takes them for a program.
    pub fn has_program(&self, path: &[u8]) -> bool {
        let Some(place) = self.place(path) else {
            return false;
        };
        let is_program = |standing: Option<&Standing>| match standing {
            Some(Standing::File | Standing::Skipped | Standing::LateLink) => true,
            Some(Standing::Link | Standing::Directory { .. } | Standing::Device) | None => false,
        };
        let mut id = place.id;
        for _ in 0..=MAX_LINKS {
            match self.standing.get(&id) {
                Some(Standing::Link) => match self.links.get(&id) {
                    Some(target) => id = *target,
                    None => return true,
                },
                standing => return is_program(standing),
            }
        }
        false
    }

    fn make_parents(&mut self, path: &[u8]) {
        let mut id = ROOT;
        let mut components = components(path).peekable();
        while let Some(component) = components.next() {
            if components.peek().is_none() {
                return;
            }
            id = self.child(id, component);
            id = self.follow(id).unwrap_or(id);
            self.standing
                .insert(id, Standing::Directory { is_occupied: true });
        }
    }

    /// Resolves a directory component of a path; tar creates missing ones.
    fn follow(&self, mut id: u64) -> Option<u64> {
        for links in 0..=MAX_LINKS {
            match self.standing.get(&id) {
                Some(Standing::Directory { .. }) => return Some(id),
                None | Some(Standing::Device) => return (links == 0).then_some(id),
                Some(Standing::Link) => id = *self.links.get(&id)?,
                Some(_) => return None,
            }
        }
        None
    }

    fn child(&self, parent: u64, component: &[u8]) -> u64 {
        self.key.hash_one((parent, component))
    }
}

/// True if a name or target is absolute or contains `..`.
pub fn is_outside(path: &[u8]) -> bool {
    path.starts_with(b"/") || has_dot_dot(path)
}

/// True if one of its components is `..`.
pub fn has_dot_dot(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .any(|component| component == b"..")
}

/// The target of a hard link as GNU tar uses it: without everything up to the last `..`, and
/// without leading slashes.
pub fn safe_suffix(target: &[u8]) -> &[u8] {
    let mut rest = target;
    let mut begin = 0;
    for component in target.split(|byte| *byte == b'/') {
        begin += component.len() + 1;
        if component == b".." {
            rest = target.get(begin..).unwrap_or_default();
        }
    }
    rest
}

/// The components other than empty ones and `.`.
pub fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIRECTORY: Standing = Standing::Directory { is_occupied: false };

    fn put(tree: &mut Extraction, path: &[u8], standing: Standing) {
        let place = tree.place(path).unwrap();
        tree.put(path, place, standing);
    }

    fn link(tree: &mut Extraction, path: &[u8], target: &[u8]) {
        let place = tree.place(path).unwrap();
        tree.put_link(path, place, target);
    }

    #[test]
    fn paths_lead_through_directories_and_the_links_that_tar_follows() {
        let mut tree = Extraction::default();
        put(&mut tree, b"usr/lib", DIRECTORY);
        put(&mut tree, b"file", Standing::File);
        link(&mut tree, b"lib", b"usr/lib");
        link(&mut tree, b"lib64", b"lib");
        link(&mut tree, b"loop", b"loop");
        link(&mut tree, b"dangling", b"nowhere");
        link(&mut tree, b"absolute", b"/usr/lib");
        link(&mut tree, b"usr/up", b"../usr/lib");
        for (path, way) in [
            (&b"usr/lib/x"[..], Way::Plain),
            (b"new/a/b", Way::Plain),
            (b"lib", Way::Plain),
            (b"lib/x", Way::Followed),
            (b"lib64/x", Way::Followed),
            (b"./lib64//./x", Way::Followed),
            (b"loop/x", Way::Blocked),
            (b"dangling/x", Way::Blocked),
            (b"absolute/x", Way::Blocked),
            (b"usr/up/x", Way::Blocked),
            (b"file/x", Way::Blocked),
        ] {
            assert_eq!(
                tree.place(path).unwrap().way,
                way,
                "{}",
                path.escape_ascii()
            );
        }
    }

    #[test]
    fn a_path_through_a_link_is_the_same_place() {
        let mut tree = Extraction::default();
        put(&mut tree, b"usr/lib", DIRECTORY);
        link(&mut tree, b"lib", b"usr/lib");
        put(&mut tree, b"lib/x", Standing::File);
        let place = tree.place(b"usr/lib/x").unwrap();
        assert_eq!(
            (place.way, tree.standing(place)),
            (Way::Plain, Some(Standing::File))
        );
    }

    #[test]
    fn parents_are_made_and_occupied() {
        let mut tree = Extraction::default();
        put(&mut tree, b"a/b/c", Standing::File);
        for path in [&b"a"[..], b"a/b"] {
            let place = tree.place(path).unwrap();
            assert_eq!(
                tree.standing(place),
                Some(Standing::Directory { is_occupied: true })
            );
        }
        put(&mut tree, b"a/b", DIRECTORY);
        let place = tree.place(b"a/b").unwrap();
        assert_eq!(
            tree.standing(place),
            Some(Standing::Directory { is_occupied: true }),
            "it keeps what it has"
        );
    }

    #[test]
    fn a_device_node_is_nothing_that_a_path_could_not_lead_through() {
        let mut tree = Extraction::default();
        let place = tree.place(b"d/null").unwrap();
        tree.put_device(place);
        assert_eq!(tree.standing(tree.place(b"d").unwrap()), None);
        assert_eq!(tree.place(b"d/null/x").unwrap().way, Way::Plain);
        put(&mut tree, b"d/null/x", Standing::File);
        for path in [&b"d"[..], b"d/null"] {
            assert_eq!(
                tree.standing(tree.place(path).unwrap()),
                Some(Standing::Directory { is_occupied: true })
            );
        }
        tree.put_device(tree.place(b"d/null/x").unwrap());
        assert_eq!(
            tree.standing(tree.place(b"d/null/x").unwrap()),
            Some(Standing::File),
            "an existing file stays"
        );
    }

    #[test]
    fn programs_are_found_through_links() {
        let mut tree = Extraction::default();
        put(&mut tree, b"usr/bin/dash", Standing::File);
        link(&mut tree, b"usr/bin/sh", b"dash");
        link(&mut tree, b"bin", b"usr/bin");
        link(&mut tree, b"usr/bin/gone", b"nothing");
        link(&mut tree, b"usr/bin/loop", b"loop");
        link(&mut tree, b"usr/bin/absolute", b"/usr/bin/dash");
        for (path, is_program) in [
            (&b"usr/bin/dash"[..], true),
            (b"bin/sh", true),
            (b"bin/absolute", true),
            (b"bin/gone", false),
            (b"bin/loop", false),
            (b"bin/missing", false),
            (b"usr/bin", false),
        ] {
            assert_eq!(
                tree.has_program(path),
                is_program,
                "{}",
                path.escape_ascii()
            );
        }
    }

    #[test]
    fn targets_lose_what_leads_outside() {
        for (target, rest) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"/a", b"/a"),
            (b"../a", b"a"),
            (b"./x/../b", b"b"),
            (b"..", b""),
            (b"a/..", b""),
            (b"..a/b", b"..a/b"),
        ] {
            assert_eq!(safe_suffix(target), rest, "{}", target.escape_ascii());
        }
    }
}
