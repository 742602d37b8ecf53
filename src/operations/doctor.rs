//! Can this machine and user build rootless?

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::session::Session;
use crate::doctor::probe::{self, Failure, PROBES, Place, Probe};
use crate::doctor::{self, Finding, Machine, State};
use crate::error::{Error, ErrorKind, PathContext, bytes};
use crate::imager::cache::CacheLimit;
use crate::observer::Observer;
use crate::userns::{self, HeldSignals, Isolation, SignalPolicy, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::directory::WorkDir;

/// Examines the machine.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// The user namespace.
    pub session: Session,
    /// A directory of the file system where trees are going to be.
    pub directory: PathBuf,
}

impl Doctor {
    /// Examines the machine for work in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Doctor {
        Doctor {
            session: Session::default(),
            directory: directory.into(),
        }
    }

    /// Reads settings, and tries out what only trying tells in a scratch directory, which is
    /// removed again.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Vec<Finding>, Error> {
        let account = self.session.account()?;
        let machine = Machine::new(account, self.session.layout, self.directory.clone());
        let mut findings = doctor::examine(&machine);
        findings.extend(self.try_out(&machine, &findings, observer)?);
        findings.push(cache(CacheLimit::default()));
        Ok(findings)
    }

    /// What the namespace and the directory can do, as far as there is a namespace.
    fn try_out(
        &self,
        machine: &Machine,
        known: &[Finding],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Finding>, Error> {
        // The reason why there are no maps has been found already.
        let Ok(namespaces) = self.session.namespaces(&mut ()) else {
            return Ok(Vec::new());
        };
        let root = match &namespaces.work {
            Isolation::None => 0,
            Isolation::Namespace(maps) => maps.uids.to_outer(0).unwrap_or_default(),
        };
        let place = Place::new(&self.directory, &machine.sysctls, root);
        let held = HeldSignals::new();
        let scratch = match &held {
            Ok(_) => WorkDir::temporary(&self.directory, ".isar-tarball-doctor", &namespaces),
            Err(_) => return Ok(Vec::new()),
        };
        let scratch = match scratch {
            Ok(scratch) => scratch,
            Err(error) => {
                return Ok(vec![not_tried(&error, &place, known)]);
            }
        };
        let tried = self.try_in(&scratch, &namespaces, observer);
        let removed = scratch.remove();
        let mut findings: Vec<Finding> = match tried {
            Ok(failures) => {
                let namespace = match namespaces.work {
                    Isolation::None => None,
                    Isolation::Namespace(_) => {
                        Some(Finding::good("user-namespace", "can be entered"))
                    }
                };
                // Without the right to mount there is nothing to learn about mounts.
                let tells = |probe: &Probe| {
                    !machine.lacks_admin
                        || !matches!(probe, Probe::Overlay | Probe::Proc | Probe::Calls)
                };
                let probes = PROBES.into_iter().filter(tells);
                let probes = probes.map(|probe| probe::finding(probe, &failures, &place));
                namespace.into_iter().chain(probes).collect()
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                vec![unusable(&error, known)]
            }
        };
        if let Err(error) = removed {
            let remedy = "remove it, and look for what keeps it";
            findings.push(Finding::bad(
                "scratch",
                State::Fault,
                error.to_string(),
                remedy,
            ));
        }
        Ok(findings)
    }

    /// Tries all in the scratch directory, in the namespace.
    fn try_in(
        &self,
        scratch: &WorkDir<'_>,
        namespaces: &Namespaces,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Failure>, Error> {
        let path = scratch.working_path();
        let above = self.directory.canonicalize();
        let above = above.at(bytes(&self.directory), "find its absolute path")?;
        userns::supervise(
            Supervision {
                signals: SignalPolicy::Pass,
                ..Supervision::of_work(&namespaces.work, observer)
            },
            |(), _| Ok(().into()),
            || reopen(&path),
            |caller, opened| Ok(probe::all(opened.as_fd(), &above, caller)),
        )
    }
}

/// The default limits of a cache.
fn cache(limit: CacheLimit) -> Finding {
    let limits = [
        limit.bytes.map(|bytes| format!("{} GiB", bytes >> 30)),
        limit.copies.map(|copies| format!("{copies} copies")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let limits = limits.join(" and ");
    let text = format!("imager --cache keeps up to {limits} (--cache-limit, --cache-copies)");
    Finding::good("imager-cache", text)
}

/// The finding of a directory in which nothing can be tried.
fn not_tried(error: &Error, place: &Place, known: &[Finding]) -> Finding {
    let remedy = match error.kind() {
        ErrorKind::Namespace => return unusable(error, known),
        // The message has it.
        ErrorKind::Unsupported => None,
        _ => Some("give a directory that the caller may write to".to_owned()),
    };
    Finding {
        name: "scratch",
        state: State::Fault,
        found: format!("nothing can be tried in {}: {error}", place.shown),
        remedy,
    }
}

/// In the new mount namespace: an overlay takes no descriptor from another one.
fn reopen(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty()).at(bytes(path), "open")?)
}

/// The finding of a namespace that cannot be entered. A reason that is known already is not
/// repeated.
fn unusable(error: &Error, known: &[Finding]) -> Finding {
    let text = error.to_string();
    let why = text
        .split_once("cannot enter a user namespace: ")
        .map_or(text.as_str(), |(_, why)| why);
    let is_known = known
        .iter()
        .any(|finding| finding.state == State::Fault && why.contains(&finding.found));
    Finding {
        name: "user-namespace",
        state: State::Fault,
        found: match is_known {
            true => "cannot be entered, for a reason above".to_owned(),
            false => format!("cannot be entered: {why}"),
        },
        remedy: None,
    }
}
