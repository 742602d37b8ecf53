//! The uid of the user that sbuild builds as in unshare mode. Pure: the chroot's files in, numbers
//! out.
//!
//! Both versions of sbuild ensure that the chroot has a user `sbuild` (`Sbuild/ChrootSetup.pm`,
//! `basesetup`). An existing user keeps its uid. Otherwise the host's `useradd --system` creates it
//! from the chroot's passwd and login.defs (0.85 with `--root`, 0.89 with `--prefix`). Then they do
//! the same for the user that the build runs as (`BUILD_USER` in `Sbuild/ConfBase.pm`): 0.89 uses
//! `sbuild` again, 0.85 a user named like the caller of sbuild, unless `$build_user` is set. No uid
//! depends on the gid of the group `sbuild`, so the chroot's group file does not matter here.
//!
//! `useradd` of shadow 4.13 and 4.17 (`find_new_uid.c`, measured too) does not simply use the
//! highest free system uid: it starts right below the lowest one in use. If the chroot has a system
//! user 105, `sbuild` gets 104 although 999 is free.

use std::collections::BTreeSet;

/// The uids in a chroot, as seen inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildUsers {
    /// The user `sbuild`, as which sbuild 0.89 builds.
    pub sbuild: u32,
    /// The user named like the caller, as which sbuild 0.85 builds. `None` for a caller without a
    /// name, for whom 0.85 does not run.
    pub caller: Option<u32>,
}

/// A reason why sbuild cannot create its user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The range of system uids is empty.
    #[error(
        "its etc/login.defs leaves no uids for system users (SYS_UID_MIN is {min}, SYS_UID_MAX {max}): sbuild cannot make its user there"
    )]
    NoRange {
        /// The lowest.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// All system uids are in use.
    #[error(
        "its etc/passwd uses all uids for system users from {min} to {max}: sbuild cannot make its user there"
    )]
    Full {
        /// The lowest.
        min: u32,
        /// The highest.
        max: u32,
    },
}

/// The uids in a chroot with this `etc/passwd` and this `etc/login.defs` (empty if missing), for a
/// caller with this login name.
pub fn build_users(
    passwd: &[u8],
    login_defs: &[u8],
    caller: Option<&[u8]>,
) -> Result<BuildUsers, Error> {
    let users: Vec<(&[u8], u32)> = passwd
        .split(|byte| *byte == b'\n')
        .filter_map(user)
        .collect();
    let mut used: BTreeSet<u32> = users.iter().map(|(_, uid)| *uid).collect();
    let range = system_range(login_defs);
    let mut uid = |name: &[u8]| match users.iter().find(|(user, _)| *user == name) {
        Some((_, uid)) => Ok(*uid),
        None => {
            let uid = next_system_uid(&used, range)?;
            used.insert(uid);
            Ok(uid)
        }
    };
    let sbuild = uid(b"sbuild")?;
    let caller = match caller {
        Some(b"sbuild") => Some(sbuild),
        Some(name) => Some(uid(name)?),
        None => None,
    };
    Ok(BuildUsers { sbuild, caller })
}

/// Name and uid of a line of passwd(5); `None` for a line that its readers skip.
fn user(line: &[u8]) -> Option<(&[u8], u32)> {
    let mut fields = line.split(|byte| *byte == b':');
    let (name, uid) = (fields.next()?, fields.nth(1)?);
    let is_whole = fields.count() == 4;
    let is_number = !uid.is_empty() && uid.iter().all(u8::is_ascii_digit);
    let uid = std::str::from_utf8(uid).ok()?.parse().ok()?;
    (is_whole && is_number && !name.is_empty()).then_some((name, uid))
}

/// The range of uids for system users by login.defs(5), both ends included.
fn system_range(login_defs: &[u8]) -> (u32, u32) {
    let min = setting(login_defs, b"SYS_UID_MIN").unwrap_or(101);
    let max = setting(login_defs, b"SYS_UID_MAX");
    let max = max.unwrap_or_else(|| {
        setting(login_defs, b"UID_MIN")
            .unwrap_or(1000)
            .saturating_sub(1)
    });
    (min, max)
}

/// The number in the last line for `name`; `None` without such a line or if the value is not a
/// number, which useradd skips as well.
fn setting(login_defs: &[u8], name: &[u8]) -> Option<u32> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = |line: &'_ [u8]| -> Option<Vec<u8>> {
        let (key, rest) = {
            let line = line.trim_ascii();
            line.split_at_checked(line.iter().position(blank)?)?
        };
        let start = rest.iter().position(|byte| !blank(byte) && *byte != b'"')?;
        let value = rest.get(start..)?.split(|byte| *byte == b'"').next()?;
        (key == name).then(|| value.to_vec())
    };
    let last = login_defs
        .split(|byte| *byte == b'\n')
        .filter_map(value)
        .next_back()?;
    number(std::str::from_utf8(&last).ok()?)
}

/// A number as strtoul(3) reads it with base 0: decimal, octal after `0`, hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    u32::from_str_radix(digits, radix).ok()
}

/// The uid that `useradd --system` assigns: the first free one downwards from right below the
/// lowest in use, otherwise downwards from the highest.
fn next_system_uid(used: &BTreeSet<u32>, (min, max): (u32, u32)) -> Result<u32, Error> {
    // useradd never assigns the uid of root.
    let range = min.max(1)..=max;
    if range.is_empty() {
        return Err(Error::NoRange { min, max });
    }
    let is_free = |uid: &u32| !used.contains(uid) && !matches!(*uid, 0xffff | u32::MAX);
    let below_lowest = used
        .range(range.clone())
        .next()
        .map(|lowest| *range.start()..*lowest);
    let low = below_lowest.and_then(|mut below| below.rfind(is_free));
    low.or_else(|| range.clone().rfind(is_free))
        .ok_or(Error::Full {
            min: *range.start(),
            max,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn passwd(users: &[(&str, u32)]) -> Vec<u8> {
        let line = |(name, uid): &(&str, u32)| {
            format!("{name}:x:{uid}:65534::/nonexistent:/usr/sbin/nologin\n")
        };
        users.iter().map(line).collect::<String>().into_bytes()
    }

    fn uids(users: &[(&str, u32)], login_defs: &str) -> Result<(u32, u32), Error> {
        let found = build_users(&passwd(users), login_defs.as_bytes(), Some(b"joe"))?;
        Ok((found.sbuild, found.caller.unwrap()))
    }

    // Each row was measured with `useradd --prefix` of shadow 4.13; tests/suite/grant_acl.rs
    // repeats the measurement.
    #[test]
    fn the_uids_are_those_that_useradd_gives() {
        let usual = [("root", 0), ("_apt", 42), ("nobody", 65534)];
        let with = |more: &[(&'static str, u32)]| [&usual[..], more].concat();
        for (users, login_defs, expected) in [
            (with(&[]), "", (999, 998)),
            (
                with(&[]),
                "UID_MIN\t\t\t 1000\n#SYS_UID_MAX\t\t  999\n",
                (999, 998),
            ),
            (with(&[("a", 999)]), "", (998, 997)),
            (with(&[("a", 997)]), "", (996, 995)),
            (with(&[("a", 105)]), "", (104, 103)),
            (with(&[("a", 102)]), "", (101, 999)),
            (with(&[("a", 101), ("b", 999)]), "", (998, 997)),
            (with(&[("a", 100)]), "", (999, 998)),
            (with(&[("sbuild", 120)]), "", (120, 119)),
            (with(&[("sbuild", 2000)]), "", (2000, 999)),
            (with(&[("joe", 1000)]), "", (999, 1000)),
            (with(&[("sbuild", 5), ("joe", 6)]), "", (5, 6)),
            (with(&[]), "SYS_UID_MAX 500\n", (500, 499)),
            (with(&[]), "SYS_UID_MAX 500\nSYS_UID_MAX 400", (400, 399)),
            (with(&[]), "UID_MIN 500\n", (499, 498)),
            (
                with(&[("a", 400)]),
                "SYS_UID_MIN 400\nSYS_UID_MAX 500\n",
                (500, 499),
            ),
            (with(&[]), "  SYS_UID_MAX \"0x1F0\" junk\n", (496, 495)),
            (with(&[]), "SYS_UID_MAX 0700\n", (448, 447)),
            (with(&[]), "SYS_UID_MAX 500 # see below\n", (999, 998)),
            (with(&[]), "SYS_UID_MAX\n", (999, 998)),
        ] {
            assert_eq!(
                uids(&users, login_defs),
                Ok(expected),
                "{users:?} {login_defs:?}"
            );
        }
    }

    #[test]
    fn lines_that_are_no_users_are_passed_over() {
        let text =
            b"sbuild:x:120\n:x:121:1::/:\n+::::::\nx:x:-5:1::/:\nx:x:105:1::/:/bin/sh:more\n\xff:x:300:1::/:/bin/sh";
        assert_eq!(
            build_users(text, b"", None),
            Ok(BuildUsers {
                sbuild: 299,
                caller: None
            })
        );
    }

    #[test]
    fn a_caller_named_sbuild_is_the_user_sbuild() {
        assert_eq!(
            build_users(b"", b"", Some(b"sbuild")),
            Ok(BuildUsers {
                sbuild: 999,
                caller: Some(999)
            })
        );
    }

    #[test]
    fn a_chroot_without_room_is_refused_with_the_range() {
        assert_eq!(
            uids(&[], "SYS_UID_MIN 600\nSYS_UID_MAX 500\n"),
            Err(Error::NoRange { min: 600, max: 500 })
        );
        assert_eq!(
            uids(&[("a", 5)], "SYS_UID_MIN 5\nSYS_UID_MAX 5\n"),
            Err(Error::Full { min: 5, max: 5 })
        );
        assert_eq!(
            uids(&[], "SYS_UID_MIN 0\nSYS_UID_MAX 0\n"),
            Err(Error::NoRange { min: 0, max: 0 })
        );
        assert_eq!(
            uids(&[], "SYS_UID_MIN 65535\nSYS_UID_MAX 65535\n"),
            Err(Error::Full {
                min: 65535,
                max: 65535
            })
        );
    }
}
