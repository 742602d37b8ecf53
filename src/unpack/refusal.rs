//! What of a member decides alone whether it can be unpacked. `check` asks the same code.

use super::Xattrs;
use super::attributes::Attributes;
use super::error::Refusal;
use super::names;
use crate::archive::reader::Member;
use crate::entry::Kind;
use crate::ids::IdMaps;

/// The reason why a member cannot be unpacked with default options in a namespace with these maps,
/// whatever the other members are.
pub fn refusal(member: &Member, maps: &IdMaps) -> Option<Refusal> {
    check(member, maps).err()
}

fn check(member: &Member, maps: &IdMaps) -> Result<(), Refusal> {
    let (entry, rules) = (&member.entry, names::Rules::default());
    let path = rules.path(&entry.path).map_err(Refusal::Name)?;
    if path.is_some_and(|path| path.is_empty()) {
        must_be_directory(&entry.kind)?;
    }
    match &entry.kind {
        Kind::HardLink { target } => link_target(target, &rules).map(drop),
        // Skipped.
        kind if kind.is_device() => Ok(()),
        _ => Attributes::of(entry, maps, Xattrs::All).map(drop),
    }
}

/// Checks the kind of the member that is the target directory itself.
pub fn must_be_directory(kind: &Kind) -> Result<(), Refusal> {
    match kind {
        Kind::Directory => Ok(()),
        _ => Err(Refusal::Root),
    }
}

/// The path of a hard link's target below the target directory.
pub fn link_target(target: &[u8], rules: &names::Rules) -> Result<Vec<u8>, Refusal> {
    let path = rules.path(target).map_err(|cause| Refusal::TargetName {
        target: target.to_vec(),
        cause,
    })?;
    path.ok_or_else(|| Refusal::Target {
        target: target.to_vec(),
    })
}
