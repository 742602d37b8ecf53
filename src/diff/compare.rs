//! Comparison of two sides. Pure.

use serde::{Deserialize, Serialize};
use std::mem::size_of;

use super::names::{NameId, Names, Twins};
use super::{Facts, FileId, Files};
use crate::acl;
use crate::allowance::{Allowance, Exceeded};
use crate::entry::{Kind, Timestamp, Xattr};
use crate::error::Escaped;

/// Precision of the comparison of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtime {
    /// Not at all.
    #[default]
    Ignored,
    /// By whole seconds, the precision of some archives.
    Seconds,
    /// By nanoseconds.
    Nanoseconds,
}

/// Differences that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Times of the last change.
    pub mtime: Mtime,
    /// Device nodes of a directory that the other side lacks.
    pub devices: bool,
}

/// The property in which two files differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// One side has no file of this name; the value is the type of the other one.
    Presence,
    /// The type of the file. Nothing else is compared then.
    Kind,
    /// Another name of the file: the first one that both sides have.
    HardLink,
    /// Length of a file in bytes. Its content is not compared then.
    Size,
    /// Content of a file; the values are digests.
    Content,
    /// Text of a symbolic link.
    Target,
    /// Major and minor number of a device.
    Device,
    /// Permission bits, in octal.
    Mode,
    /// Owner and group, as numbered inside.
    Owner,
    /// Time of the last change, in seconds since 1970.
    Mtime,
    /// The access ACL.
    AccessAcl,
    /// The default ACL.
    DefaultAcl,
    /// The extended attribute of this name.
    Xattr(Vec<u8>),
}

impl What {
    /// The word for reports, without the name of an attribute.
    pub fn word(&self) -> &'static str {
        match self {
            What::Presence => "presence",
            What::Kind => "kind",
            What::HardLink => "hard link",
            What::Size => "size",
            What::Content => "content",
            What::Target => "target",
            What::Device => "device",
            What::Mode => "mode",
            What::Owner => "owner",
            What::Mtime => "mtime",
            What::AccessAcl => "access ACL",
            What::DefaultAcl => "default ACL",
            What::Xattr(_) => "xattr",
        }
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The path below the root; empty for the root itself.
    pub path: Vec<u8>,
    /// The property.
    pub what: What,
    /// The value in the first side, printable; `None` if it has none.
    pub a: Option<String>,
    /// The value in the second side.
    pub b: Option<String>,
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The differences, by path.
    pub differences: Vec<Difference>,
    /// Device nodes of a directory that the other side lacks and that are not counted.
    pub devices: u64,
}

/// Compares two sides. The differences use up `allowance` too.
pub fn compare(
    a: &Files,
    b: &Files,
    rules: Rules,
    allowance: &Allowance,
) -> Result<Outcome, Exceeded> {
    let mut outcome = Outcome::default();
    let twins = a.names.twins(&b.names);
    let firsts = Firsts::of(a, b, &twins);
    let mut charged = 0;
    let mut charge = |differences: &[Difference]| {
        let new = differences.get(charged..).unwrap_or_default();
        charged = differences.len();
        allowance.take(new.iter().map(Difference::bytes).sum())
    };
    for (name, file) in a.names.iter() {
        match twins.of(name).and_then(|twin| b.names.file(twin)) {
            Some(other) => {
                let common = Common {
                    name,
                    a: (a, file),
                    b: (b, other),
                };
                common.compare(&firsts, rules, &mut outcome);
            }
            None => lone(name, a, file, rules, true, &mut outcome),
        }
        charge(&outcome.differences)?;
    }
    for (name, file) in b.names.iter().filter(|(name, _)| !twins.has(*name)) {
        lone(name, b, file, rules, false, &mut outcome);
        charge(&outcome.differences)?;
    }
    // Differences of the same path stay in the order in which they were found.
    outcome
        .differences
        .sort_by(|one, other| one.path.cmp(&other.path));
    Ok(outcome)
}

impl Difference {
    /// Memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        let values = [&self.a, &self.b].into_iter().flatten();
        size_of::<Difference>() + self.path.len() + values.map(String::len).sum::<usize>()
    }
}

/// For each file the first name, by path, that both sides have. It is a name of the first side.
struct Firsts {
    a: Vec<Option<NameId>>,
    b: Vec<Option<NameId>>,
}

impl Firsts {
    fn of(a: &Files, b: &Files, twins: &Twins) -> Firsts {
        let mut firsts = Firsts {
            a: vec![None; a.files.len()],
            b: vec![None; b.files.len()],
        };
        for (name, here) in a.names.iter() {
            let Some(there) = twins.of(name).and_then(|twin| b.names.file(twin)) else {
                continue;
            };
            for first in [firsts.a.get_mut(here), firsts.b.get_mut(there)] {
                match first {
                    Some(Some(first)) if a.names.path(*first) <= a.names.path(name) => {}
                    Some(first) => *first = Some(name),
                    None => {}
                }
            }
        }
        firsts
    }
}

/// Compares a name that one side lacks.
fn lone(name: NameId, side: &Files, id: FileId, rules: Rules, is_a: bool, outcome: &mut Outcome) {
    let Some(facts) = side.files.get(id) else {
        return;
    };
    if side.is_directory && facts.kind.is_device() && !rules.devices {
        outcome.devices += 1;
        return;
    }
    let kind = Some(facts.kind.name().to_owned());
    let (a, b) = if is_a { (kind, None) } else { (None, kind) };
    outcome.differences.push(Difference {
        path: side.names.path(name),
        what: What::Presence,
        a,
        b,
    });
}

/// A name that both sides have.
struct Common<'a> {
    /// In the first side.
    name: NameId,
    a: (&'a Files, FileId),
    b: (&'a Files, FileId),
}

impl Common<'_> {
    fn compare(&self, firsts: &Firsts, rules: Rules, outcome: &mut Outcome) {
        let ((a, id_a), (b, id_b)) = (self.a, self.b);
        let (Some(facts_a), Some(facts_b)) = (a.files.get(id_a), b.files.get(id_b)) else {
            return;
        };
        let first = |firsts: &[Option<NameId>], id: FileId| {
            firsts.get(id).copied().flatten().unwrap_or(self.name)
        };
        let (first_a, first_b) = (first(&firsts.a, id_a), first(&firsts.b, id_b));
        let mut found = Found {
            names: &a.names,
            name: self.name,
            differences: &mut outcome.differences,
        };
        if first_a != first_b {
            let other = |first: NameId| {
                (first != self.name).then(|| Escaped(&a.names.path(first)).to_string())
            };
            found.add(What::HardLink, other(first_a), other(first_b));
        } else if first_a != self.name {
            // The two files were already compared under their first name.
            return;
        }
        found.compare(facts_a, facts_b, rules);
    }
}

/// Collects the differences of one name.
struct Found<'a> {
    names: &'a Names,
    name: NameId,
    differences: &'a mut Vec<Difference>,
}

impl Found<'_> {
    fn add(&mut self, what: What, a: Option<String>, b: Option<String>) {
        self.differences.push(Difference {
            path: self.names.path(self.name),
            what,
            a,
            b,
        });
    }

    /// Adds a difference if the values differ.
    fn check<T: PartialEq>(&mut self, what: What, a: &T, b: &T, text: impl Fn(&T) -> String) {
        if a != b {
            self.add(what, Some(text(a)), Some(text(b)));
        }
    }

    fn compare(&mut self, a: &Facts, b: &Facts, rules: Rules) {
        if a.kind.name() != b.kind.name() {
            return self.check(What::Kind, &a.kind.name(), &b.kind.name(), |name| {
                name.to_string()
            });
        }
        self.kind(a, b);
        let has_acl = a.access_acl.is_some() || b.access_acl.is_some();
        let mode = |facts: &Facts| facts.mode & if has_acl { !0o070 } else { !0 };
        if !matches!(a.kind, Kind::Symlink { .. }) && mode(a) != mode(b) {
            self.check(What::Mode, &a.mode, &b.mode, |mode| format!("{mode:04o}"));
        }
        self.check(
            What::Owner,
            &(a.uid, a.gid),
            &(b.uid, b.gid),
            |(uid, gid)| format!("{uid}:{gid}"),
        );
        let mtime = |time: Timestamp| match rules.mtime {
            Mtime::Ignored => (0, 0),
            Mtime::Seconds => (time.seconds, 0),
            Mtime::Nanoseconds => (time.seconds, time.nanoseconds),
        };
        if mtime(a.mtime) != mtime(b.mtime) {
            self.check(What::Mtime, &a.mtime, &b.mtime, |time| {
                format!("{}.{:09}", time.seconds, time.nanoseconds)
            });
        }
        self.acl(
            What::AccessAcl,
            a.access_acl.as_deref(),
            b.access_acl.as_deref(),
        );
        self.acl(
            What::DefaultAcl,
            a.default_acl.as_deref(),
            b.default_acl.as_deref(),
        );
        self.xattrs(&a.xattrs, &b.xattrs);
    }

    /// Compares the properties of this type of file.
    fn kind(&mut self, a: &Facts, b: &Facts) {
        match (&a.kind, &b.kind) {
            (Kind::File { size, .. }, Kind::File { size: other, .. }) if size != other => {
                self.check(What::Size, size, other, u64::to_string);
            }
            (Kind::File { .. }, Kind::File { .. }) => {
                self.check(What::Content, &a.digest, &b.digest, |digest| digest.short());
            }
            (Kind::Symlink { target }, Kind::Symlink { target: other }) => {
                self.check(What::Target, target, other, |target| {
                    Escaped(target).to_string()
                });
            }
            (
                Kind::CharDevice { major, minor },
                Kind::CharDevice {
                    major: other_major,
                    minor: other_minor,
                },
            )
            | (
                Kind::BlockDevice { major, minor },
                Kind::BlockDevice {
                    major: other_major,
                    minor: other_minor,
                },
            ) => {
                let text = |(major, minor): &(u32, u32)| format!("{major},{minor}");
                self.check(
                    What::Device,
                    &(*major, *minor),
                    &(*other_major, *other_minor),
                    text,
                );
            }
            _ => {}
        }
    }

    /// ACLs are equal if their kernel forms are: the order of entries in the text does not matter.
    fn acl(&mut self, what: What, a: Option<&[u8]>, b: Option<&[u8]>) {
        let value = |text: Option<&[u8]>| {
            text.map(|text| acl::from_text(text).unwrap_or_else(|_| text.to_vec()))
        };
        if value(a) != value(b) {
            let text = |acl: Option<&[u8]>| acl.map(|acl| Escaped(acl).to_string());
            self.add(what, text(a), text(b));
        }
    }

    fn xattrs(&mut self, a: &[Xattr], b: &[Xattr]) {
        let value = |xattrs: &[Xattr], name: &[u8]| {
            xattrs
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, value)| value.clone())
        };
        let mut names: Vec<&[u8]> = a.iter().chain(b).map(|(name, _)| name.as_slice()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (a, b) = (value(a, name), value(b, name));
            if a != b {
                self.add(
                    What::Xattr(name.to_vec()),
                    a.as_deref().map(shortened),
                    b.as_deref().map(shortened),
                );
            }
        }
    }
}

/// Shortens a long value for a report: its beginning and its length.
fn shortened(value: &[u8]) -> String {
    const MOST: usize = 64;
    match value.get(..MOST) {
        Some(head) if value.len() > MOST => {
            format!("\"{}\"... ({} bytes)", Escaped(head), value.len())
        }
        _ => format!("\"{}\"", Escaped(value)),
    }
}

#[cfg(test)]
mod tests;
