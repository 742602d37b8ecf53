//! Streams and exit statuses: results on stdout, everything else on stderr.

use std::process::ExitCode;

use anyhow::Context;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done, or the answer is yes.
    Done,
    /// The answer is no.
    No,
    /// A usage error or a failure, which has been reported.
    Failed,
    /// Killed by this signal.
    Killed(u8),
    /// The status of a command that was run, or why it was not.
    Command(u8),
}

impl Status {
    /// This program failed, so that the command was not run.
    pub const TOOL_FAILED: Status = Status::Command(125);

    /// The exit status as the shell sees it.
    pub fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::No => 1,
            Status::Failed => 2,
            Status::Killed(signal) => 128u8.saturating_add(signal),
            Status::Command(code) => code,
        }
    }

    /// The status that a process of this program exited with.
    pub fn from_code(code: u8) -> Status {
        match code {
            0 => Status::Done,
            1 => Status::No,
            129.. => Status::Killed(code - 128),
            _ => Status::Failed,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// Prints an error with its causes on one line of stderr.
pub fn error(error: &anyhow::Error) {
    eprintln!("isar-tarball: {error:#}");
}

/// Prints a warning on stderr.
pub fn warning(text: &str) {
    eprintln!("isar-tarball: warning: {text}");
}

/// Prints a result on stdout.
pub fn result(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to stdout")
}

/// Prints something worth knowing on stderr.
pub fn note(text: &str) -> anyhow::Result<()> {
    eprint!("{text}");
    Ok(())
}
