//! Work in a place whose result is wanted here.

use std::fs::File;
use std::io::{Read, Seek, Write};

use anyhow::{Context, bail};
use isar_tarball::userns::{Isolation, supervise};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::cli::place;
use crate::cli::report::Status;

/// How the work ended.
pub enum Answer {
    /// With this result.
    Done(Vec<u8>),
    /// Without one: it was told to stop.
    Ended(Status),
}

/// Runs `work` in `place` and hands out what it gives: its result, or its error. To be called while
/// the process has one thread.
pub fn in_place(
    place: &Isolation,
    work: impl FnOnce() -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Answer> {
    let result = memfd_create(c"result", MemfdFlags::CLOEXEC).context("make a file in memory")?;
    let mut result = File::from(result);
    let mut theirs = result
        .try_clone()
        .context("open a file in memory once more")?;
    let outcome = supervise(
        place,
        |_| Err(std::io::ErrorKind::InvalidInput.into()),
        move |_| {
            let (status, bytes) = match work() {
                Ok(bytes) => (Status::Done, bytes),
                Err(error) => (Status::Failed, format!("{error:#}").into_bytes()),
            };
            // What is missing is seen outside.
            theirs
                .write_all(&bytes)
                .map_or(Status::Failed, |()| status)
                .code()
        },
    )?;
    let mut bytes = Vec::new();
    result
        .rewind()
        .and_then(|()| result.read_to_end(&mut bytes))
        .context("take the result")?;
    match place::of_work(outcome, || String::from("grant-acl")) {
        Status::Done => Ok(Answer::Done(bytes)),
        Status::Killed(signal) => Ok(Answer::Ended(Status::Killed(signal))),
        _ if bytes.is_empty() => bail!("the process in the user namespace failed"),
        _ => bail!("{}", String::from_utf8_lossy(&bytes)),
    }
}
