//! The signals that the process outside takes on behalf of the one inside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::sys;

/// Those that ask a program to stop.
pub const STOP: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Those that are a command's own business.
const PASSED: [i32; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
];
/// `ssi_code` of a signal that the kernel has sent, such as that of Ctrl-C on a terminal.
const SI_KERNEL: i32 = 0x80;
/// `sizeof(struct signalfd_siginfo)`.
const RECORD: usize = 128;

/// A queue of SIGCHLD and, when asked for, the signals that ask to stop. They are blocked, so that
/// none is lost or acts before it is read here.
pub struct Watched {
    queue: OwnedFd,
    signals: Vec<i32>,
    /// They do not stop the work, but go to a command.
    passed: bool,
}

/// Keeps signals that ask to stop waiting until [`Watched::open`].
pub fn hold() -> io::Result<()> {
    sys::block_signals(&heeded(&STOP))
}

/// Those that are not ignored, as under nohup.
fn heeded(signals: &[i32]) -> Vec<i32> {
    signals
        .iter()
        .copied()
        .filter(|signal| !sys::is_ignored(*signal))
        .collect()
}

impl Watched {
    /// Begins to queue both. A signal that is ignored (nohup) is left alone.
    pub fn stop_and_children() -> io::Result<Watched> {
        Watched::open(&STOP, false)
    }

    /// Begins to queue SIGCHLD and what is to be passed on to a command. A signal that is ignored
    /// stays that.
    pub fn passed_and_children() -> io::Result<Watched> {
        Watched::open(&PASSED, true)
    }

    /// Are the signals a command's business, rather than a wish to stop?
    pub fn are_passed(&self) -> bool {
        self.passed
    }

    /// Begins to queue SIGCHLD alone.
    pub fn children() -> io::Result<Watched> {
        Watched::open(&[], false)
    }

    fn open(signals: &[i32], passed: bool) -> io::Result<Watched> {
        // Whoever ignores SIGCHLD has no children to wait for: they vanish without a status.
        sys::set_default_action(libc::SIGCHLD)?;
        let mut signals = heeded(signals);
        signals.push(libc::SIGCHLD);
        Ok(Watched {
            queue: sys::queue_signals(&signals)?,
            signals,
            passed,
        })
    }

    /// In the new process: the signals act by default again.
    pub fn release(&self) -> io::Result<()> {
        self.signals
            .iter()
            .try_for_each(|signal| sys::set_default_action(*signal))?;
        sys::unblock_signals(&self.signals)
    }

    /// The next signal other than SIGCHLD, if one has come.
    ///
    /// A signal that a terminal sends reaches every process of the foreground group by itself, the
    /// command too, so that it is not one to pass on.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut record = [0; RECORD];
        loop {
            match rustix::io::read(&self.queue, &mut record) {
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    // `ssi_signo`, `ssi_errno`, `ssi_code`.
                    let [a, b, c, d, _, _, _, _, e, f, g, h, ..] = record;
                    match i32::from_ne_bytes([a, b, c, d]) {
                        libc::SIGCHLD => {}
                        _ if self.passed && i32::from_ne_bytes([e, f, g, h]) == SI_KERNEL => {}
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
