//! Encoding members: entries in, header bytes out.

use super::header::{self, BLOCK, Fields, MAX_ID, MAX_MTIME, MAX_SIZE};
use super::{pax, sparse};
use crate::entry::{Entry, Kind, Timestamp};
use crate::error::Escaped;

/// The two zero blocks that end an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Maximum length of a path, in bytes: extractors could not open a longer one (`PATH_MAX`, less
/// `./` and a final `/`).
pub const MAX_PATH: usize = 4092;

/// A member that cannot be stored so that sbuild loads it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data is too large for the size field of the header, and the filter of sbuild 0.89
    /// supports no other.
    #[error(
        "{}: {stored} bytes of data: sbuild 0.89 loads no member of 8 GiB or more; exclude it or make its unused parts holes (fallocate --dig-holes)",
        Escaped(path)
    )]
    TooLarge {
        /// The member.
        path: Vec<u8>,
        /// Its data in bytes, without holes.
        stored: u64,
    },
    /// The path is too long for extractors.
    #[error("{}: a path of {} bytes: no program can extract more than {MAX_PATH}", Escaped(path), path.len())]
    PathTooLong {
        /// The member.
        path: Vec<u8>,
    },
    /// An owner is too large for the header's fields.
    #[error(
        "{}: id {id} is above the largest that a tar header holds",
        Escaped(path)
    )]
    IdTooLarge {
        /// The member.
        path: Vec<u8>,
        /// User or group id.
        id: u32,
    },
    /// A device number is too large for the header's fields.
    #[error(
        "{}: device number {number} is above the largest that a tar header holds",
        Escaped(path)
    )]
    DeviceTooLarge {
        /// The member.
        path: Vec<u8>,
        /// Major or minor number.
        number: u32,
    },
}

/// The stored name: `./` and the path, with a trailing `/` for a directory.
pub fn stored_name(path: &[u8], kind: &Kind) -> Vec<u8> {
    let mut name = b"./".to_vec();
    name.extend_from_slice(path);
    if matches!(kind, Kind::Directory) && !path.is_empty() {
        name.push(b'/');
    }
    name
}

/// Appends the header blocks of `entry`: PAX records if necessary, the ustar block, and the map of
/// a sparse file.
///
/// The caller appends the data: the bytes of a file, or those of the extents of a sparse file; then
/// [`header::padding`]. `comment` becomes a PAX comment, which readers ignore.
pub fn append_header(
    out: &mut Vec<u8>,
    entry: &Entry,
    comment: Option<&[u8]>,
) -> Result<(), Error> {
    check_ranges(entry)?;
    let name = stored_name(&entry.path, &entry.kind);
    let target = match &entry.kind {
        Kind::Symlink { target } => target.clone(),
        Kind::HardLink { target } => [b"./", target.as_slice()].concat(),
        _ => Vec::new(),
    };
    let (map, size) = stored(entry)?;
    let records = records(entry, &name, &target, map.is_some(), comment);
    if !records.is_empty() {
        out.extend_from_slice(&header::block(&Fields {
            // The same name for all: it compresses well, and readers with PAX support ignore it.
            name: b"././@PaxHeader",
            mode: 0o644,
            size: records.len() as u64,
            typeflag: b'x',
            ..Fields::default()
        }));
        out.extend_from_slice(&records);
        out.resize(out.len() + header::padding(records.len() as u64), 0);
    }
    let short;
    let (prefix, name) = match header::split(&name) {
        _ if map.is_some() => {
            short = sparse_name(&entry.path);
            (b"".as_slice(), short.as_slice())
        }
        Some(split) => split,
        None => (b"".as_slice(), &name[..100]),
    };
    out.extend_from_slice(&header::block(&Fields {
        name,
        prefix,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        size,
        mtime: entry.mtime.seconds.clamp(0, MAX_MTIME) as u64,
        typeflag: typeflag(&entry.kind),
        linkname: target.get(..100).unwrap_or(&target),
        device: device(&entry.kind),
    }));
    out.extend_from_slice(&map.unwrap_or_default());
    Ok(())
}

fn check_ranges(entry: &Entry) -> Result<(), Error> {
    if entry.path.len() > MAX_PATH {
        return Err(Error::PathTooLong {
            path: entry.path.clone(),
        });
    }
    if let Some(id) = [entry.uid, entry.gid].into_iter().find(|id| *id > MAX_ID) {
        return Err(Error::IdTooLarge {
            path: entry.path.clone(),
            id,
        });
    }
    let (major, minor) = device(&entry.kind);
    if let Some(number) = [major, minor].into_iter().find(|number| *number > MAX_ID) {
        return Err(Error::DeviceTooLarge {
            path: entry.path.clone(),
            number,
        });
    }
    Ok(())
}

/// The sparse map, if any, and the size for the header: that of the map and the data.
fn stored(entry: &Entry) -> Result<(Option<Vec<u8>>, u64), Error> {
    let (map, size) = match &entry.kind {
        Kind::File {
            size,
            extents: None,
        } => (None, *size),
        Kind::File {
            size,
            extents: Some(extents),
        } => {
            let map = sparse::map(extents, *size);
            let stored = sparse::data(extents).saturating_add(map.len() as u64);
            (Some(map), stored)
        }
        _ => (None, 0),
    };
    if size > MAX_SIZE {
        return Err(Error::TooLarge {
            path: entry.path.clone(),
            stored: size,
        });
    }
    Ok((map, size))
}

fn typeflag(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => b'0',
        Kind::HardLink { .. } => b'1',
        Kind::Symlink { .. } => b'2',
        Kind::CharDevice { .. } => b'3',
        Kind::BlockDevice { .. } => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn device(kind: &Kind) -> (u32, u32) {
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (*major, *minor),
        _ => (0, 0),
    }
}

/// The name of a sparse member in its header; a record has the true name. GNU tar has its process
/// id in place of the 0.
fn sparse_name(path: &[u8]) -> Vec<u8> {
    let base = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let mut name = b"./GNUSparseFile.0/".to_vec();
    let room = 100 - name.len();
    name.extend_from_slice(base.get(..room).unwrap_or(base));
    name
}

fn records(
    entry: &Entry,
    name: &[u8],
    target: &[u8],
    is_sparse: bool,
    comment: Option<&[u8]>,
) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| pax::record(&mut records, key, value);
    if let Some(comment) = comment {
        add(b"comment", comment);
    }
    let long_name = !is_sparse && header::split(name).is_none();
    let long_target = target.len() > 100;
    if (long_name || is_sparse) && str::from_utf8(name).is_err()
        || long_target && str::from_utf8(target).is_err()
    {
        // Records are UTF-8 unless `hdrcharset` is set. GNU tar never converts them.
        add(b"hdrcharset", b"BINARY");
    }
    if long_name {
        add(b"path", name);
    }
    if long_target {
        add(b"linkpath", target);
    }
    // The filter of sbuild 0.89 drops a device node and leaves its records to the next member, so
    // write none.
    if needs_record(entry.mtime) && !entry.kind.is_device() {
        add(b"mtime", pax::time(entry.mtime).as_bytes());
    }
    if let Kind::File { size, .. } = entry.kind
        && is_sparse
    {
        add(b"GNU.sparse.major", b"1");
        add(b"GNU.sparse.minor", b"0");
        add(b"GNU.sparse.name", name);
        add(b"GNU.sparse.realsize", size.to_string().as_bytes());
    }
    if let Some(acl) = &entry.access_acl {
        add(b"SCHILY.acl.access", acl);
    }
    if let Some(acl) = &entry.default_acl {
        add(b"SCHILY.acl.default", acl);
    }
    for (key, value) in &entry.xattrs {
        add(&xattr_key(key), value);
    }
    records
}

/// The key of a record ends at the first `=`, so GNU tar writes `=` and `%` in the name of an
/// attribute as `%3D` and `%25`.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            _ => key.push(*byte),
        }
    }
    key
}

fn needs_record(mtime: Timestamp) -> bool {
    mtime.nanoseconds != 0 || !(0..=MAX_MTIME).contains(&mtime.seconds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::entry::Extent;

    #[test]
    fn what_counts_against_the_8_gib_of_a_member_is_its_data_and_its_map() {
        const GIB: u64 = 1 << 30;
        let cases: &[(u64, Option<&[Extent]>, bool)] = &[
            (8 * GIB - 1, None, true),
            (8 * GIB, None, false),
            (9 * GIB, Some(&[]), true),
            (
                9 * GIB,
                Some(&[Extent {
                    offset: GIB,
                    length: 8 * GIB - 513,
                }]),
                true,
            ),
            (
                9 * GIB,
                Some(&[Extent {
                    offset: GIB,
                    length: 8 * GIB - 512,
                }]),
                false,
            ),
        ];
        for (size, extents, fits) in cases {
            let kind = Kind::File {
                size: *size,
                extents: extents.map(<[Extent]>::to_vec),
            };
            let entry = Entry {
                kind,
                ..Entry::file("disk", *size)
            };
            let done = append_header(&mut Vec::new(), &entry, None);
            assert_eq!(done.is_ok(), *fits, "{size} {extents:?}");
            if let Err(error) = done {
                assert!(
                    error.to_string().starts_with("disk: ") && error.to_string().contains("8 GiB"),
                    "{error}"
                );
            }
        }
    }
}
