//! Checks whether this machine and user can build rootless. Each check has a result and a remedy.
//!
//! [`examine`] reads settings and files. [`probe`] tries the rest in a namespace and a scratch
//! directory.

pub mod probe;

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::error::{Escaped, describe};
use crate::ids::subid_files::Ranges;
use crate::ids::{Account, IdKind, IdMaps, Layout, Range, SourceError, SubidFiles};
use crate::userns::diagnosis::Sysctls;
use crate::userns::id_programs::{find, why_powerless};

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Good,
    /// Works, but slower or without some feature.
    Worse,
    /// Rootless builds fail.
    Fault,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A short stable name: `newuidmap`.
    pub name: &'static str,
    /// The verdict.
    pub state: State,
    /// The result.
    pub found: String,
    /// The remedy, if there is a problem.
    pub remedy: Option<String>,
}

impl Finding {
    /// A check that passed.
    pub fn good(name: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            name,
            state: State::Good,
            found: found.into(),
            remedy: None,
        }
    }

    /// A check with a problem.
    pub fn bad(
        name: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            name,
            state,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Inputs of the checks.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/proc/sys`.
    pub sysctls: PathBuf,
    /// Directories that are searched for programs.
    pub search: Vec<PathBuf>,
    /// The sources of subordinate ids.
    pub source: SubidFiles,
    /// The user; `None` if no namespace is used.
    pub account: Option<Account>,
    /// The id layout of trees.
    pub layout: Layout,
    /// Directories in which trees will be created.
    pub dir: PathBuf,
}

/// Checks settings and files.
pub fn examine(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(account) = &machine.account {
        findings.extend(namespaces(&Sysctls::read(&machine.sysctls)));
        findings.extend(["newuidmap", "newgidmap"].map(|name| id_program(name, &machine.search)));
        findings.extend(subordinate_ids(machine, account));
    } else {
        findings.push(Finding::good(
            "user-namespace",
            "not used: root works as it is",
        ));
    }
    findings.push(set_id(&machine.dir));
    findings.extend(setuid_to_caller(machine));
    findings.push(program("sbuild", "sbuild", &machine.search));
    // sbuild needs it to set up the loopback device; without it, each build fails at its first
    // command.
    findings.push(program("ip", "iproute2", &machine.search));
    findings.push(program("mmdebstrap", "mmdebstrap", &machine.search));
    findings
}

fn namespaces(sysctls: &Sysctls) -> Vec<Finding> {
    let shut = [
        ("kernel.unprivileged_userns_clone", sysctls.clone, 1),
        ("user.max_user_namespaces", sysctls.max_user, 15000),
        ("user.max_mnt_namespaces", sysctls.max_mounts, 15000),
    ];
    let mut findings: Vec<Finding> = shut
        .into_iter()
        .filter(|(_, value, _)| *value == Some(0))
        .map(|(name, _, wanted)| {
            let remedy =
                format!("as root, run `sysctl -w {name}={wanted}` and write it to /etc/sysctl.d");
            Finding::bad("sysctls", State::Fault, format!("{name} is 0"), remedy)
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::good("sysctls", "they allow user namespaces"));
    }
    findings.push(match sysctls.apparmor {
        // Only a try can tell whether it restricts this program.
        Some(value) if value != 0 => Finding::bad(
            "apparmor",
            State::Worse,
            "kernel.apparmor_restrict_unprivileged_userns is set: programs need a profile that allows user namespaces",
            "as root, run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give isar-tarball, sbuild and mmdebstrap profiles that allow `userns`",
        ),
        _ => Finding::good("apparmor", "does not restrict user namespaces"),
    });
    findings
}

fn id_program(name: &'static str, search: &[PathBuf]) -> Finding {
    match find(name, search) {
        None => Finding::bad(
            name,
            State::Fault,
            "not found",
            "install the package uidmap (shadow-utils elsewhere)",
        ),
        Some(path) => match why_powerless(&path) {
            None => Finding::good(name, shown(&path)),
            Some(why) => {
                let text = why.to_string();
                // The text before the colon is the finding, the text after it the remedy.
                let (found, remedy) = text
                    .split_once(": ")
                    .unwrap_or((&text, "reinstall the package uidmap"));
                Finding::bad(
                    name,
                    State::Fault,
                    format!("{} {found}", shown(&path)),
                    remedy,
                )
            }
        },
    }
}

fn subordinate_ids(machine: &Machine, account: &Account) -> Vec<Finding> {
    let looked_up = machine.source.ranges(account).and_then(|ranges| {
        let maps = machine.source.maps(machine.layout, account, &ranges)?;
        Ok((ranges, maps))
    });
    match looked_up {
        Ok((ranges, maps)) => ranges_found(account, &ranges, &maps, machine.source.free()),
        Err(error) => vec![no_ranges(&error)],
    }
}

fn no_ranges(error: &SourceError) -> Finding {
    let text = error.to_string();
    let (found, remedy) = match text.rsplit_once(": ") {
        Some((found, remedy)) => (found.to_owned(), remedy.to_owned()),
        None => (text, String::from("see subuid(5)")),
    };
    Finding::bad("subordinate-ids", State::Fault, found, remedy)
}

/// Number of ids that a Debian system uses: up to 65535, the one after nobody.
const ENOUGH: u64 = 65536;

fn ranges_found(account: &Account, ranges: &Ranges, maps: &IdMaps, free: Range) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, kind, ranges) in [
        ("subordinate-uids", IdKind::User, &ranges.uids),
        ("subordinate-gids", IdKind::Group, &ranges.gids),
    ] {
        let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
        let list: Vec<String> = ranges
            .iter()
            .map(|Range { base, count }| format!("{base}:{count}"))
            .collect();
        let found = format!("{account} has {}", list.join(", "));
        findings.push(if count >= ENOUGH {
            Finding::good(name, found)
        } else {
            Finding::bad(
                name,
                State::Fault,
                format!("{found}: fewer than {ENOUGH}, so sbuild and mmdebstrap have no nobody and nogroup"),
                format!(
                    "as root, give {account} {ENOUGH} {kind} ids: `usermod --add-sub{}s {}-{} {account}`",
                    kind.short(),
                    free.base,
                    free.end() - 1
                ),
            )
        });
        if maps.of(kind).to_outer(crate::ids::map::NOBODY).is_none() {
            findings.push(Finding::bad(
                "nobody",
                State::Fault,
                format!("the map of {kind} ids has no {}", crate::ids::map::NOBODY),
                format!("give {account} at least 3 subordinate {kind} ids that are offered here"),
            ));
        }
    }
    for line in &ranges.passed_over {
        findings.push(Finding::bad(
            "subordinate-ids",
            State::Worse,
            line.to_string(),
            "correct the line",
        ));
    }
    if !findings.iter().any(|finding| finding.name == "nobody") {
        findings.push(Finding::good("nobody", "65534 is mapped"));
    }
    findings
}

fn set_id(dir: &Path) -> Finding {
    match statvfs(dir) {
        Ok(found) if found.f_flag.contains(StatVfsMountFlags::NOSUID) => Finding::bad(
            "nosuid",
            State::Fault,
            format!(
                "{} lies on a mount with nosuid: setuid programs and file capabilities of a chroot have no effect there",
                shown(dir)
            ),
            format!(
                "build elsewhere, or as root, run `mount -o remount,suid` on what `findmnt -T {}` shows",
                shown(dir)
            ),
        ),
        Ok(_) => Finding::good("nosuid", format!("setuid programs work in {}", shown(dir))),
        Err(error) => Finding::bad(
            "nosuid",
            State::Fault,
            format!("{}: {}", shown(dir), describe(&error.into())),
            "use an existing directory",
        ),
    }
}

/// In id layout `caller`, setuid files of the tree's root belong to the caller.
fn setuid_to_caller(machine: &Machine) -> Option<Finding> {
    machine
        .account
        .as_ref()
        .filter(|_| machine.layout == Layout::Caller)?;
    let is_reachable = |dir: &Path| {
        let mode = |dir: &Path| {
            std::fs::metadata(dir).map(|dir| std::os::unix::fs::MetadataExt::mode(&dir))
        };
        dir.canonicalize().is_ok_and(|dir| {
            dir.ancestors()
                .all(|dir| mode(dir).is_ok_and(|mode| mode & 0o001 != 0))
        })
    };
    Some(if is_reachable(&machine.dir) {
        Finding::bad(
            "setuid-to-caller",
            State::Worse,
            format!(
                "in id layout caller, setuid files of trees in {} run as the caller for every user of this machine",
                shown(&machine.dir)
            ),
            format!(
                "run `chmod o-x` on {} or a directory above it, or use id layout subid",
                shown(&machine.dir)
            ),
        )
    } else {
        Finding::good(
            "setuid-to-caller",
            format!("other users cannot enter {}", shown(&machine.dir)),
        )
    })
}

fn program(name: &'static str, package: &str, search: &[PathBuf]) -> Finding {
    match find(name, search) {
        Some(path) => Finding::good(name, shown(&path)),
        None => Finding::bad(
            name,
            State::Fault,
            "not found",
            format!("install the package {package}"),
        ),
    }
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

#[cfg(test)]
mod tests;
