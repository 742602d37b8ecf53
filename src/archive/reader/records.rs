//! Interpretation of the PAX records of an extended header.

use super::super::pax::decode;
use super::super::sparse::decode::{Error as MapError, Map, list};
use super::super::{number, pax};
use super::Limits;
use super::error::Fault;
use crate::acl;
use crate::entry::{Timestamp, Xattr};

/// Properties that a global header can set for all members.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub uname: Option<Vec<u8>>,
    pub gname: Option<Vec<u8>>,
    pub mtime: Option<Timestamp>,
}

impl Ownership {
    /// These properties, with missing ones from `other`.
    pub fn or(self, other: &Ownership) -> Ownership {
        Ownership {
            uid: self.uid.or(other.uid),
            gid: self.gid.or(other.gid),
            uname: self.uname.or_else(|| other.uname.clone()),
            gname: self.gname.or_else(|| other.gname.clone()),
            mtime: self.mtime.or(other.mtime),
        }
    }
}

/// The records of a sparse file.
#[derive(Debug, Default)]
pub struct Sparse {
    pub name: Option<Vec<u8>>,
    /// Size of the file, holes included.
    pub size: Option<u64>,
    pub major: Option<u64>,
    pub minor: Option<u64>,
    /// Number of extents announced by formats 0.0 and 0.1.
    count: Option<u64>,
    /// The map of formats 0.0 and 0.1.
    map: Option<Map>,
    /// The offset of a 0.0 extent without its length yet.
    offset: Option<u64>,
}

/// The sparse format of the records.
#[derive(Debug)]
pub enum SparseForm {
    /// The map is in the records.
    InRecords(Map),
    /// The map precedes the data.
    InData,
}

impl Sparse {
    /// The format, and the size of the file; `None` for a file that is not sparse.
    pub fn form(self) -> Result<Option<(SparseForm, u64)>, MapError> {
        let form = match (self.major, self.minor, self.map) {
            (None, None, None)
                if self.size.is_none() && self.name.is_none() && self.count.is_none() =>
            {
                return Ok(None);
            }
            (Some(1), Some(0), None) if self.count.is_none() => SparseForm::InData,
            (None, None, map) | (Some(0), Some(0 | 1), map) => {
                let map = map.unwrap_or_else(|| Map::new(0));
                if self.offset.is_some() || self.count != Some(map.count() as u64) {
                    return Err(MapError::Count);
                }
                SparseForm::InRecords(map)
            }
            _ => return Err(MapError::Version),
        };
        Ok(Some((form, self.size.ok_or(MapError::MissingSize)?)))
    }
}

/// The records of one header.
#[derive(Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    /// Bytes of data in the archive.
    pub size: Option<u64>,
    pub ownership: Ownership,
    pub access_acl: Option<Vec<u8>>,
    pub default_acl: Option<Vec<u8>>,
    pub sparse: Sparse,
    /// Keys of records that are not interpreted.
    pub other: Vec<Vec<u8>>,
    /// Number of extended attributes and ACLs in a global header, which no program restores.
    pub ignored_attributes: u64,
    schily: Vec<Xattr>,
    libarchive: Vec<Xattr>,
}

/// Scope of the records of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The next member (`x`).
    OneMember,
    /// All further members (`g`).
    AllMembers,
}

/// Interprets the records in `data`, the data of an extended header.
pub fn interpret(data: &[u8], scope: Scope, limits: &Limits) -> Result<Records, Fault> {
    let mut records = Records::default();
    let mut keys = Vec::new();
    for record in decode::records(data) {
        let (key, value) = record.map_err(|pax::decode::Malformed| Fault::MalformedRecord)?;
        if scope == Scope::AllMembers && is_about_one_file(key) {
            return Err(Fault::GlobalRecord { key: key.to_vec() });
        }
        // Format 0.0 has these once per extent.
        if !matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            keys.push(key);
        }
        if scope == Scope::AllMembers && is_attribute(key) {
            records.ignored_attributes += 1;
        } else {
            records.take(key, value, limits)?;
        }
    }
    keys.sort_unstable();
    match keys
        .windows(2)
        .find(|pair| pair.first() == pair.last())
        .and_then(|pair| pair.first())
    {
        Some(key) => Err(Fault::DuplicateRecord { key: key.to_vec() }),
        None => Ok(records),
    }
}

fn is_about_one_file(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.")
}

fn is_attribute(key: &[u8]) -> bool {
    [&b"SCHILY.xattr."[..], b"SCHILY.acl.", b"LIBARCHIVE.xattr."]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Fault> {
        let bad = |cause| Fault::Record {
            key: key.to_vec(),
            cause,
        };
        let decimal = || number::decimal(value).map_err(bad);
        let id = || number::decimal(value).and_then(number::id).map_err(bad);
        match key {
            b"path" => self.path = Some(name(value, "path", limits)?),
            b"linkpath" => self.linkpath = Some(name(value, "link target", limits)?),
            b"size" => self.size = Some(decimal()?),
            b"uid" => self.ownership.uid = Some(id()?),
            b"gid" => self.ownership.gid = Some(id()?),
            b"uname" => self.ownership.uname = Some(without_nul(value, "user name")?),
            b"gname" => self.ownership.gname = Some(without_nul(value, "group name")?),
            b"mtime" => self.ownership.mtime = Some(number::timestamp(value).map_err(bad)?),
            // Names are bytes for this reader, in any encoding; POSIX defines these two values.
            b"hdrcharset" if !matches!(value, b"BINARY" | b"ISO-IR 10646 2000 UTF-8") => {
                return Err(Fault::UnknownValue { key: key.to_vec() });
            }
            // Has no effect on a file.
            b"hdrcharset"
            | b"atime"
            | b"ctime"
            | b"comment"
            | b"charset"
            | b"LIBARCHIVE.creationtime"
            | b"SCHILY.dev"
            | b"SCHILY.ino"
            | b"SCHILY.nlink" => {}
            b"SCHILY.acl.access" => self.access_acl = acl_text(value, limits)?,
            b"SCHILY.acl.default" => self.default_acl = acl_text(value, limits)?,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value, bad, limits)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.schily.push(xattr(
                        decode::schily_xattr_name(name),
                        value.to_vec(),
                        limits,
                    )?);
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = decode::base64(value)
                        .ok_or_else(|| Fault::UnknownValue { key: key.to_vec() })?;
                    self.libarchive.push(xattr(
                        decode::libarchive_xattr_name(name),
                        value,
                        limits,
                    )?);
                } else {
                    self.other.push(key.to_vec());
                }
            }
        }
        Ok(())
    }

    /// The extended attributes, sorted by name, without ACLs. If both formats have an attribute,
    /// SCHILY's takes precedence, because it has the raw value.
    ///
    /// GNU tar's `--xattrs-include='*'` also stores ACLs as attributes, in the kernel's form. They
    /// are used if there is no ACL record, or if it has names without ids: GNU tar writes the names
    /// of the machine that it ran on.
    pub fn take_xattrs(&mut self) -> Result<Vec<Xattr>, Fault> {
        let mut xattrs = sorted(std::mem::take(&mut self.schily))?;
        let mut others = sorted(std::mem::take(&mut self.libarchive))?;
        others.retain(|(name, _)| {
            xattrs
                .binary_search_by(|(known, _)| known.cmp(name))
                .is_err()
        });
        xattrs.append(&mut others);
        xattrs.sort_unstable();
        for (name, place) in [
            (&b"system.posix_acl_access"[..], &mut self.access_acl),
            (b"system.posix_acl_default", &mut self.default_acl),
        ] {
            if let Ok(index) = xattrs.binary_search_by(|(known, _)| known.as_slice().cmp(name)) {
                let (_, raw) = xattrs.remove(index);
                if place.as_deref().is_none_or(has_bare_name) {
                    *place = Some(acl::to_text(&raw)?);
                }
            }
        }
        Ok(xattrs)
    }
}

impl Sparse {
    /// Interprets the record `GNU.sparse.` + `key`.
    fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        bad: impl Fn(number::Error) -> Fault,
        limits: &Limits,
    ) -> Result<(), Fault> {
        let decimal = || number::decimal(value).map_err(bad);
        let map = || Map::new(limits.extents);
        match key {
            b"name" => self.name = Some(name(value, "path", limits)?),
            // Two keys of the same meaning: formats 0.0 and 0.1 have the first, 1.0 the second.
            b"size" | b"realsize" => {
                let size = decimal()?;
                if self.size.is_some_and(|other| other != size) {
                    return Err(Fault::DuplicateRecord {
                        key: b"GNU.sparse.realsize".to_vec(),
                    });
                }
                self.size = Some(size);
            }
            b"major" => self.major = Some(decimal()?),
            b"minor" => self.minor = Some(decimal()?),
            b"numblocks" => self.count = Some(decimal()?),
            b"map" if self.map.is_some() => return Err(MapError::Version.into()),
            b"map" => list(self.map.insert(map()), value)?,
            b"offset" if self.offset.is_some() => return Err(MapError::Malformed.into()),
            b"offset" => self.offset = Some(decimal()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(MapError::Malformed)?;
                self.map.get_or_insert_with(map).push(offset, decimal()?)?;
            }
            _ => {
                return Err(Fault::UnknownValue {
                    key: [b"GNU.sparse.", key].concat(),
                });
            }
        }
        Ok(())
    }
}

/// Checks a name from a record or a GNU long name.
pub fn name(value: &[u8], what: &'static str, limits: &Limits) -> Result<Vec<u8>, Fault> {
    if value.is_empty() {
        return Err(Fault::Empty { what });
    }
    if value.len() > limits.path {
        return Err(Fault::TooLong {
            what,
            length: value.len(),
            limit: limits.path,
        });
    }
    without_nul(value, what)
}

fn without_nul(value: &[u8], what: &'static str) -> Result<Vec<u8>, Fault> {
    if value.contains(&0) {
        Err(Fault::Nul { what })
    } else {
        Ok(value.to_vec())
    }
}

/// True if an ACL has a name without an id.
fn has_bare_name(text: &[u8]) -> bool {
    matches!(acl::from_text(text), Err(acl::Error::NameWithoutId { .. }))
}

/// An empty ACL counts as no ACL.
fn acl_text(value: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>, Fault> {
    if value.len() > limits.xattr_value {
        return Err(Fault::TooLong {
            what: "ACL",
            length: value.len(),
            limit: limits.xattr_value,
        });
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn xattr(name: Vec<u8>, value: Vec<u8>, limits: &Limits) -> Result<Xattr, Fault> {
    let what = "extended attribute's name";
    if name.is_empty() {
        return Err(Fault::Empty { what });
    }
    if value.len() > limits.xattr_value {
        return Err(Fault::TooLong {
            what: "extended attribute",
            length: value.len(),
            limit: limits.xattr_value,
        });
    }
    Ok((without_nul(&name, what)?, value))
}

/// Sorts the attributes by name. Two keys may be spellings of the same name, which is refused like
/// a repeated key.
fn sorted(mut xattrs: Vec<Xattr>) -> Result<Vec<Xattr>, Fault> {
    xattrs.sort_unstable();
    for pair in xattrs.windows(2) {
        if let [(one, _), (other, _)] = pair
            && one == other
        {
            return Err(Fault::DuplicateRecord { key: one.clone() });
        }
    }
    Ok(xattrs)
}
