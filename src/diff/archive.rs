//! The files of an archive, as they would be in a directory after unpacking.

use super::content::{Digest, Hasher};
use super::{Error, Facts, FileId, Files, Options};
use crate::archive::reader::{Event, Limits};
use crate::entry::{Entry, Kind, Xattr};
use crate::input::Input;
use crate::member_stream;
use crate::tree::selection::clean;
use crate::tree::xattr::capability_v2;

/// Reads an archive to its end.
pub fn archive(input: &mut Input, options: &Options) -> Result<Files, Error> {
    let mut files = Files::default();
    let mut hasher = Hasher::default();
    let mut current: Option<FileId> = None;
    member_stream::read(input, Limits::default(), |event| {
        match event {
            Event::Member(member) => current = files.add(member.entry, options)?,
            Event::Data(offset, data) if current.is_some() => hasher.update(offset, data),
            Event::Data(..) => {}
            Event::MemberEnd => {
                if let Some(file) = current.take().and_then(|id| files.files.get_mut(id)) {
                    file.digest = hasher.finish();
                }
            }
        }
        Ok::<_, Error>(())
    })?;
    Ok(files)
}

impl Files {
    /// Adds a member. Returns the id of a file whose data is to be hashed.
    fn add(&mut self, entry: Entry, options: &Options) -> Result<Option<FileId>, Error> {
        let path = clean(&entry.path);
        if options.exclude.leaves_out(&path) {
            self.left_out.excluded += 1;
            options.allowance.take(options.exclude.newly_kept())?;
            return Ok(None);
        }
        if let Kind::HardLink { target } = &entry.kind {
            let Some(id) = self.names.get(&clean(target)) else {
                return Err(Error::DanglingLink {
                    path,
                    target: target.clone(),
                });
            };
            self.names.insert(&path, id, &options.allowance)?;
            return Ok(None);
        }
        // A repeated member replaces the earlier one, which keeps its other names.
        let id = self.files.len();
        let is_file = matches!(entry.kind, Kind::File { .. });
        let facts = facts(entry);
        options.allowance.take(facts.bytes())?;
        self.files.push(facts);
        self.names.insert(&path, id, &options.allowance)?;
        Ok(is_file.then_some(id))
    }
}

fn facts(entry: Entry) -> Facts {
    let kind = match entry.kind {
        Kind::File { size, .. } => Kind::File {
            size,
            extents: None,
        },
        kind => kind,
    };
    let mut xattrs: Vec<Xattr> = entry
        .xattrs
        .into_iter()
        .filter_map(|xattr| kept(xattr, &entry.path))
        .collect();
    xattrs.sort();
    Facts {
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
        access_acl: entry.access_acl,
        default_acl: entry.default_acl,
        digest: Digest::default(),
    }
}

/// The attribute as it would be read from a directory, see [`crate::tree::xattr`]; `None` for one
/// that is not read there.
fn kept((name, value): Xattr, path: &[u8]) -> Option<Xattr> {
    if name == b"security.capability" {
        let value = capability_v2(&value, path).unwrap_or(value);
        return Some((name, value));
    }
    name.starts_with(b"user.").then_some((name, value))
}
