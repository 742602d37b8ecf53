//! Checks whether this machine and user can build rootless. Each check has a result and a remedy.
//!
//! [`examine`] reads settings and files. [`probe`] tries the rest in a namespace and a scratch
//! directory.

mod binfmt;
mod directory;
pub mod probe;
mod subordinate;

use std::path::{Path, PathBuf};

use crate::error::Escaped;
use crate::ids::{Account, IdKind, Layout, SubidFiles};
use crate::userns::Powerless;
use crate::userns::diagnosis::{self, Sysctls};
use crate::userns::id_programs::{self, find, why_powerless, why_refused};

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

    /// The fault that an error message describes, whose remedy is behind the last colon; `usual` is
    /// that of a message without one.
    fn of_message(name: &'static str, message: &str, usual: &str) -> Finding {
        let (found, remedy) = message.rsplit_once(": ").unwrap_or((message, usual));
        Finding::bad(name, State::Fault, found, remedy)
    }
}

/// Inputs of the checks.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/proc/sys`.
    pub sysctls: PathBuf,
    /// True if this process is root of its user namespace without CAP_SYS_ADMIN.
    pub lacks_admin: bool,
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

impl Machine {
    /// This machine, for work of `account` in `dir`.
    pub fn new(account: Option<Account>, layout: Layout, dir: PathBuf) -> Machine {
        Machine {
            sysctls: "/proc/sys".into(),
            lacks_admin: rustix::process::geteuid().is_root() && !diagnosis::has_admin(),
            search: id_programs::search(),
            source: SubidFiles::default(),
            account,
            layout,
            dir,
        }
    }
}

/// Checks settings and files.
pub fn examine(machine: &Machine) -> Vec<Finding> {
    let sysctls = Sysctls::read(&machine.sysctls);
    let mut findings = limits(&sysctls, machine.account.is_some());
    if let Some(account) = &machine.account {
        findings.push(apparmor(&sysctls));
        for kind in [IdKind::User, IdKind::Group] {
            findings.push(id_program(kind, &machine.search));
        }
        findings.extend(subordinate::check(machine, account));
    } else {
        findings.push(no_namespace(machine.lacks_admin));
    }
    findings.extend(directory::check(machine));
    findings.push(binfmt::check(&machine.sysctls));
    findings.push(program("sbuild", "sbuild", &machine.search));
    // sbuild needs it to set up the loopback device; without it, each build fails at its first
    // command.
    findings.push(program("ip", "iproute2", &machine.search));
    findings.push(program("mmdebstrap", "mmdebstrap", &machine.search));
    findings
}

/// Root works in the user namespace in which it is; commands need further namespaces.
fn no_namespace(lacks_admin: bool) -> Finding {
    match diagnosis::NO_ADMIN.split_once(": ") {
        Some((found, remedy)) if lacks_admin => Finding::bad(
            "user-namespace",
            State::Fault,
            format!("{found}, so it can run no command in a chroot"),
            remedy,
        ),
        _ => Finding::good("user-namespace", "not used: root works as it is"),
    }
}

/// The limits on namespaces. Commands run in mount and pid namespaces, root's as well.
fn limits(sysctls: &Sysctls, with_user_namespace: bool) -> Vec<Finding> {
    let user = [
        ("kernel.unprivileged_userns_clone", sysctls.clone, 1),
        ("user.max_user_namespaces", sysctls.max_user, 15000),
    ];
    let every = [
        ("user.max_mnt_namespaces", sysctls.max_mounts, 15000),
        ("user.max_pid_namespaces", sysctls.max_pids, 15000),
    ];
    let mut findings: Vec<Finding> = user
        .into_iter()
        .filter(|_| with_user_namespace)
        .chain(every)
        .filter(|(_, value, _)| *value == Some(0))
        .map(|(name, _, wanted)| {
            let remedy =
                format!("as root, run `sysctl -w {name}={wanted}` and write it to /etc/sysctl.d");
            Finding::bad("sysctls", State::Fault, format!("{name} is 0"), remedy)
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::good("sysctls", "they allow namespaces"));
    }
    findings
}

fn apparmor(sysctls: &Sysctls) -> Finding {
    match sysctls.apparmor {
        // Only a try can tell whether it restricts this program.
        Some(value) if value != 0 => Finding::bad(
            "apparmor",
            State::Worse,
            "kernel.apparmor_restrict_unprivileged_userns is set: programs need a profile that allows user namespaces",
            "as root, run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give isar-tarball, sbuild and mmdebstrap profiles that allow `userns`",
        ),
        _ => Finding::good("apparmor", "does not restrict user namespaces"),
    }
}

fn id_program(kind: IdKind, search: &[PathBuf]) -> Finding {
    let name = id_programs::name(kind);
    let Some(path) = find(name, search) else {
        return Finding::bad(
            name,
            State::Fault,
            "not found",
            "install the package uidmap (shadow-utils elsewhere)",
        );
    };
    // Whether the kernel refuses what a setuid program writes is seen when it is tried.
    let powerless = why_powerless(&path)
        .filter(|why| !matches!(why, Powerless::BoundedSetuid(_)))
        .map(|why| format!("{} {why}", shown(&path)));
    match powerless.or_else(|| why_refused(kind)) {
        None => Finding::good(name, shown(&path)),
        Some(text) => Finding::of_message(name, &text, "reinstall the package uidmap"),
    }
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
