//! The few small files of a root file system that say what it is, picked out of the stream.

use std::collections::BTreeMap;

use crate::entry::{Entry, Kind};
use crate::tree::selection::clean;

/// The longest file that is kept, in bytes: dpkg's status of a large system has 5 MB.
const LONGEST: u64 = 32 << 20;

/// The most files that are kept: a real system has ten.
const MOST: usize = 64;

/// The longest that all kept files together may be, in bytes.
const TOGETHER: u64 = 48 << 20;

/// The files by path. One that is too long, or comes after too many, is passed over.
#[derive(Debug, Default)]
pub struct SystemFiles {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    current: Option<Vec<u8>>,
}

impl SystemFiles {
    /// A member begins; one of the same path that came earlier is gone with it.
    pub fn begin(&mut self, entry: &Entry) {
        let path = clean(&entry.path);
        if !is_wanted(&path) {
            return;
        }
        self.files.remove(&path);
        let held: u64 = self
            .files
            .values()
            .map(|content| content.len() as u64)
            .sum();
        if let Kind::File { size, .. } = entry.kind
            && size <= LONGEST.min(TOGETHER - held.min(TOGETHER))
            && self.files.len() < MOST
        {
            self.files
                .insert(path.clone(), vec![0; usize::try_from(size).unwrap_or(0)]);
            self.current = Some(path);
        }
    }

    /// Data of the current member.
    pub fn data(&mut self, offset: u64, data: &[u8]) {
        let Some(content) = self
            .current
            .as_ref()
            .and_then(|path| self.files.get_mut(path))
        else {
            return;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let room = start
            .checked_add(data.len())
            .and_then(|end| content.get_mut(start..end));
        if let Some(room) = room {
            room.copy_from_slice(data);
        }
    }

    /// The current member is complete.
    pub fn end(&mut self) {
        self.current = None;
    }

    /// The content of a file, if it was there.
    pub fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// All files, by path.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.files
            .iter()
            .map(|(path, content)| (path.as_slice(), content.as_slice()))
    }
}

fn is_wanted(path: &[u8]) -> bool {
    match path {
        b"etc/os-release"
        | b"usr/lib/os-release"
        | b"etc/debian_version"
        | b"etc/apt/sources.list" => true,
        b"var/lib/dpkg/status" | b"var/lib/dpkg/arch" | b"etc/passwd" | b"etc/login.defs" => true,
        _ => path
            .strip_prefix(b"etc/apt/sources.list.d/")
            .is_some_and(is_source),
    }
}

/// apt reads these two endings alone.
fn is_source(name: &[u8]) -> bool {
    !name.contains(&b'/') && (name.ends_with(b".list") || name.ends_with(b".sources"))
}
