//! The small files that identify a root file system, collected from the stream.

use std::collections::BTreeMap;

use crate::entry::{Entry, Kind};
use crate::tree::selection::clean;

/// Maximum length of a kept file, in bytes: dpkg's status of a large system has 5 MB.
const LONGEST: u64 = 32 << 20;

/// Maximum number of kept files: a real system has ten.
const MOST: usize = 64;

/// Maximum total length of the kept files, in bytes.
const TOGETHER: u64 = 48 << 20;

/// The files by path, without those beyond the limits.
#[derive(Debug, Default)]
pub struct SystemFiles {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    current: Option<Vec<u8>>,
}

impl SystemFiles {
    /// Begins a member, which replaces an earlier one of the same path.
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

    /// Adds data of the current member.
    pub fn data(&mut self, offset: u64, data: &[u8]) {
        let Some(content) = self
            .current
            .as_ref()
            .and_then(|path| self.files.get_mut(path))
        else {
            return;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let target = start
            .checked_add(data.len())
            .and_then(|end| content.get_mut(start..end));
        if let Some(target) = target {
            target.copy_from_slice(data);
        }
    }

    /// Ends the current member.
    pub fn end(&mut self) {
        self.current = None;
    }

    /// The content of a file, if present.
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

/// apt reads only these two suffixes.
fn is_source(name: &[u8]) -> bool {
    !name.contains(&b'/') && (name.ends_with(b".list") || name.ends_with(b".sources"))
}
