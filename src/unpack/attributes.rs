//! Owner, mode, extended attributes, ACLs and times of unpacked files, set in this order.
//!
//! chown(2) clears setuid, setgid and capabilities, so the owner is set first. Writing clears them
//! too, so attributes are set after the data. An ACL changes the group bits of the mode. The times
//! are set last.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, chmod, chownat, fchmod, fchown,
    fremovexattr, fsetxattr, futimens, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::Xattrs;
use super::error::{CapabilityError, Refusal};
use super::names::MAX_PATH;
use crate::acl::{self, Named};
use crate::entry::{Entry, Kind, Timestamp};
use crate::error::{Escaped, FileError, PathContext};
use crate::ids::IdMaps;
use crate::tree::xattr::{capability_v2, is_own_mark};

/// The access ACL.
pub const ACCESS_ACL: &CStr = c"system.posix_acl_access";
/// The default ACL of a directory.
pub const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Maximum length of an attribute's name, in bytes (`XATTR_NAME_MAX`).
const MAX_NAME: usize = 255;

/// Attributes to set on a file, checked and in the kernel's form.
#[derive(Debug)]
pub struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    /// `None` leaves the time unchanged.
    mtime: Option<Timestamp>,
    xattrs: Vec<(CString, Vec<u8>)>,
    access_acl: Option<Vec<u8>>,
    default_acl: Option<Vec<u8>>,
}

/// The ids of this process, which own the files that it creates.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// A new file, or an existing directory.
#[derive(Clone, Copy)]
pub struct Handle<'a> {
    /// Open for reading or writing; with `O_PATH` when `is_path`.
    pub file: BorrowedFd<'a>,
    /// True if opened with `O_PATH`: a pipe, a device, a symbolic link.
    pub is_path: bool,
    /// Its path for messages.
    pub path: &'a [u8],
    /// Its permission bits, if it is new and has inherited nothing from its directory; `None` if
    /// unknown.
    pub mode: Option<u32>,
}

impl Attributes {
    /// Memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        let xattrs = self.xattrs.iter();
        let xattrs = xattrs.map(|(name, value)| {
            size_of::<(CString, Vec<u8>)>() + name.as_bytes().len() + value.len()
        });
        let acls = [&self.access_acl, &self.default_acl].into_iter().flatten();
        size_of::<Attributes>() + xattrs.sum::<usize>() + acls.map(Vec::len).sum::<usize>()
    }

    /// The attributes of `entry`, and the number of skipped extended attributes. Fails if an id is
    /// not in `maps`.
    pub fn of(entry: &Entry, maps: &IdMaps, xattrs: Xattrs) -> Result<(Attributes, u64), Refusal> {
        for (map, kind, id) in [
            (&maps.uids, "owner", entry.uid),
            (&maps.gids, "group", entry.gid),
        ] {
            if map.to_outer(id).is_none() {
                return Err(Refusal::Unmapped { kind, id });
            }
        }
        let mut attributes = Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode & 0o7777,
            mtime: Some(entry.mtime),
            xattrs: Vec::new(),
            access_acl: None,
            default_acl: None,
        };
        if matches!(&entry.kind, Kind::Symlink { target } if target.len() > MAX_PATH) {
            return Err(Refusal::LongTarget);
        }
        let acls = u64::from(entry.access_acl.is_some()) + u64::from(entry.default_acl.is_some());
        // Symbolic links have neither ACLs nor `user.*` attributes.
        if xattrs == Xattrs::None || matches!(entry.kind, Kind::Symlink { .. }) {
            return Ok((attributes, entry.xattrs.len() as u64 + acls));
        }
        let mut skipped = 0;
        let is_plain = matches!(entry.kind, Kind::File { .. } | Kind::Directory);
        for (name, value) in &entry.xattrs {
            let value = match name.as_slice() {
                b"security.capability" => {
                    capability_v2(value, &entry.path).map_err(CapabilityError::from)?
                }
                overlay
                    if xattrs == Xattrs::AllButOverlays
                        && overlay.starts_with(b"user.overlay.") =>
                {
                    skipped += 1;
                    continue;
                }
                user if user.starts_with(b"user.") && is_plain && !is_own_mark(user) => {
                    value.clone()
                }
                _ => {
                    skipped += 1;
                    continue;
                }
            };
            if name == b"user." || name.len() > MAX_NAME {
                return Err(Refusal::AttributeName { name: name.clone() });
            }
            // The reader has refused names with a NUL.
            attributes
                .xattrs
                .push((CString::new(name.as_slice()).unwrap_or_default(), value));
        }
        attributes.access_acl = raw_acl(entry.access_acl.as_deref(), "access ACL", maps)?;
        match (
            raw_acl(entry.default_acl.as_deref(), "default ACL", maps)?,
            &entry.kind,
        ) {
            (default_acl, Kind::Directory) => attributes.default_acl = default_acl,
            (default_acl, _) => skipped += u64::from(default_acl.is_some()),
        }
        Ok((attributes, skipped))
    }

    /// The attributes of a directory without a member of its own: owned by root, mode 0755.
    pub fn of_implied_directory(own: Own) -> Attributes {
        Attributes {
            uid: own.uid,
            gid: own.gid,
            mode: 0o755,
            mtime: None,
            xattrs: Vec::new(),
            access_acl: None,
            default_acl: None,
        }
    }

    /// The mode bits that a new file can have from the start: those that chown(2) does not clear.
    pub fn initial_mode(&self) -> u32 {
        self.mode & 0o777
    }

    /// True if the file is setuid with owner 0, or setgid and group-executable with group 0.
    pub fn is_setuid_root(&self) -> bool {
        (self.mode & 0o4000 != 0 && self.uid == 0)
            || (self.mode & 0o2010 == 0o2010 && self.gid == 0)
    }

    /// Sets all attributes of a file whose content is complete.
    pub fn apply(&self, file: Handle<'_>, own: Own) -> Result<(), FileError> {
        let is_new = file.mode.is_some();
        let has_owner = is_new && (self.uid, self.gid) == (own.uid, own.gid);
        if !has_owner {
            file.chown(self.uid, self.gid)
                .at(file.path, "change its owner")?;
        }
        if !is_new {
            file.remove_acls()
                .at(file.path, "remove the ACL that it inherited")?;
        }
        if file.mode != Some(self.mode) || (!has_owner && self.mode & 0o6000 != 0) {
            file.chmod(self.mode).at(file.path, "change its mode")?;
        }
        for (name, value) in &self.xattrs {
            file.set_xattr(name, value)
                .map_err(|cause| explained(cause, name, value))
                .at(file.path, "set an extended attribute")?;
        }
        for (name, acl) in [
            (ACCESS_ACL, &self.access_acl),
            (DEFAULT_ACL, &self.default_acl),
        ] {
            if let Some(acl) = acl {
                file.set_xattr(name, acl)
                    .map_err(|cause| explained(cause, name, acl))
                    .at(file.path, "set its ACL")?;
            }
        }
        file.set_mtime(self.mtime).at(file.path, "set its times")
    }

    /// Sets owner and time of a symbolic link, which has no other attributes.
    pub fn apply_to_symlink(&self, link: Handle<'_>, own: Own) -> Result<(), FileError> {
        if link.mode.is_none() || (self.uid, self.gid) != (own.uid, own.gid) {
            link.chown(self.uid, self.gid)
                .at(link.path, "change its owner")?;
        }
        link.set_mtime(self.mtime).at(link.path, "set its times")
    }
}

impl Handle<'_> {
    fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if self.is_path {
            chownat(self.file, c"", uid, gid, AtFlags::EMPTY_PATH)
        } else {
            fchown(self.file, uid, gid)
        }
    }

    fn chmod(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        if self.is_path {
            chmod(self.magic_path(), mode)
        } else {
            fchmod(self.file, mode)
        }
    }

    fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        if self.is_path {
            setxattr(self.magic_path(), name, value, flags)
        } else {
            fsetxattr(self.file, name, value, flags)
        }
    }

    /// Removes an ACL inherited from the directory's default ACL.
    fn remove_acls(&self) -> Result<(), Errno> {
        for name in [ACCESS_ACL, DEFAULT_ACL] {
            let removed = if self.is_path {
                removexattr(self.magic_path(), name)
            } else {
                fremovexattr(self.file, name)
            };
            match removed {
                // A file system without ACLs has none to remove.
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Resets the group, the ACL and the mode inherited from the directory above.
    pub fn reset(&self, own: Own, mode: u32) -> Result<(), Errno> {
        self.chown(own.uid, own.gid)?;
        self.remove_acls()?;
        self.chmod(mode)
    }

    fn set_mtime(&self, mtime: Option<Timestamp>) -> Result<(), Errno> {
        let Some(mtime) = mtime else { return Ok(()) };
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let mtime = Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: omit,
            last_modification: mtime,
        };
        if self.is_path {
            utimensat(self.file, c"", &times, AtFlags::EMPTY_PATH)
        } else {
            futimens(self.file, &times)
        }
    }

    /// A path to the open file: chmod(2) and setxattr(2) do not accept `O_PATH` descriptors.
    fn magic_path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

/// Converts an ACL to the kernel's form. Fails if an id is not in `maps`.
fn raw_acl(
    text: Option<&[u8]>,
    which: &'static str,
    maps: &IdMaps,
) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let raw = acl::from_text(text).map_err(|cause| Refusal::Acl { which, cause })?;
    for named in acl::named(&raw) {
        let (map, kind, id) = match named {
            Named::User(id) => (&maps.uids, "ACL's user", id),
            Named::Group(id) => (&maps.gids, "ACL's group", id),
        };
        if map.to_outer(id).is_none() {
            return Err(Refusal::Unmapped { kind, id });
        }
    }
    Ok(Some(raw))
}

/// Says why an attribute cannot be set, where the number of the error alone would mislead.
fn explained(error: Errno, name: &CStr, value: &[u8]) -> io::Error {
    let name = Escaped(name.to_bytes());
    match error {
        Errno::OPNOTSUPP => io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the file system has no such attributes as {name}"),
        ),
        // ext4 stores about 4 KiB of attributes per file, however much space is free.
        Errno::NOSPC | Errno::RANGE | Errno::TOOBIG => io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the file system has no room for {name}, which has {} bytes",
                value.len()
            ),
        ),
        error => error.into(),
    }
}
