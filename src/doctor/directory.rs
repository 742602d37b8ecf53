//! The directory in which trees will be created: its mount, and who can reach it.

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::{Finding, Machine, State, shown};
use crate::error::describe;
use crate::ids::Layout;
use crate::workdir::trust::is_open_to_others;

pub fn check(machine: &Machine) -> Vec<Finding> {
    let dir = &machine.dir;
    let path = shown(dir);
    let flags = match statvfs(dir) {
        Ok(found) => found.f_flag,
        Err(error) => {
            return vec![Finding::bad(
                "nosuid",
                State::Fault,
                format!("{path}: {}", describe(&error.into())),
                "use an existing directory",
            )];
        }
    };
    let mount = |name, flag, option: &str, good: &str, bad: &str| match flags.contains(flag) {
        true => Finding::bad(
            name,
            State::Fault,
            format!("{path} lies on a mount with {name}: {bad} there"),
            format!(
                "build elsewhere, or as root, run `mount -o remount,{option}` on what `findmnt -T {path}` shows"
            ),
        ),
        false => Finding::good(name, format!("{good} in {path}")),
    };
    let mut findings = vec![
        mount(
            "nosuid",
            StatVfsMountFlags::NOSUID,
            "suid",
            "setuid programs work",
            "setuid programs and file capabilities of a chroot have no effect",
        ),
        mount(
            "noexec",
            StatVfsMountFlags::NOEXEC,
            "exec",
            "programs can be run",
            "no program of a chroot can be run",
        ),
    ];
    findings.extend(setuid(machine));
    findings
}

/// Setuid files of a tree belong to its root, who is the caller in id layout `caller`, and
/// otherwise the first subordinate id, which owns all other trees of the caller.
fn setuid(machine: &Machine) -> Option<Finding> {
    let account = machine.account.as_ref()?;
    let path = shown(&machine.dir);
    if !is_open_to_others(&machine.dir) {
        let found = format!("other users cannot enter {path}");
        return Some(Finding::good("setuid", found));
    }
    let (layout, owner, or_else) = match machine.layout {
        Layout::Caller => ("caller", account.to_string(), ", or use id layout subid"),
        Layout::Subid => ("subid", format!("root of {account}'s other trees"), ""),
    };
    Some(Finding::bad(
        "setuid",
        State::Worse,
        format!(
            "in id layout {layout}, setuid files of trees in {path} run as {owner} for every user of this machine"
        ),
        format!("run `chmod o-x` on {path} or a directory above it{or_else}"),
    ))
}
