//! POSIX ACLs in the kernel's form and in the text form of archives. Pure: bytes in, bytes out.
//!
//! The kernel's form (the value of `system.posix_acl_access` and `system.posix_acl_default`,
//! `linux/posix_acl_xattr.h`) is little-endian: a `u32` version, always 2, then 8 bytes per entry:
//! `u16` tag, `u16` permissions, `u32` id. Only entries for named users and groups use the id.
//!
//! The text (the value of the PAX records `SCHILY.acl.access` and `SCHILY.acl.default`) that
//! [`to_text`] writes is the long form with commas and numeric ids:
//! `user::rwx,user:999:rwx,group::r-x,mask::rwx,other::r-x`. Restored by GNU tar 1.34 (libacl) and
//! bsdtar 3.6 (libarchive), it gives the same ids as the trailing-id form (`user:999:rwx:999`) of
//! libarchive: libacl always takes a number as an id, and libarchive first looks it up as a name in
//! both forms. [`to_text`] writes the shorter form.

/// A reason to refuse an ACL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value is not a header and whole entries.
    #[error("the ACL's value of {0} bytes is cut off")]
    Length(usize),
    /// The version of the layout is unknown.
    #[error("the ACL has version {0}, only version 2 is known")]
    Version(u32),
    /// An entry has an unknown tag.
    #[error("the ACL has an entry of unknown tag {0:#x}")]
    Tag(u16),
    /// An entry has other permissions than read, write and execute.
    #[error("the ACL has an entry with unknown permissions {0:#x}")]
    Permissions(u16),
    /// An id is not mapped in the user namespace; the kernel shows it as -1.
    #[error(
        "the ACL names a {0} whose id is not mapped in this user namespace: remove the ACL as root of the namespace (`setfacl -b -k`), or leave such entries out"
    )]
    UnmappedId(&'static str),
    /// A base entry is missing.
    #[error("the ACL has no entry `{0}`")]
    Missing(&'static str),
    /// Two entries for the same user, group or base class.
    #[error("the ACL has two entries `{0}`")]
    Duplicate(String),
    /// There are named users or groups, but no mask.
    #[error("the ACL names users or groups and has no entry `mask::`")]
    MissingMask,
    /// An entry of the text is malformed.
    #[error("the ACL's text has an entry `{0}` that cannot be understood")]
    Malformed(String),
    /// A name without an id, which only the machine that wrote the archive can resolve.
    #[error(
        "the ACL's text names the {kind} `{name}` without a number (write the archive with numeric ids)"
    )]
    NameWithoutId {
        /// `user` or `group`.
        kind: &'static str,
        /// The name, escaped.
        name: String,
    },
}

/// Tag and qualifier of an entry. The order of the variants is the kernel's order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Qualifier {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

/// Qualifier and permissions (4 read, 2 write, 1 execute).
type Entry = (Qualifier, u16);

const VERSION: u32 = 2;
/// `ACL_UNDEFINED_ID`: the kernel's id for entries without one, and for ids that are not mapped.
const NO_ID: u32 = u32::MAX;

impl Qualifier {
    /// The tag and id of the kernel's form (`linux/posix_acl.h`).
    fn tag_and_id(self) -> (u16, u32) {
        match self {
            Qualifier::Owner => (0x01, NO_ID),
            Qualifier::User(id) => (0x02, id),
            Qualifier::OwningGroup => (0x04, NO_ID),
            Qualifier::Group(id) => (0x08, id),
            Qualifier::Mask => (0x10, NO_ID),
            Qualifier::Other => (0x20, NO_ID),
        }
    }

    fn from_tag_and_id(tag: u16, id: u32) -> Result<Qualifier, Error> {
        match tag {
            0x01 => Ok(Qualifier::Owner),
            0x02 => Ok(Qualifier::User(mapped(id, "user")?)),
            0x04 => Ok(Qualifier::OwningGroup),
            0x08 => Ok(Qualifier::Group(mapped(id, "group")?)),
            0x10 => Ok(Qualifier::Mask),
            0x20 => Ok(Qualifier::Other),
            _ => Err(Error::Tag(tag)),
        }
    }

    /// The text up to and including the colon before the permissions.
    fn text(self) -> String {
        match self {
            Qualifier::Owner => "user::".to_owned(),
            Qualifier::User(id) => format!("user:{id}:"),
            Qualifier::OwningGroup => "group::".to_owned(),
            Qualifier::Group(id) => format!("group:{id}:"),
            Qualifier::Mask => "mask::".to_owned(),
            Qualifier::Other => "other::".to_owned(),
        }
    }

    fn is_named(self) -> bool {
        matches!(self, Qualifier::User(_) | Qualifier::Group(_))
    }
}

fn mapped(id: u32, kind: &'static str) -> Result<u32, Error> {
    if id == NO_ID {
        Err(Error::UnmappedId(kind))
    } else {
        Ok(id)
    }
}

/// Encodes an ACL as text for an archive: entries in the kernel's order (named ones by id),
/// separated by commas, with numeric ids.
pub fn to_text(raw: &[u8]) -> Result<Vec<u8>, Error> {
    let entries = valid(decode(raw)?)?;
    let texts: Vec<String> = entries.iter().map(|entry| entry_text(*entry)).collect();
    Ok(texts.join(",").into_bytes())
}

/// The ACL without the entries for users and groups that are not mapped in the user namespace, and
/// how many these were. An ACL in the kernel's form that is malformed stays as it is.
pub fn without_unmapped(raw: &[u8]) -> (Vec<u8>, u64) {
    let (head, entries) = raw.split_at(raw.len().min(4));
    let is_unmapped = |entry: &&[u8]| matches!(entry, [0x02 | 0x08, 0, _, _, id @ ..] if *id == NO_ID.to_le_bytes());
    let kept = entries
        .chunks(8)
        .filter(|entry| !is_unmapped(entry))
        .collect::<Vec<_>>()
        .concat();
    let left_out = (entries.len() - kept.len()) / 8;
    ([head, &kept].concat(), left_out as u64)
}

/// Decodes the text of an ACL, as GNU tar, bsdtar and [`to_text`] write it, to the kernel's form.
///
/// Entries are separated by commas or newlines, `#` begins a comment, tags are long or short
/// (`user`, `u`), an id may follow the permissions and then takes precedence over the name
/// (`user:sbuild:rwx:999`). Entries may be in any order; the result has the kernel's order.
pub fn from_text(text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut entries = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let code = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        for entry in code
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|entry| !entry.is_empty())
        {
            entries.push(parse_entry(entry)?);
        }
    }
    Ok(encode(&valid(entries)?))
}

#[cfg(any(test, feature = "internals"))]
/// True if an access ACL is equivalent to the mode bits and need not be stored. False for a
/// malformed value.
pub fn is_trivial(raw: &[u8]) -> bool {
    // A mask, even without named entries, limits the owning group, which a mode cannot express.
    decode(raw).and_then(valid).is_ok_and(|entries| {
        !entries
            .iter()
            .any(|(who, _)| who.is_named() || *who == Qualifier::Mask)
    })
}

/// The access ACL, in the kernel's form, that is equivalent to the permission bits of `mode`.
/// Setting it on a file removes the ACL and sets these bits.
pub fn minimal(mode: u32) -> Vec<u8> {
    let class = |shift: u32| ((mode >> shift) & 0o7) as u16;
    encode(&[
        (Qualifier::Owner, class(6)),
        (Qualifier::OwningGroup, class(3)),
        (Qualifier::Other, class(0)),
    ])
}

/// The permission bits that the owner, the owning group and all others have by a mode and its
/// access ACL. The group bits of the mode itself are the mask, which may allow more than the owning
/// group has.
pub fn class_mode(mode: u32, access: &[u8]) -> u32 {
    let (mapped, _) = without_unmapped(access);
    let group = match decode(&mapped) {
        Ok(entries) => entries
            .iter()
            .find(|(who, _)| *who == Qualifier::OwningGroup)
            .map_or(0, |(_, permissions)| u32::from(*permissions)),
        Err(_) => 0,
    };
    mode & !0o070 | mode & group << 3
}

/// A user or group named by an entry of an ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A user, by uid.
    User(u32),
    /// A group, by gid.
    Group(u32),
}

/// The users and groups that an ACL in the kernel's form names; none for a malformed value.
pub fn named(raw: &[u8]) -> impl Iterator<Item = Named> {
    decode(raw)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(who, _)| match who {
            Qualifier::User(id) => Some(Named::User(id)),
            Qualifier::Group(id) => Some(Named::Group(id)),
            _ => None,
        })
}

fn decode(raw: &[u8]) -> Result<Vec<Entry>, Error> {
    let cut = || Error::Length(raw.len());
    let (version, entries) = raw.split_first_chunk::<4>().ok_or_else(cut)?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(cut());
    }
    entries
        .iter()
        .map(|&[tag0, tag1, perm0, perm1, id0, id1, id2, id3]| {
            let permissions = u16::from_le_bytes([perm0, perm1]);
            if permissions > 0o7 {
                return Err(Error::Permissions(permissions));
            }
            let tag = u16::from_le_bytes([tag0, tag1]);
            Ok((
                Qualifier::from_tag_and_id(tag, u32::from_le_bytes([id0, id1, id2, id3]))?,
                permissions,
            ))
        })
        .collect()
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut raw = VERSION.to_le_bytes().to_vec();
    for (who, permissions) in entries {
        let (tag, id) = who.tag_and_id();
        raw.extend(tag.to_le_bytes());
        raw.extend(permissions.to_le_bytes());
        raw.extend(id.to_le_bytes());
    }
    raw
}

/// Sorts the entries and checks that the kernel and libacl accept the ACL.
fn valid(mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    entries.sort_unstable();
    for pair in entries.windows(2) {
        if let [(one, _), (other, _)] = pair
            && one == other
        {
            return Err(Error::Duplicate(one.text()));
        }
    }
    let has = |who: Qualifier| entries.iter().any(|(other, _)| *other == who);
    for (base, text) in [
        (Qualifier::Owner, "user::"),
        (Qualifier::OwningGroup, "group::"),
        (Qualifier::Other, "other::"),
    ] {
        if !has(base) {
            return Err(Error::Missing(text));
        }
    }
    if entries.iter().any(|(who, _)| who.is_named()) && !has(Qualifier::Mask) {
        return Err(Error::MissingMask);
    }
    Ok(entries)
}

fn entry_text((who, permissions): Entry) -> String {
    let letter = |bit: u16, letter: char| if permissions & bit != 0 { letter } else { '-' };
    format!(
        "{}{}{}{}",
        who.text(),
        letter(4, 'r'),
        letter(2, 'w'),
        letter(1, 'x')
    )
}

fn parse_entry(entry: &[u8]) -> Result<Entry, Error> {
    let malformed = || Error::Malformed(entry.escape_ascii().to_string());
    let fields: Vec<&[u8]> = entry
        .split(|byte| *byte == b':')
        .map(<[u8]>::trim_ascii)
        .collect();
    let (tag, name, permissions, id): (&[u8], &[u8], &[u8], &[u8]) = match fields[..] {
        // Some programs write mask and other without the empty field.
        [tag @ (b"mask" | b"m" | b"other" | b"o"), permissions] => (tag, b"", permissions, b""),
        [tag, name, permissions] => (tag, name, permissions, b""),
        [tag, name, permissions, id] => (tag, name, permissions, id),
        _ => return Err(malformed()),
    };
    let who = match (tag, name.is_empty() && id.is_empty()) {
        (b"user" | b"u", true) => Qualifier::Owner,
        (b"group" | b"g", true) => Qualifier::OwningGroup,
        (b"mask" | b"m", true) => Qualifier::Mask,
        (b"other" | b"o", true) => Qualifier::Other,
        (b"user" | b"u", false) => {
            Qualifier::User(named_id("user", name, id)?.ok_or_else(malformed)?)
        }
        (b"group" | b"g", false) => {
            Qualifier::Group(named_id("group", name, id)?.ok_or_else(malformed)?)
        }
        _ => return Err(malformed()),
    };
    Ok((who, parse_permissions(permissions).ok_or_else(malformed)?))
}

/// The id of a named entry; `None` if it is not a valid id.
fn named_id(kind: &'static str, name: &[u8], id: &[u8]) -> Result<Option<u32>, Error> {
    // Refuse an id without a name: libarchive takes `user::rwx:999` as the owner's entry.
    if name.is_empty() {
        return Ok(None);
    }
    let digits = if id.is_empty() { name } else { id };
    if !digits.iter().all(u8::is_ascii_digit) {
        let name_alone = id.is_empty();
        return if name_alone {
            Err(Error::NameWithoutId {
                kind,
                name: name.escape_ascii().to_string(),
            })
        } else {
            Ok(None)
        };
    }
    let number = str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    number.map(|id| mapped(id, kind)).transpose()
}

/// `rwx`, `r-x`, `r`: letters in any order, at most three; `None` for anything else.
fn parse_permissions(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 3 {
        return None;
    }
    text.iter().try_fold(0, |permissions, letter| match letter {
        b'r' => Some(permissions | 4),
        b'w' => Some(permissions | 2),
        b'x' => Some(permissions | 1),
        b'-' => Some(permissions),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// `user::rwx,user:999:rw-,group::r-x,mask::rwx,other::r--`, in the kernel's form.
    const RAW: &[u8] = b"\x02\0\0\0\
        \x01\0\x07\0\xff\xff\xff\xff\
        \x02\0\x06\0\xe7\x03\0\0\
        \x04\0\x05\0\xff\xff\xff\xff\
        \x10\0\x07\0\xff\xff\xff\xff\
        \x20\0\x04\0\xff\xff\xff\xff";
    const TEXT: &str = "user::rwx,user:999:rw-,group::r-x,mask::rwx,other::r--";

    fn change(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut raw = RAW.to_vec();
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        raw
    }

    #[test]
    fn the_kernels_form_becomes_text_and_comes_back() {
        assert_eq!(to_text(RAW).unwrap(), TEXT.as_bytes());
        assert_eq!(from_text(TEXT.as_bytes()).unwrap(), RAW);
    }

    #[test]
    fn the_forms_of_other_programs_are_understood() {
        for text in [
            "user::rwx\nuser:999:rw-\ngroup::r-x\nmask::rwx\nother::r--\n",
            "user::rwx,group::r-x,other::r--,user:999:rw-,mask::rwx",
            "user::rwx,group::r-x,other::r--,user:sbuild:rw-:999,mask::rwx",
            "user::rwx,group::r-x,other::r--,user:42:rw-:999,mask::rwx",
            "u::rwx,u:999:rw,g::rx,m::rwx,o::r",
            "u::rwx,u:999:wr,g::rx,m:rwx,o:r",
            "# file: x\nuser::rwx\nuser:999:rw-\t#effective:r--\n\n group::r-x \nmask::rwx\nother::r--",
        ] {
            assert_eq!(from_text(text.as_bytes()).as_deref(), Ok(RAW), "{text}");
        }
    }

    #[test]
    fn what_is_no_acl_is_refused_with_its_own_reason() {
        let malformed = |entry: &str| Error::Malformed(entry.to_owned());
        for (text, error) in [
            ("", Error::Missing("user::")),
            ("user::rwx,group::r-x", Error::Missing("other::")),
            ("user::rwx,other::---", Error::Missing("group::")),
            (
                "user::rwx,group::r-x,other::---,user:1:r--",
                Error::MissingMask,
            ),
            (
                "user::rwx,group::r-x,other::---,user::r--",
                Error::Duplicate("user::".to_owned()),
            ),
            (
                "user::rwx,group::r-x,other::---,mask::r--,u:1:r,u:01:w",
                Error::Duplicate("user:1:".to_owned()),
            ),
            (
                "user:joe:rwx",
                Error::NameWithoutId {
                    kind: "user",
                    name: "joe".to_owned(),
                },
            ),
            (
                "group:adm\u{1b}:rwx",
                Error::NameWithoutId {
                    kind: "group",
                    name: "adm\\x1b".to_owned(),
                },
            ),
            ("user:4294967295:rwx", Error::UnmappedId("user")),
            ("user:4294967296:rwx", malformed("user:4294967296:rwx")),
            ("user:joe:rwx:-1", malformed("user:joe:rwx:-1")),
            ("user::rwx:999", malformed("user::rwx:999")),
            ("mask:5:rwx", malformed("mask:5:rwx")),
            ("user::rwxr", malformed("user::rwxr")),
            ("user::7", malformed("user::7")),
            ("user::", malformed("user::")),
            ("user", malformed("user")),
            ("user:1:r:1:1", malformed("user:1:r:1:1")),
            ("default:user::rwx", malformed("default:user::rwx")),
        ] {
            assert_eq!(from_text(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn a_value_that_the_kernel_would_not_give_is_refused() {
        for (raw, error) in [
            (vec![], Error::Length(0)),
            (RAW[..43].to_vec(), Error::Length(43)),
            (change(0, b"\x01"), Error::Version(1)),
            (change(4, b"\x40"), Error::Tag(0x40)),
            (change(6, b"\x08"), Error::Permissions(8)),
            (change(16, b"\xff\xff\xff\xff"), Error::UnmappedId("user")),
            (
                change(12, b"\x08\0\x06\0\xff\xff\xff\xff"),
                Error::UnmappedId("group"),
            ),
            (change(28, b"\x20"), Error::Duplicate("other::".to_owned())),
        ] {
            assert_eq!(to_text(&raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn the_owning_group_has_what_its_entry_and_the_mask_allow() {
        for (mode, group, expected) in [
            (0o4674, "rx", 0o4654),
            (0o660, "-", 0o600),
            (0o640, "rwx", 0o640),
        ] {
            let text = format!("u::rw,u:5:rwx,g::{group},m::rwx,o::-");
            let raw = from_text(text.as_bytes()).unwrap();
            assert_eq!(class_mode(mode, &raw), expected, "{mode:o} {group}");
        }
        assert_eq!(class_mode(0o664, b"broken"), 0o604);
    }

    #[test]
    fn entries_of_unmapped_ids_are_left_out_and_counted() {
        let unmapped = change(16, b"\xff\xff\xff\xff");
        let (kept, count) = without_unmapped(&unmapped);
        assert_eq!(count, 1);
        assert_eq!(
            to_text(&kept).unwrap(),
            b"user::rwx,group::r-x,mask::rwx,other::r--"
        );
        for raw in [RAW, b"", b"\x02\0\0", &RAW[..43]] {
            assert_eq!(without_unmapped(raw), (raw.to_vec(), 0));
        }
    }

    #[test]
    fn only_an_acl_of_three_entries_says_no_more_than_the_mode() {
        let trivial = |text: &[u8]| is_trivial(&from_text(text).unwrap());
        assert!(trivial(b"user::rwx,group::r-x,other::---"));
        assert!(!trivial(b"user::rwx,group::r-x,mask::r-x,other::---"));
        assert!(!is_trivial(RAW));
        assert!(!is_trivial(b""));
        assert_eq!(
            to_text(&minimal(0o2751)).unwrap(),
            b"user::rwx,group::r-x,other::--x"
        );
    }

    fn any_valid_entries() -> impl Strategy<Value = Vec<Entry>> {
        let named = || prop::collection::btree_map(0..u32::MAX, 0u16..8, 0..6);
        (
            named(),
            named(),
            prop::array::uniform4(0u16..8),
            any::<bool>(),
        )
            .prop_map(
                |(users, groups, [owner, group, mask, other], has_mask): (
                    BTreeMap<_, _>,
                    BTreeMap<_, _>,
                    _,
                    _,
                )| {
                    let mut entries = vec![(Qualifier::Owner, owner)];
                    let needs_mask = has_mask || !users.is_empty() || !groups.is_empty();
                    entries.extend(
                        users
                            .into_iter()
                            .map(|(id, permissions)| (Qualifier::User(id), permissions)),
                    );
                    entries.push((Qualifier::OwningGroup, group));
                    entries.extend(
                        groups
                            .into_iter()
                            .map(|(id, permissions)| (Qualifier::Group(id), permissions)),
                    );
                    entries.extend(needs_mask.then_some((Qualifier::Mask, mask)));
                    entries.push((Qualifier::Other, other));
                    entries
                },
            )
    }

    proptest! {
        #[test]
        fn every_valid_acl_survives_the_archive(entries in any_valid_entries()) {
            let raw = encode(&entries);
            prop_assert_eq!(from_text(&to_text(&raw).unwrap()).unwrap(), raw);
        }

        #[test]
        fn no_text_and_no_value_brings_it_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = to_text(&bytes);
            let _ = from_text(&bytes);
        }

        #[test]
        fn what_is_read_from_text_is_written_the_same(text in "((u|user|g|group|m|o|other):(|[0-9]{1,4}|x):[rwx-]{0,3}(:[0-9]{0,3})?[,\n#]){0,7}") {
            if let Ok(raw) = from_text(text.as_bytes()) {
                prop_assert_eq!(from_text(&to_text(&raw).unwrap()).unwrap(), raw);
            }
        }
    }
}
