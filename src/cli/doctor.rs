//! `isar-tarball doctor`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use isar_tarball::doctor::probe::{self, PROBES, Probe};
use isar_tarball::doctor::{self, Finding, Machine, State};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::ids::SubidFiles;
use isar_tarball::remove;
use isar_tarball::userns::{self, Isolation, Outcome, handover, supervise_command};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use serde_json::json;

use super::report::{self, Status};
use super::{Globals, place};

/// Say whether this machine and user can build rootless, and what helps
///
/// Looks at user namespaces, newuidmap and newgidmap, subordinate ids, and what file systems and
/// mounts can do. Some of it is tried in a scratch directory in DIR, which is removed again.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball doctor build/tmp

Exit status: 0 when all is well or only slower, 1 when something is missing.")]
pub struct Args {
    /// Where trees are going to be
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print as JSON: {"ok": BOOL, "findings": [{"name": NAME, "state": "ok"|"warning"|"fault",
    /// "found": TEXT, "remedy": TEXT or null}, …]}
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let machine = Machine {
        sysctls: "/proc/sys".into(),
        search: userns::search_path(),
        source: SubidFiles::default(),
        account: place::account(&globals.userns)?,
        layout: globals.id_layout.into(),
        dir: args.dir.clone(),
    };
    let mut findings = doctor::examine(&machine);
    findings.extend(try_out(&machine, globals));
    let ok = findings.iter().all(|finding| finding.state < State::Fault);
    let text = if args.json {
        format!("{:#}\n", as_json(&findings, ok))
    } else {
        for_people(&findings, globals)
    };
    report::result(&text)?;
    Ok(if ok { Status::Done } else { Status::No })
}

/// What the namespace and the directory can do, as far as there is a namespace.
fn try_out(machine: &Machine, globals: &Globals) -> Vec<Finding> {
    // Why there are no maps has been found already.
    let quiet = Globals {
        quiet: true,
        ..globals.clone()
    };
    let Ok(place) = place::place(&quiet) else {
        return Vec::new();
    };
    let dir = Escaped(machine.dir.as_os_str().as_encoded_bytes()).to_string();
    let scratch = match Scratch::new(machine, &place) {
        Ok(scratch) => scratch,
        Err(error) if error.is::<handover::Error>() => {
            let remedy = "see above; else allow unprivileged user namespaces";
            return vec![Finding::bad(
                "user-namespace",
                State::Fault,
                error.root_cause().to_string(),
                remedy,
            )];
        }
        Err(error) => {
            let found = format!("nothing can be tried in {dir}: {error:#}");
            return vec![Finding::bad(
                "scratch",
                State::Fault,
                found,
                "give a directory that the caller may write to",
            )];
        }
    };
    let mut failures: Vec<(Probe, io::Error)> = Vec::new();
    let mut current = None;
    let outcome = supervise_command(
        &place,
        |request| {
            // Two messages a failure: which, and the number of its error.
            match current.take() {
                None => current = PROBES.get(usize::from(request)).copied(),
                Some(probe) => failures.push((probe, io::Error::from_raw_os_error(request.into()))),
            }
            Ok(())
        },
        || scratch.reopen(machine),
        |outside, opened| {
            let Ok(opened) = opened else {
                return Status::Failed.code();
            };
            probe::all(opened.as_fd(), |probe, error| {
                let number = PROBES
                    .iter()
                    .position(|other| *other == probe)
                    .unwrap_or_default();
                let errno = error
                    .raw_os_error()
                    .and_then(|errno| u8::try_from(errno).ok())
                    .unwrap_or(libc::EIO as u8);
                _ = outside.ask(number as u8).and_then(|()| outside.ask(errno));
            });
            // Whoever made it takes it away again.
            _ = remove::contents(
                opened.as_fd(),
                &remove::Options {
                    threads: 1,
                    dry_run: false,
                    take_group: false,
                },
            );
            Status::Done.code()
        },
    );
    let mut findings = Vec::new();
    match outcome {
        Ok(Outcome::Exited(0)) => {
            if let Isolation::Namespace(_) = place {
                findings.push(Finding::good("user-namespace", "can be entered"));
            }
            let failure = |probe| {
                failures
                    .iter()
                    .find(|(failed, _)| *failed == probe)
                    .map(|(_, error)| error)
            };
            findings.extend(PROBES.map(|probe| probe::finding(probe, failure(probe), &dir)));
        }
        Ok(_) => findings.push(Finding::bad(
            "user-namespace",
            State::Fault,
            "the trial ended early",
            "run it again",
        )),
        Err(error) => {
            let text = error.to_string();
            let (found, remedy) = text
                .split_once(": ")
                .map_or((text.as_str(), ""), |(_, rest)| ("cannot be entered", rest));
            findings.push(Finding::bad("user-namespace", State::Fault, found, remedy));
        }
    }
    findings
}

/// A directory of the namespace's root in the caller's, gone at the end.
struct Scratch<'a> {
    dir: OwnedFd,
    name: String,
    scratch: OwnedFd,
    place: &'a Isolation,
}

impl<'a> Scratch<'a> {
    fn new(machine: &Machine, place: &'a Isolation) -> anyhow::Result<Scratch<'a>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let io = |error: rustix::io::Errno| anyhow::anyhow!("{}", describe(&error.into()));
        let dir = openat(CWD, &machine.dir, flags, Mode::empty()).map_err(io)?;
        let name = format!(".isar-tarball-doctor-{}", std::process::id());
        mkdirat(&dir, &name, Mode::RWXU | Mode::XGRP | Mode::XOTH).map_err(io)?;
        let opened = openat(&dir, &name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(io);
        let scratch = opened.inspect_err(|_| _ = unlinkat(&dir, &name, AtFlags::REMOVEDIR))?;
        let scratch = Scratch {
            dir,
            name,
            scratch,
            place,
        };
        if let Isolation::Namespace(maps) = place {
            handover::to_root(scratch.scratch.as_fd(), maps)?;
        }
        Ok(scratch)
    }

    /// In the new mount namespace: an overlay takes no descriptor from another one.
    fn reopen(&self, machine: &Machine) -> rustix::io::Result<OwnedFd> {
        let path = machine.dir.join(&self.name);
        openat(
            CWD,
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if let Isolation::Namespace(maps) = self.place {
            _ = handover::to_caller(self.scratch.as_fd(), maps);
        }
        _ = remove::contents(
            self.scratch.as_fd(),
            &remove::Options {
                threads: 1,
                dry_run: false,
                take_group: false,
            },
        );
        _ = unlinkat(&self.dir, &self.name, AtFlags::REMOVEDIR);
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Good => "ok",
        State::Worse => "warning",
        State::Fault => "fault",
    }
}

fn for_people(findings: &[Finding], globals: &Globals) -> String {
    let mut text = String::new();
    for finding in findings
        .iter()
        .filter(|finding| !globals.quiet || finding.state != State::Good)
    {
        let remedy = finding
            .remedy
            .as_ref()
            .map(|remedy| format!("; {remedy}"))
            .unwrap_or_default();
        text += &format!(
            "{:<8} {:<17} {}{remedy}\n",
            state(finding.state),
            finding.name,
            finding.found
        );
    }
    text
}

fn as_json(findings: &[Finding], ok: bool) -> serde_json::Value {
    let each = |finding: &Finding| json!({"name": finding.name, "state": state(finding.state), "found": finding.found, "remedy": finding.remedy});
    json!({"ok": ok, "findings": findings.iter().map(each).collect::<Vec<_>>()})
}
