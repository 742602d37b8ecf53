//! Working in the namespace of subordinate ids: one process does the work inside, the one that
//! started it stays the caller and looks after it.
//!
//! ```text
//!  outside (the caller)                      inside
//!  fork ──────────────────────────────────>  default signals, death with the parent
//!                                            unshare(user, mount), still as the caller
//!  newuidmap, newgidmap   <── Unshared ────
//!                         ─── done ───────>  gid 0, no groups, uid 0, mounts private
//!  answers requests       <── Ask ─────────  the work
//!  forwards signals, waits                   exit status
//! ```
//!
//! There is no exec, so a program that only the caller may reach works, and every open descriptor
//! stays open.

mod channel;
pub(crate) mod diagnosis;
mod enter;
mod error;
pub mod handover;
pub(crate) mod id_programs;
pub mod init;
mod signals;
mod supervisor;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ids::IdMaps;
use crate::sys::{self, Forked};
use channel::Channel;
pub use error::{Error, Powerless, Step};
pub use id_programs::search as search_path;
use signals::Watched;
use supervisor::Supervisor;

/// The exit status of an `inside` that panicked.
const PANICKED: u8 = 2;

/// Where work is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As the caller, with all that it may do.
    None,
    /// As root of a new user namespace with these maps, and of a mount namespace whose mounts
    /// nobody else sees.
    Namespace(IdMaps),
}

/// A byte whose meaning the two closures of [`supervise`] agree on.
pub type Request = u8;

/// The inside's line to the process outside, which is still the caller.
pub struct Outside {
    channel: Channel,
}

impl Outside {
    /// Has the process outside do what the request stands for, and waits until it is done. The
    /// error is the one outside, by its number (EIO for an error without one; EINTR once a signal
    /// told the program to stop).
    pub fn ask(&mut self, request: Request) -> io::Result<()> {
        self.channel.ask(request)
    }
}

/// How the process inside ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this exit status.
    Exited(u8),
    /// By this signal; or the program was told to stop by it and the work was not done by then.
    Killed(i32),
}

impl Outcome {
    /// The signal that killed the process inside where it is none of those that ask a program to
    /// stop: nobody knows why, unless he is told.
    pub fn unasked_signal(self) -> Option<i32> {
        match self {
            Outcome::Killed(signal) if !signals::STOP.contains(&signal) => Some(signal),
            _ => None,
        }
    }
}

/// Lets SIGINT, SIGTERM, SIGHUP and SIGQUIT wait for [`supervise`]. To be called before anything is
/// made that must not stay behind.
pub fn hold_signals() -> Result<(), Error> {
    signals::hold().map_err(Error::Supervise)
}

/// Forks. The new process runs `inside` in `place` and exits with what it returns, or with 2 when
/// it panics. This one stays the caller, answers the requests of the other with `outside`, hands
/// SIGINT, SIGTERM, SIGHUP and SIGQUIT on to it (those that are not ignored), and waits for it.
/// Once such a signal has come, requests are answered with EINTR, so that nothing more changes
/// outside.
///
/// To be called while the process has one thread.
///
/// The signals stay blocked here when this returns, so that a second one cannot interrupt the
/// clean-up that follows; another call goes on with those that came meanwhile.
///
/// What `inside` owns exists in both processes: here it is dropped right after the fork, there when
/// `inside` returns. So give it descriptors, which close twice, and never a guard that removes a
/// file. Everything else of the calling function lives on in this process alone; the other leaves
/// through `exit`.
///
/// # Errors
///
/// What kept the new process from entering the place. The new process is gone then.
pub fn supervise(
    place: &Isolation,
    outside: impl FnMut(Request) -> io::Result<()>,
    inside: impl FnOnce(&mut Outside) -> u8,
) -> Result<Outcome, Error> {
    let signals = Watched::stop_and_children().map_err(Error::Supervise)?;
    supervise_watching(
        signals,
        place,
        outside,
        || (),
        |outside, ()| inside(outside),
    )
}

/// [`supervise`] for an `inside` that runs a command by [`init::Init`]: signals are the command's
/// business, so none of them stops the requests, and the outcome is what `inside` says. SIGUSR1,
/// SIGUSR2 and SIGALRM are handed on too.
///
/// `as_caller` is called by the new process in its mount namespace, but with the rights of the
/// caller: what it opens can be mounted inside, which the kernel denies to descriptors from another
/// mount namespace, and which root of the namespace could not reach below a home that is the
/// caller's alone.
pub fn supervise_command<T>(
    place: &Isolation,
    outside: impl FnMut(Request) -> io::Result<()>,
    as_caller: impl FnOnce() -> T,
    inside: impl FnOnce(&mut Outside, T) -> u8,
) -> Result<Outcome, Error> {
    let signals = Watched::passed_and_children().map_err(Error::Supervise)?;
    supervise_watching(signals, place, outside, as_caller, inside)
}

/// Like [`supervise`], for what must be done after a failure: signals that ask to stop are not
/// handed on but stay pending.
///
/// To be called while the process has one thread.
///
/// # Errors
///
/// What kept the new process from entering the place.
pub fn clean_up(place: &Isolation, inside: impl FnOnce() -> u8) -> Result<Outcome, Error> {
    let signals = Watched::children().map_err(Error::Supervise)?;
    supervise_watching(
        signals,
        place,
        |_| Err(io::ErrorKind::InvalidInput.into()),
        || (),
        |_, ()| inside(),
    )
}

/// [`supervise`] with the signals that are to be handed on.
fn supervise_watching<T>(
    signals: Watched,
    place: &Isolation,
    outside: impl FnMut(Request) -> io::Result<()>,
    as_caller: impl FnOnce() -> T,
    inside: impl FnOnce(&mut Outside, T) -> u8,
) -> Result<Outcome, Error> {
    let (ours, theirs) = Channel::pair().map_err(Error::Supervise)?;
    // What is buffered now would be written by both processes. A failed write shows when the owner
    // of the buffer flushes it again.
    let _ = io::stdout().flush();
    let parent = rustix::process::getpid();
    match sys::fork().map_err(Error::Supervise)? {
        Forked::Child => {
            drop(ours);
            let mut outside = Outside { channel: theirs };
            let status =
                match enter::enter(place, parent, &signals, &mut outside.channel, as_caller) {
                    Ok(found) => catch_unwind(AssertUnwindSafe(|| inside(&mut outside, found)))
                        .unwrap_or(PANICKED),
                    Err(enter::Reported) => PANICKED,
                };
            std::process::exit(status.into())
        }
        Forked::Parent(child) => {
            drop(theirs);
            drop((as_caller, inside));
            Supervisor::new(place, child, ours, signals, outside).run()
        }
    }
}
