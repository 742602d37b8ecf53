//! What became of one directory, over all that worked on it.

use anyhow::Context;
use isar_tarball::grant::Report;
use serde_json::{Value, json};

use crate::cli::values::counted;

/// Numbers of files and directories, and what is still to be done.
#[derive(Default)]
pub struct Tally {
    /// Those that were looked at, by whoever saw the most.
    pub examined: u64,
    /// How often one was changed.
    pub changed: u64,
    /// Those that lost their setgid bit.
    pub setgid_lost: u64,
    /// Those that could not be changed or looked into by whoever could do most.
    open: u64,
    examples: Vec<String>,
}

impl Tally {
    /// Of one report; `outer` gives what an owner's id is outside, where that can be told.
    pub fn new(report: &Report, outer: impl Fn(u32) -> Option<u32>) -> Tally {
        let owner = |id| {
            outer(id).map_or(
                String::from("somebody who is not in your namespace"),
                |id| format!("uid {id}"),
            )
        };
        let examples = report.examples.iter();
        Tally {
            examined: report.examined,
            changed: report.changed,
            setgid_lost: report.setgid_lost,
            open: report.refused + report.unreachable,
            examples: examples
                .map(|refused| format!("{} (owned by {})", refused.error, owner(refused.owner)))
                .collect(),
        }
    }

    /// Adds what another process did to the same directory. Where it `decides`, what it left undone
    /// is what is left.
    pub fn add(&mut self, other: Tally, decides: bool) {
        self.examined = self.examined.max(other.examined);
        self.changed += other.changed;
        self.setgid_lost += other.setgid_lost;
        if decides {
            (self.open, self.examples) = (other.open, other.examples);
        }
    }

    /// Is something left undone?
    pub fn is_open(&self) -> bool {
        self.open > 0
    }

    /// What is left undone, and the remedy.
    pub fn why(&self) -> String {
        let more = self.open.saturating_sub(self.examples.len() as u64);
        let more = if more > 0 {
            format!("; and {}", counted(more, "more", "more"))
        } else {
            String::new()
        };
        format!(
            "{}{more}: only the owner of a file, or root, may change its ACL: have it done by them, or by root with --userns NAME",
            self.examples.join("; ")
        )
    }
}

/// For the process outside.
pub fn to_bytes(tallies: &[Tally]) -> Vec<u8> {
    let value = |tally: &Tally| {
        json!([
            tally.examined,
            tally.changed,
            tally.setgid_lost,
            tally.open,
            tally.examples
        ])
    };
    Value::from_iter(tallies.iter().map(value))
        .to_string()
        .into_bytes()
}

/// What [`to_bytes`] gave.
pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Vec<Tally>> {
    let tallies: Vec<_> =
        serde_json::from_slice(bytes).context("read the result of the process inside")?;
    let tally = |(examined, changed, setgid_lost, open, examples)| Tally {
        examined,
        changed,
        setgid_lost,
        open,
        examples,
    };
    Ok(tallies.into_iter().map(tally).collect())
}
