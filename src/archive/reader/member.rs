//! From headers to a member: precedence of the headers.

use super::super::header::decode::{Dialect, Header};
use super::super::sparse::decode::{Error as MapError, Map, Misread, OldGnu, Text};
use super::error::Fault;
use super::records::{Ownership, Records, SparseForm, name};
use super::{Limits, Member, RawHeader};
use crate::acl;
use crate::entry::{Entry, Extent, Kind, Timestamp};

/// The extension headers before a member's own header.
#[derive(Debug, Default)]
pub struct Pending {
    /// The header blocks so far.
    pub headers: Vec<RawHeader>,
    /// Their total length with data, in bytes.
    pub bytes: u64,
    /// Records of an `x` header.
    pub records: Option<Box<Records>>,
    /// Name of an `L` header.
    pub long_name: Option<Vec<u8>>,
    /// Target of a `K` header.
    pub long_target: Option<Vec<u8>>,
    /// True if there was a `g` header.
    pub has_global_header: bool,
    /// Number of extended attributes and ACLs in `g` headers.
    pub global_attributes: u64,
}

impl Pending {
    /// The type of an extension header that must be followed by a member.
    pub fn extension(&self) -> Option<u8> {
        match self {
            Pending {
                records: Some(_), ..
            } => Some(b'x'),
            Pending {
                long_name: Some(_), ..
            } => Some(b'L'),
            Pending {
                long_target: Some(_),
                ..
            } => Some(b'K'),
            _ => None,
        }
    }

    /// The name as far as it is known.
    pub fn name(&self) -> Option<&[u8]> {
        let records = self.records.as_deref();
        let name =
            records.and_then(|records| records.sparse.name.as_ref().or(records.path.as_ref()));
        name.or(self.long_name.as_ref()).map(Vec::as_slice)
    }
}

/// The bytes after the header of a member.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    None,
    /// Bytes without meaning.
    Ignored(u64),
    /// The file's bytes.
    Whole(u64),
    /// The bytes of the extents.
    Extents(Vec<Extent>, Option<Misread>),
    /// Further blocks of the map, then `stored` bytes of data of the extents.
    OldGnuMap { map: OldGnu, size: u64, stored: u64 },
    /// The map and the data of the extents, `stored` bytes in total.
    TextMap { map: Text, size: u64, stored: u64 },
}

/// Decodes the member that `header`, at `offset` of the stream, begins.
pub fn describe(
    header: Header<'_>,
    offset: u64,
    pending: Pending,
    global: &Ownership,
    limits: &Limits,
) -> Result<(Box<Member>, Content), Fault> {
    let mut records = pending.records.map(|records| *records).unwrap_or_default();
    let sparse = std::mem::take(&mut records.sparse);
    let (own_target, xattrs) = (header.linkname(), records.take_xattrs()?);
    let name = first_name(
        [sparse.name.clone(), records.path, pending.long_name],
        header.name(),
    );
    if name.is_empty() {
        return Err(Fault::Empty { what: "path" });
    }
    let target = first_name(
        [records.linkpath, pending.long_target, None],
        own_target.to_vec(),
    );
    let kind = kind(header, &name, &target)?;
    // The size in the records applies to this header, and so determines the position of the next
    // one.
    let size = field("size", header.size())?;
    let stored = records.size.unwrap_or(size);
    let (kind, content) = content(header, kind, stored, sparse.form()?, limits)?;
    if matches!(content, Content::None) && records.size.is_some_and(|size| size > 0) {
        return Err(Fault::SizeWithoutData { kind: kind.name() });
    }
    let ownership = records.ownership.or(global);
    let (uname, gname) = header.owner_names();
    let mode = field("mode", header.mode())?;
    let entry = Entry {
        path: path(&name),
        kind,
        uid: ownership
            .uid
            .map_or_else(|| field("user id", header.uid()), Ok)?,
        gid: ownership
            .gid
            .map_or_else(|| field("group id", header.gid()), Ok)?,
        mode,
        mtime: match ownership.mtime {
            Some(time) => time,
            None => Timestamp {
                seconds: field("modification time", header.mtime())?,
                nanoseconds: 0,
            },
        },
        xattrs,
        access_acl: records.access_acl.filter(|text| !is_mode(text, mode)),
        default_acl: records.default_acl,
    };
    let is_link = matches!(entry.kind, Kind::HardLink { .. } | Kind::Symlink { .. });
    let mut headers = pending.headers;
    headers.push(RawHeader {
        offset,
        block: Box::new(*header.0),
        payload: content.payload(),
    });
    let member = Member {
        entry,
        name,
        link_target: if is_link { target } else { Vec::new() },
        owner_names: (
            ownership.uname.unwrap_or_else(|| uname.to_vec()),
            ownership.gname.unwrap_or_else(|| gname.to_vec()),
        ),
        headers,
        other_records: records.other,
        global_header: pending.has_global_header,
        global_attributes: pending.global_attributes,
        misread: match content {
            Content::Extents(_, misread) => misread,
            _ => None,
        },
    };
    Ok((Box::new(member), content))
}

impl Content {
    /// Bytes after the header that count for its size.
    fn payload(&self) -> u64 {
        match self {
            Content::None => 0,
            Content::Ignored(size) | Content::Whole(size) => *size,
            Content::Extents(extents, _) => extents.iter().map(|extent| extent.length).sum(),
            Content::OldGnuMap { stored, .. } | Content::TextMap { stored, .. } => *stored,
        }
    }
}

fn field<T>(
    field: &'static str,
    value: Result<T, super::super::number::Error>,
) -> Result<T, Fault> {
    value.map_err(|cause| Fault::Field { field, cause })
}

fn first_name(names: [Option<Vec<u8>>; 3], own: Vec<u8>) -> Vec<u8> {
    names.into_iter().flatten().next().unwrap_or(own)
}

/// The file type by typeflag and name; the size and extents of a file are set later.
///
/// An unknown typeflag is a file (POSIX.1-2017, `pax`), unless its name ends with a slash: then GNU
/// tar makes a file of it and bsdtar a directory.
fn kind(header: Header<'_>, name: &[u8], target: &[u8]) -> Result<Kind, Fault> {
    let typeflag = header.typeflag();
    let file = Kind::File {
        size: 0,
        extents: None,
    };
    let dialect = header.dialect();
    match typeflag {
        // Before directories had a typeflag, a trailing slash marked them.
        b'0' | b'\0' | b'7' if name.ends_with(b"/") => Ok(Kind::Directory),
        b'0' | b'\0' | b'7' => Ok(file),
        b'S' if dialect == Dialect::Gnu => Ok(file),
        b'1' | b'2' if target.is_empty() => Err(Fault::Empty {
            what: "link target",
        }),
        b'1' => Ok(Kind::HardLink {
            target: path(target),
        }),
        b'2' => Ok(Kind::Symlink {
            target: target.to_vec(),
        }),
        b'3' | b'4' if dialect != Dialect::V7 => {
            let (major, minor) = field("device number", header.device())?;
            Ok(if typeflag == b'3' {
                Kind::CharDevice { major, minor }
            } else {
                Kind::BlockDevice { major, minor }
            })
        }
        b'5' | b'D' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        b'M' => Err(Fault::MultiVolume),
        _ if !header.has_known_type() && !name.ends_with(b"/") => Ok(file),
        _ => Err(Fault::UnknownType { typeflag }),
    }
}

/// True if the access ACL is equivalent to `mode`. GNU tar and bsdtar store such an ACL if there is
/// a default ACL.
fn is_mode(text: &[u8], mode: u32) -> bool {
    acl::from_text(text).is_ok_and(|raw| raw == acl::minimal(mode))
}

/// The bytes after the header, and the file type with the size of a file.
///
/// Only files have data, as in GNU tar: directories, links, devices and pipes have none, whatever
/// the size in their header. (POSIX permits a hard link with data, `pax -o linkdata`. GNU tar,
/// sbuild and Python expect no data, so this reader does too; it finds that the data is not a
/// header and fails. If the size is in a PAX record, programs differ, and the member is refused.)
fn content(
    header: Header<'_>,
    kind: Kind,
    stored: u64,
    sparse: Option<(SparseForm, u64)>,
    limits: &Limits,
) -> Result<(Kind, Content), Fault> {
    let file = |size, extents| Kind::File { size, extents };
    let is_old_gnu = header.typeflag() == b'S';
    match (kind, sparse) {
        (Kind::File { .. }, None) if is_old_gnu => {
            let size = field("size of the sparse file", header.real_size())?;
            let mut map = OldGnu::new(limits.extents);
            let (extents, continued) = header.sparse_extents();
            if map.read(extents, continued)? {
                return Ok((file(size, None), Content::OldGnuMap { map, size, stored }));
            }
            mapped(map.map, size, stored)
        }
        (Kind::File { .. }, None) => Ok((file(stored, None), Content::Whole(stored))),
        (Kind::File { .. }, Some(_)) if is_old_gnu => Err(MapError::Version.into()),
        (Kind::File { .. }, Some((SparseForm::InRecords(map), size))) => mapped(map, size, stored),
        (Kind::File { .. }, Some((SparseForm::InData, size))) => Ok((
            file(size, None),
            Content::TextMap {
                map: Text::new(limits.extents),
                size,
                stored,
            },
        )),
        (_, Some(_)) => Err(MapError::NotAFile.into()),
        // The list of names in a directory, of GNU tar.
        (kind, None) if header.typeflag() == b'D' => Ok((kind, Content::Ignored(stored))),
        // A file by its typeflag: readers differ in whether it has data.
        (Kind::Directory, None) if header.typeflag() != b'5' && stored != 0 => {
            Err(Fault::DirectoryWithData)
        }
        (kind, None) => Ok((kind, Content::None)),
    }
}

/// A sparse file whose map is complete.
fn mapped(map: Map, size: u64, stored: u64) -> Result<(Kind, Content), Fault> {
    let misread = map.misread(size);
    let extents = map.finish(size, stored)?;
    let kind = sparse_file(size, &extents);
    Ok((kind, Content::Extents(extents, misread)))
}

/// A file with these extents, which may have no holes.
pub fn sparse_file(size: u64, extents: &[Extent]) -> Kind {
    let data: u64 = extents.iter().map(|extent| extent.length).sum();
    Kind::File {
        size,
        extents: (data != size).then(|| extents.to_vec()),
    }
}

/// The path of a stored name, without a leading `./` and trailing `/`. Absolute names and `..` are
/// kept.
fn path(name: &[u8]) -> Vec<u8> {
    let mut path = name;
    while let Some(rest) = path.strip_prefix(b"./") {
        let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
        path = &rest[slashes..];
    }
    while let Some((b'/', rest @ [_, ..])) = path.split_last() {
        path = rest;
    }
    if path == b"." {
        Vec::new()
    } else {
        path.to_vec()
    }
}

/// Decodes the name in the data of an `L` or `K` header: it ends with one or more NULs.
pub fn long_name(data: &[u8], what: &'static str, limits: &Limits) -> Result<Vec<u8>, Fault> {
    let end = data
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    name(&data[..end], what, limits)
}
