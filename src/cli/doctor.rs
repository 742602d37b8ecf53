//! `isar-tarball doctor`.

use std::path::PathBuf;

use isar_tarball::{Doctor, Finding, State};
use serde_json::json;

use super::Globals;
use super::observer::Terminal;
use super::report::{self, Status};
use super::values::counted;

/// Check whether this machine and user can build rootless, and what helps
///
/// Looks at user namespaces, newuidmap and newgidmap, subordinate ids, emulators for other
/// architectures, system calls, and what file systems and mounts can do. Some of it is tried in a
/// scratch directory in DIR, which is removed again. The last line is the verdict.
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
    let doctor = Doctor {
        session: globals.session(),
        directory: args.dir,
    };
    let findings = doctor.run(&mut Terminal::new(globals))?;
    let ok = findings.iter().all(|finding| finding.state < State::Fault);
    let text = match args.json {
        true => format!("{:#}\n", as_json(&findings, ok)),
        false => for_people(&findings, globals),
    };
    report::result(&text)?;
    Ok(if ok { Status::Done } else { Status::No })
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
    if !globals.quiet {
        text += &verdict(findings);
    }
    text
}

fn verdict(findings: &[Finding]) -> String {
    let count = |state| {
        findings
            .iter()
            .filter(|finding| finding.state == state)
            .count()
    };
    let (worst, text) = match (count(State::Fault), count(State::Worse)) {
        (0, 0) => (State::Good, "rootless builds work here".to_owned()),
        (0, warnings) => {
            let warnings = counted(warnings as u64, "warning", "warnings");
            (
                State::Worse,
                format!("rootless builds work here, with {warnings}"),
            )
        }
        (faults, _) => {
            let faults = counted(faults as u64, "fault", "faults");
            (
                State::Fault,
                format!("rootless builds do not work here: {faults}"),
            )
        }
    };
    format!("{:<8} {:<17} {text}\n", state(worst), "verdict")
}

fn as_json(findings: &[Finding], ok: bool) -> serde_json::Value {
    let each = |finding: &Finding| json!({"name": finding.name, "state": state(finding.state), "found": finding.found, "remedy": finding.remedy});
    json!({"ok": ok, "findings": findings.iter().map(each).collect::<Vec<_>>()})
}
