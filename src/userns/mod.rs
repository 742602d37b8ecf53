//! Working as root of a user namespace over subordinate ids (see user_namespaces(7)).
//!
//! ```text
//!  caller                                  child
//!  supervise ── fork ────────────────────> unshare(user, mount), still as the caller
//!      │ <──────────────────── Unshared ──     │ prepare: opens what only the caller may open
//!  newuidmap, newgidmap ────── Mapped ───> setresgid, setgroups, setresuid 0
//!      │ <────────── Ask(A), Notice ──────     work
//!  answer ─────────────── Answer(R) ─────>     │
//!      │ <──────── Done(T) or Failed ──────    _exit
//!  waitpid
//! ```
//!
//! The child does not exec: a program below a home directory of mode 0700 works, and closures carry
//! the work. The kernel kills the child when the caller dies. A signal that asks to stop goes to
//! the child; afterwards the caller refuses all requests, so nothing changes outside any more.

mod channel;
pub(crate) mod diagnosis;
mod enter;
mod error;
pub(crate) mod id_programs;
pub mod init;
mod obstacle;
mod signals;
mod supervisor;

use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::ids::IdMaps;
use crate::observer::{Notice, Observer};
use crate::progress::Progress;
use crate::sys::{self, Forked, SignalState};
use channel::{Channel, Received, Wait};
pub use error::{Error as EnterError, Powerless, Step};
#[cfg(feature = "cli")]
pub use signals::report_stop;
pub use signals::{HeldSignals, SignalPolicy};
use supervisor::Supervisor;

/// With which ids work is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As the caller, with the caller's rights.
    None,
    /// As root of a new user namespace with these maps, and of a mount namespace whose mounts stay
    /// in it.
    Namespace(IdMaps),
}

/// What the child sends.
#[derive(Serialize, Deserialize)]
enum FromChild<A, T> {
    /// The namespaces exist; the child waits for the id maps.
    Unshared,
    /// This step of entering the namespace failed with this errno. The child exits.
    StepFailed(Step, i32),
    /// A request; the child waits for the answer.
    Ask(A),
    /// Something to tell the observer; the child waits until that is done.
    Notice(Notice),
    /// The measured part of the work is over; the child waits until the observer knows.
    ProgressOver,
    /// The result. The child exits.
    Done(T),
    /// The work failed. Later messages change nothing about that.
    Failed(Error),
}

/// What the caller sends.
#[derive(Serialize, Deserialize)]
enum ToChild<R> {
    /// The id maps are set, or not.
    Mapped(bool),
    /// The observer has heard.
    Heard,
    /// The answer to a request.
    Answer(Result<R, Error>),
}

/// The answer to a request, with a descriptor if there is one.
#[derive(Debug)]
pub struct Answer<R> {
    /// The answer.
    pub value: R,
    /// An open file that comes with it.
    pub descriptor: Option<OwnedFd>,
}

impl<R> From<R> for Answer<R> {
    fn from(value: R) -> Answer<R> {
        Answer {
            value,
            descriptor: None,
        }
    }
}

/// The child's connection to its caller. `A` is the type of requests, `R` that of answers.
pub struct Caller<A = (), R = ()> {
    channel: Channel,
    types: PhantomData<fn(A) -> R>,
}

impl<A: Serialize, R: DeserializeOwned> Caller<A, R> {
    /// Has the caller do what `request` describes, and waits for its answer.
    ///
    /// # Errors
    ///
    /// The caller's own, or `Interrupted` once a signal asked the program to stop.
    pub fn ask(&mut self, request: A) -> Result<R, Error> {
        Ok(self.exchange(request, None)?.value)
    }

    /// [`Caller::ask`], with a descriptor for the caller, or for the answer.
    pub fn exchange(
        &mut self,
        request: A,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Answer<R>, Error> {
        let message = FromChild::<A, ()>::Ask(request);
        match self.round_trip(&message, descriptor)? {
            (ToChild::Answer(answer), descriptor) => Ok(Answer {
                value: answer?,
                descriptor,
            }),
            _ => Err(lost()),
        }
    }

    /// Tells the observer something.
    pub fn notice(&mut self, notice: Notice) {
        // The caller that does not answer is gone, and this process with it.
        let _ = self.round_trip(&FromChild::<A, ()>::Notice(notice), None);
    }

    /// Tells the observer that the measured part of the work is over.
    pub fn progress_over(&mut self) {
        let _ = self.round_trip(&FromChild::<A, ()>::ProgressOver, None);
    }

    /// Reports the failure of a process that this one forked and that can return no result. The
    /// first failure counts.
    pub fn fail(&mut self, error: Error) {
        let _ = self.channel.send(&FromChild::<A, ()>::Failed(error), None);
    }

    fn round_trip(
        &mut self,
        message: &FromChild<A, ()>,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(ToChild<R>, Option<OwnedFd>), Error> {
        self.channel.send(message, descriptor).map_err(|_| lost())?;
        match self.channel.receive(Wait::Yes) {
            Ok(Received::Message(message, descriptor)) => Ok((message, descriptor)),
            _ => Err(lost()),
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Died, "the calling process does not answer")
}

/// How [`supervise`] runs its child.
pub struct Supervision<'a> {
    /// Where the work is done.
    pub isolation: &'a Isolation,
    /// What happens to signals.
    pub signals: SignalPolicy,
    /// Hears notices and progress.
    pub observer: &'a mut dyn Observer,
    /// Counters that the work updates, made by [`Progress::shared`].
    pub progress: Option<&'a Progress>,
}

impl<'a> Supervision<'a> {
    /// For work that a signal stops.
    pub fn of_work(isolation: &'a Isolation, observer: &'a mut dyn Observer) -> Supervision<'a> {
        Supervision {
            isolation,
            signals: SignalPolicy::Stop,
            observer,
            progress: None,
        }
    }
}

/// Forks. The child enters the namespace, runs `work` and sends its result; `answer` handles its
/// requests in this process, which waits for the child's end.
///
/// `prepare` runs in the child's mount namespace, still with the caller's ids: what it opens can be
/// mounted inside, which the kernel denies to descriptors from another mount namespace.
///
/// Values that `work` owns exist in both processes, and are dropped in both: give it descriptors,
/// which close twice, and never a guard that removes a file. All else that the calling function
/// owns lives on in this process alone.
///
/// # Errors
///
/// That of `prepare` or `work`; `Namespace` if the namespace cannot be entered; `Interrupted` if a
/// signal stopped the work; `Died` if the child ended without a result; `MultiThreaded` if this
/// process has other threads.
pub fn supervise<A, R, P, T>(
    supervision: Supervision<'_>,
    answer: impl FnMut(A, Option<OwnedFd>) -> Result<Answer<R>, Error>,
    prepare: impl FnOnce() -> Result<P, Error>,
    work: impl FnOnce(&mut Caller<A, R>, P) -> Result<T, Error>,
) -> Result<T, Error>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
    T: Serialize + DeserializeOwned,
{
    let before = SignalState::current();
    let signals = supervision.signals.watch().map_err(EnterError::Supervise)?;
    let (ours, theirs) = Channel::pair().map_err(EnterError::Supervise)?;
    let parent = rustix::process::getpid();
    match sys::fork().map_err(EnterError::Supervise)? {
        None => Err(EnterError::Threads(sys::thread_count()).into()),
        Some(Forked::Child) => {
            drop(ours);
            let mut caller = Caller {
                channel: theirs,
                types: PhantomData,
            };
            let entered = enter::enter(
                supervision.isolation,
                parent,
                &signals,
                &mut caller.channel,
                prepare,
            );
            if let Ok(prepared) = entered {
                let run = || prepared.and_then(|prepared| work(&mut caller, prepared));
                let last = match catch_unwind(AssertUnwindSafe(run)) {
                    Ok(Ok(result)) => FromChild::<A, T>::Done(result),
                    Ok(Err(error)) => FromChild::Failed(error),
                    Err(_) => FromChild::Failed(panicked()),
                };
                // A result that cannot be encoded is a failure. Without a caller nothing is left to
                // report to.
                if let Err(error) = caller.channel.send(&last, None) {
                    caller.fail(error.into());
                }
            }
            sys::exit_now(0)
        }
        Some(Forked::Parent(child)) => {
            drop(theirs);
            drop((prepare, work));
            let ended = Supervisor::new(supervision, child, ours, signals, answer).run();
            before.restore();
            ended
        }
    }
}

fn panicked() -> Error {
    Error::new(
        ErrorKind::Died,
        "the process that does the work panicked: this is a bug, please report it",
    )
}

/// [`supervise`] for work without requests.
pub fn run<T>(
    supervision: Supervision<'_>,
    work: impl FnOnce(&mut Caller) -> Result<T, Error>,
) -> Result<T, Error>
where
    T: Serialize + DeserializeOwned,
{
    supervise(
        supervision,
        |(), _| Ok(().into()),
        || Ok(()),
        |caller, ()| work(caller),
    )
}

/// [`run`] for what must be done after a failure: signals that ask to stop stay pending. Without a
/// namespace the work is done in this process.
pub fn clean_up<T>(
    isolation: &Isolation,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error>
where
    T: Serialize + DeserializeOwned,
{
    if *isolation == Isolation::None {
        return work();
    }
    let supervision = Supervision {
        isolation,
        signals: SignalPolicy::Hold,
        observer: &mut (),
        progress: None,
    };
    run(supervision, |_| work())
}
