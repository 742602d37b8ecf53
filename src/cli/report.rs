//! Streams and exit statuses: results on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ColorChoice;
use isar_tarball::ErrorKind;

use super::hints;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done, or the answer is yes.
    Done,
    /// The answer is no.
    No,
    /// A usage error or a failure, which has been reported.
    Failed,
    /// A signal has stopped this program, which has cleaned up: it dies of that signal.
    Stopped(i32),
    /// This signal has killed the process that did the work.
    Died(i32),
    /// The status of a command that was run, or why it was not.
    Command(u8),
}

impl Status {
    /// This program failed or was misused, so that the command was not run.
    pub const TOOL_FAILED: Status = Status::Command(125);

    /// The exit status as the shell sees it.
    pub fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::No => 1,
            Status::Failed => 2,
            Status::Stopped(signal) | Status::Died(signal) => {
                128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX))
            }
            Status::Command(code) => code,
        }
    }
}

impl Status {
    /// Ends the program. After a signal that stopped it, it dies of the same signal: a shell goes on
    /// with its loop or script after any exit status.
    pub fn end(self) -> ExitCode {
        if let Status::Stopped(signal) = self {
            isar_tarball::die_of(signal);
        }
        self.into()
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// Prints a line of the program's own on stderr.
pub fn say(text: &str) {
    note(&format!("isar-tarball: {text}\n"));
}

/// Prints an error with its causes on one line of stderr.
pub fn error(error: &anyhow::Error) {
    say(&format!("{error:#}"));
}

/// Prints what is wrong with the command line, and how it should be.
pub fn usage(error: &clap::Error) {
    let text = error.render().to_string();
    say(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
}

/// The reader of stdout has closed it, having seen enough.
#[derive(Debug, thiserror::Error)]
#[error("write to stdout: Broken pipe")]
pub struct ClosedPipe;

/// Reports why `command` failed, and gives its status: `failed`, unless the library or a signal
/// decides another one. A closed pipe as stdout ends the program as SIGPIPE does, without a word.
pub fn failure(cause: &anyhow::Error, command: &str, failed: Status) -> Status {
    if cause.is::<ClosedPipe>() {
        return Status::Stopped(SIGPIPE);
    }
    let Some(known) = cause.downcast_ref::<isar_tarball::Error>() else {
        error(cause);
        return failed;
    };
    library_error(known, command);
    match (known.kind(), known.signal()) {
        (ErrorKind::Interrupted, Some(signal)) => Status::Stopped(signal),
        (ErrorKind::Died, Some(signal)) => Status::Died(signal),
        (ErrorKind::CommandNotFound, _) => Status::Command(127),
        (ErrorKind::CommandNotExecutable, _) => Status::Command(126),
        _ => failed,
    }
}

/// Prints an error of the library, with the options that help.
pub fn library_error(error: &isar_tarball::Error, command: &str) {
    match hints::of_error(command, error) {
        Some(hint) => say(&format!("{error}; {hint}")),
        None => say(&error.to_string()),
    }
}

/// The number of the signal that a closed pipe as stdout would send.
const SIGPIPE: i32 = 13;

/// The result of writing to stdout.
pub fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        Ok(()) if isar_tarball::stdout_was_closed() => bail!("write to stdout: it is closed"),
        result => result.context("write to stdout"),
    }
}

/// Prints a warning on stderr.
pub fn warning(text: &str) {
    say(&format!("warning: {text}"));
}

/// Prints a result on stdout.
pub fn result(text: &str) -> anyhow::Result<()> {
    result_bytes(text.as_bytes())
}

/// [`result`] for any bytes.
pub fn result_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Is stdout coloured? By itself only on a terminal that can, and where `NO_COLOR`
/// (https://no-color.org) is not set.
pub fn is_coloured(choice: ColorChoice) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb,
    }
}

/// Prints something worth knowing on stderr, as it is.
pub fn note(text: &str) {
    // With no stream to say it on, the exit status still tells.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
