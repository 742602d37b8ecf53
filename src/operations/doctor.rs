//! Can this machine and user build rootless?

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::doctor::probe::{self, PROBES, Probe};
use crate::doctor::{self, Finding, Machine, State};
use crate::error::{Error, ErrorKind, Escaped, PathContext, bytes};
use crate::ids::subid_files::SubidFiles;
use crate::observer::Observer;
use crate::userns::{self, HeldSignals, Isolation, SignalPolicy, Supervision, id_programs};
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

/// A probe that failed, with its errno.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Failure(Probe, i32);

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
        let machine = Machine {
            sysctls: "/proc/sys".into(),
            search: id_programs::search(),
            source: SubidFiles::default(),
            account: self.session.account()?,
            layout: self.session.layout,
            dir: self.directory.clone(),
        };
        let mut findings = doctor::examine(&machine);
        findings.extend(self.try_out(observer)?);
        Ok(findings)
    }

    /// What the namespace and the directory can do, as far as there is a namespace.
    fn try_out(&self, observer: &mut dyn Observer) -> Result<Vec<Finding>, Error> {
        // The reason why there are no maps has been found already.
        let Ok(namespaces) = self.session.namespaces(&mut ()) else {
            return Ok(Vec::new());
        };
        let shown = Escaped(self.directory.as_os_str().as_encoded_bytes()).to_string();
        let held = HeldSignals::new();
        let scratch = match &held {
            Ok(_) => WorkDir::temporary(&self.directory, ".isar-tarball-doctor", &namespaces),
            Err(_) => return Ok(Vec::new()),
        };
        let scratch = match scratch {
            Ok(scratch) => scratch,
            Err(error) if error.kind() == ErrorKind::Namespace => {
                return Ok(vec![unusable(&error)]);
            }
            Err(error) => {
                let found = format!("nothing can be tried in {shown}: {error}");
                let remedy = "give a directory that the caller may write to";
                return Ok(vec![Finding::bad("scratch", State::Fault, found, remedy)]);
            }
        };
        let tried = try_in(&scratch, &namespaces, observer);
        let removed = scratch.remove();
        let mut findings = match tried {
            Ok(failures) => {
                let failure = |probe| {
                    let failed = failures.iter().find(|Failure(failed, _)| *failed == probe);
                    failed.map(|Failure(_, errno)| io::Error::from_raw_os_error(*errno))
                };
                let namespace = match namespaces.work {
                    Isolation::None => None,
                    Isolation::Namespace(_) => {
                        Some(Finding::good("user-namespace", "can be entered"))
                    }
                };
                let probes =
                    PROBES.map(|probe| probe::finding(probe, failure(probe).as_ref(), &shown));
                namespace.into_iter().chain(probes).collect()
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => vec![unusable(&error)],
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
}

/// Tries all in the scratch directory, in the namespace.
fn try_in(
    scratch: &WorkDir<'_>,
    namespaces: &Namespaces,
    observer: &mut dyn Observer,
) -> Result<Vec<Failure>, Error> {
    let path = scratch.working_path();
    userns::supervise(
        Supervision {
            signals: SignalPolicy::Pass,
            ..Supervision::of_work(&namespaces.work, observer)
        },
        |(), _| Ok(().into()),
        || reopen(&path),
        |caller, opened| {
            let failures = probe::all(opened.as_fd(), caller);
            Ok(failures
                .into_iter()
                .map(|(probe, error)| Failure(probe, error.raw_os_error().unwrap_or(libc::EIO)))
                .collect())
        },
    )
}

/// In the new mount namespace: an overlay takes no descriptor from another one.
fn reopen(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty()).at(bytes(path), "open")?)
}

/// The finding of a namespace that cannot be entered.
fn unusable(error: &Error) -> Finding {
    let text = error.to_string();
    let found = text
        .strip_prefix("cannot enter a user namespace: ")
        .unwrap_or(&text);
    Finding {
        name: "user-namespace",
        state: State::Fault,
        found: format!("cannot be entered: {found}"),
        remedy: None,
    }
}
