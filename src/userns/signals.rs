//! The signals that the process outside takes on behalf of the one inside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::sys::{self, SignalState};

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

/// What becomes of signals that ask to stop while a child works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalPolicy {
    /// They go to the child and end the work.
    Stop,
    /// They go to the command that the child runs, as SIGUSR1, SIGUSR2 and SIGALRM do.
    Pass,
    /// They stay pending.
    Hold,
}

impl SignalPolicy {
    /// Starts to queue these signals and SIGCHLD. Signals that are ignored (nohup) stay ignored.
    pub fn watch(self) -> io::Result<Watched> {
        match self {
            SignalPolicy::Stop => Watched::open(&STOP, false),
            SignalPolicy::Pass => Watched::open(&PASSED, true),
            SignalPolicy::Hold => Watched::open(&[], false),
        }
    }
}

/// Keeps signals that ask to stop pending, between the children that take them. When it is dropped,
/// the signal mask and the action of SIGCHLD are as they were before, and pending signals act.
pub struct HeldSignals {
    before: SignalState,
}

impl HeldSignals {
    /// To be created before anything that must not be left behind.
    pub fn new() -> Result<HeldSignals, super::EnterError> {
        let held = HeldSignals {
            before: SignalState::current(),
        };
        sys::block_signals(&heeded(&STOP)).map_err(super::EnterError::Supervise)?;
        Ok(held)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        self.before.restore();
    }
}

/// Has a thread wait for the signals that ask to stop. When one comes, it hands the error to
/// `report` and this process dies of the signal. For work that has nothing to clean up, in a
/// process that does not fork.
#[cfg(feature = "cli")]
pub fn report_stop(report: impl FnOnce(&crate::error::Error) + Send + 'static) -> io::Result<()> {
    let signals = heeded(&STOP);
    let queue = sys::queue_signals(&signals)?;
    let wait = move || {
        let mut record = [0; RECORD];
        let mut source = [rustix::event::PollFd::new(
            &queue,
            rustix::event::PollFlags::IN,
        )];
        let Ok(1..) = rustix::io::retry_on_intr(|| rustix::event::poll(&mut source, None)) else {
            return;
        };
        if let Ok(RECORD) = rustix::io::read(&queue, &mut record) {
            let [a, b, c, d, ..] = record;
            let signal = i32::from_ne_bytes([a, b, c, d]);
            report(&crate::error::Error::interrupted(signal));
            sys::die_of(signal);
        }
    };
    // Without the thread the signals act by default.
    let started = std::thread::Builder::new().spawn(wait);
    started
        .map(drop)
        .or_else(|_| sys::unblock_signals(&signals))
}

/// A queue of SIGCHLD and, when asked for, the signals that ask to stop. They are blocked, so that
/// none is lost or acts before it is read here.
pub struct Watched {
    queue: OwnedFd,
    signals: Vec<i32>,
    /// They go to a command and do not stop the work.
    passed: bool,
}

/// Those of `signals` that are not ignored, as under nohup.
fn heeded(signals: &[i32]) -> Vec<i32> {
    signals
        .iter()
        .copied()
        .filter(|signal| !sys::is_ignored(*signal))
        .collect()
}

impl Watched {
    /// True if the signals go to a command.
    pub fn are_passed(&self) -> bool {
        self.passed
    }

    fn open(signals: &[i32], passed: bool) -> io::Result<Watched> {
        // A process that ignores SIGCHLD has no children to wait for.
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
