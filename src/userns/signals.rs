//! The signals that the process outside takes on behalf of the one inside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::sys;

/// Those that ask a program to stop.
const STOP: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// `sizeof(struct signalfd_siginfo)`.
const RECORD: usize = 128;

/// A queue of SIGCHLD and, when asked for, the signals that ask to stop. They are blocked, so that none is lost or acts before it is read here.
pub struct Watched {
    queue: OwnedFd,
    signals: Vec<i32>,
}

/// Keeps signals that ask to stop waiting until [`Watched::open`].
pub fn hold() -> io::Result<()> {
    sys::block_signals(&heeded())
}

/// Those that are not ignored, as under nohup.
fn heeded() -> Vec<i32> {
    STOP.into_iter().filter(|signal| !sys::is_ignored(*signal)).collect()
}

impl Watched {
    /// Begins to queue both. A signal that is ignored (nohup) is left alone.
    pub fn stop_and_children() -> io::Result<Watched> {
        Watched::open(heeded())
    }

    /// Begins to queue SIGCHLD alone.
    pub fn children() -> io::Result<Watched> {
        Watched::open(Vec::new())
    }

    fn open(mut signals: Vec<i32>) -> io::Result<Watched> {
        // Whoever ignores SIGCHLD has no children to wait for: they vanish without a status.
        sys::set_default_action(libc::SIGCHLD)?;
        signals.push(libc::SIGCHLD);
        Ok(Watched { queue: sys::queue_signals(&signals)?, signals })
    }

    /// In the new process: the signals act by default again.
    pub fn release(&self) -> io::Result<()> {
        self.signals.iter().try_for_each(|signal| sys::set_default_action(*signal))?;
        sys::unblock_signals(&self.signals)
    }

    /// The next signal that asks to stop, if one has come.
    pub fn next_stop(&self) -> io::Result<Option<i32>> {
        let mut record = [0; RECORD];
        loop {
            match rustix::io::read(&self.queue, &mut record) {
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    // `ssi_signo` comes first.
                    let [a, b, c, d, ..] = record;
                    match i32::from_ne_bytes([a, b, c, d]) {
                        libc::SIGCHLD => {}
                        signal => return Ok(Some(signal)),
                    }
                }
            }
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
