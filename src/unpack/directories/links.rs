//! Paths through symbolic links to directories of the tree.

use std::borrow::Cow;

use rustix::fs::{FileType, readlinkat};

use super::super::error::{Error, Refusal};
use super::super::names::split;
use super::super::root;
use super::{Directories, Id, PER_PATH};
use crate::error::PathContext;

/// Maximum number of symbolic links followed in one path (`MAXSYMLINKS` of Linux).
const MAX_LINKS: u32 = 40;

impl Directories<'_> {
    /// The path of a file in `above` that is called `path`. They differ below a symbolic link.
    pub fn real<'p>(&self, above: Id, path: &'p [u8]) -> Cow<'p, [u8]> {
        let (parent, name) = split(path);
        match &*self.table[above].path {
            above if above == parent => Cow::Borrowed(path),
            above => Cow::Owned(join(above, name)),
        }
    }

    /// True if a symbolic link is at `path`, which leads to the directory.
    pub(super) fn is_through_link(&self, path: &[u8], id: Id) -> bool {
        let above = self.ids.get(split(path).0).filter(|_| self.follows);
        above.is_some_and(|above| {
            id != Directories::ROOT && *self.real(*above, path) != *self.table[id].path
        })
    }

    /// Creates the directory called `path` in `above`, or uses the existing one, or one to which a
    /// symbolic link leads. With `replaces`, it replaces a file.
    pub(super) fn make(
        &mut self,
        above: Id,
        path: &[u8],
        member: &[u8],
        replaces: bool,
    ) -> Result<Id, Error> {
        if !self.follows {
            return self.make_directory(above, path, member, replaces);
        }
        let real = self.real(above, path).into_owned();
        let parent = self.descriptor(above, member)?;
        let id = match root::kind(parent, split(path).1) {
            Ok(FileType::Symlink) => self.follow(above, &real, member)?,
            _ => match self.ids.get(&*real) {
                Some(id) => *id,
                None => self.make_directory(above, &real, member, replaces)?,
            },
        };
        if *path != *real || *self.table[id].path != *real {
            self.allowance.take(PER_PATH + path.len())?;
            self.ids.insert(path.into(), id);
            self.has_followed = true;
        }
        Ok(id)
    }

    /// Returns the directory to which the symbolic link at `link` in `above` leads. Never leaves
    /// the tree: resolves one name after the other, in directories that were opened without
    /// following links.
    fn follow(&mut self, above: Id, link: &[u8], member: &[u8]) -> Result<Id, Error> {
        let refused = || {
            let path = link.to_vec();
            Error::refused(member, Refusal::LeadsElsewhere { path })
        };
        let mut links = 0;
        let mut id = above;
        // The names still to be resolved, the first one last.
        let mut names = vec![split(link).1.to_vec()];
        while let Some(name) = names.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." if id == Directories::ROOT => return Err(refused()),
                b".." => {
                    let parent = split(&self.table[id].path).0;
                    id = self.ids.get(parent).copied().ok_or_else(refused)?;
                    continue;
                }
                _ => {}
            }
            let parent = self.descriptor(id, member)?;
            match root::kind(parent, &name) {
                Ok(FileType::Directory) => {
                    let path = join(&self.table[id].path, &name);
                    id = match self.ids.get(&*path) {
                        Some(id) => *id,
                        None => self.make_directory(id, &path, member, false)?,
                    };
                }
                Ok(FileType::Symlink) if links < MAX_LINKS => {
                    links += 1;
                    let target = readlinkat(parent, name.as_slice(), Vec::new())
                        .at(link, "read the link")?;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        return Err(refused());
                    }
                    names.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
                }
                _ => return Err(refused()),
            }
        }
        Ok(id)
    }
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match above {
        b"" => name.to_vec(),
        above => [above, name].join(&b'/'),
    }
}
