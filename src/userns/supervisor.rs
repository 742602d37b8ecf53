//! The caller's side: answers requests, forwards signals, waits for the child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::{Channel, Received, Wait};
use super::signals::{STOP, Watched};
use super::{
    Answer, EnterError, FromChild, Isolation, Supervision, ToChild, diagnosis, id_programs,
};
use crate::error::{Error, ErrorKind};

/// Time between two looks at the progress.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Looks after one child.
pub struct Supervisor<'a, T, F> {
    supervision: Supervision<'a>,
    child: Pid,
    /// `None` once the other end is closed.
    channel: Option<Channel>,
    signals: Watched,
    answer: F,
    result: Option<T>,
    /// The first failure that was reported.
    failure: Option<Error>,
    /// Why the child got no id maps.
    unmapped: Option<Error>,
    /// The first signal that asked to stop.
    stopped: Option<i32>,
    /// True between the first progress that the observer hears of and the last.
    is_shown: bool,
}

impl<'a, T, F> Supervisor<'a, T, F> {
    /// For a child that was just forked.
    pub fn new(
        supervision: Supervision<'a>,
        child: Pid,
        channel: Channel,
        signals: Watched,
        answer: F,
    ) -> Supervisor<'a, T, F> {
        Supervisor {
            supervision,
            child,
            channel: Some(channel),
            signals,
            answer,
            result: None,
            failure: None,
            unmapped: None,
            stopped: None,
            is_shown: false,
        }
    }

    /// Until the child is gone.
    pub fn run<A, R>(mut self) -> Result<T, Error>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
        F: FnMut(A, Option<OwnedFd>) -> Result<Answer<R>, Error>,
    {
        let ended = match self.serve() {
            Ok(ended) => ended,
            Err(error) => {
                self.abandon();
                return Err(EnterError::Supervise(error).into());
            }
        };
        self.progress_over();
        // newuidmap fails as well if a signal has killed the child, which is the cause then.
        let unmapped = self
            .unmapped
            .filter(|_| ended.terminating_signal().is_none());
        let failure = self.failure.or(unmapped);
        match (self.result, failure, self.stopped) {
            (Some(result), None, _) => Ok(result),
            (_, _, Some(signal)) => Err(Error::interrupted(signal)),
            (_, Some(failure), None) => Err(failure),
            (None, None, None) => Err(died(ended)),
        }
    }

    fn serve<A, R>(&mut self) -> io::Result<WaitStatus>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
        F: FnMut(A, Option<OwnedFd>) -> Result<Answer<R>, Error>,
    {
        loop {
            // Signals first: a request that comes after one is refused.
            while let Some(signal) = self.signals.next()? {
                self.stop(signal);
            }
            if let Some((_, status)) =
                rustix::process::waitpid(Some(self.child), WaitOptions::NOHANG)?
            {
                // The last messages may still be unread. Processes that the child left may hold
                // its end open, so there is no waiting for more.
                while self.channel.is_some() && self.hear()? {}
                return Ok(status);
            }
            let is_readable = self.wait()?;
            self.show_progress();
            if is_readable {
                self.hear()?;
            }
        }
    }

    /// Sleeps until something happens. True when the child has sent something.
    fn wait(&self) -> io::Result<bool> {
        let mut sources = vec![PollFd::new(&self.signals, PollFlags::IN)];
        sources.extend(
            self.channel
                .as_ref()
                .map(|channel| PollFd::new(channel, PollFlags::IN)),
        );
        let timeout = self.supervision.progress.map(|_| &TICK);
        match poll(&mut sources, timeout) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
            // A signal that came together with the message goes first.
            Ok(_) => Ok(sources
                .first()
                .is_none_or(|signals| signals.revents().is_empty())),
        }
    }

    /// Handles what the child has sent. False if there is no whole message.
    fn hear<A, R>(&mut self) -> io::Result<bool>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned,
        F: FnMut(A, Option<OwnedFd>) -> Result<Answer<R>, Error>,
    {
        let Some(channel) = &mut self.channel else {
            return Ok(false);
        };
        let (message, descriptor) = match channel.receive::<FromChild<A, T>>(Wait::No)? {
            Received::Message(message, descriptor) => (message, descriptor),
            Received::Nothing => return Ok(false),
            Received::Closed => {
                self.channel = None;
                return Ok(false);
            }
        };
        match message {
            FromChild::Done(result) => self.result = Some(result),
            FromChild::Failed(error) => _ = self.failure.get_or_insert(error),
            FromChild::StepFailed(step, errno) => {
                self.failure
                    .get_or_insert(diagnosis::of(step, errno).into());
            }
            FromChild::Notice(notice) => {
                self.supervision.observer.notice(&notice);
                self.reply::<R>(&ToChild::Heard, None);
            }
            FromChild::ProgressOver => {
                self.progress_over();
                self.supervision.progress = None;
                self.reply::<R>(&ToChild::Heard, None);
            }
            FromChild::Unshared => {
                let done = match self.supervision.isolation {
                    _ if self.stopped.is_some() => Ok(false),
                    Isolation::Namespace(maps) => {
                        id_programs::set_maps(self.child, maps).map(|()| true)
                    }
                    Isolation::None => Ok(true),
                };
                let is_mapped = done.unwrap_or_else(|error| {
                    self.unmapped = Some(error.into());
                    false
                });
                self.reply::<R>(&ToChild::Mapped(is_mapped), None);
            }
            FromChild::Ask(request) => {
                let answer = match self.stopped {
                    Some(signal) => Err(Error::interrupted(signal)),
                    None => (self.answer)(request, descriptor),
                };
                match answer {
                    Ok(Answer { value, descriptor }) => {
                        self.reply(&ToChild::Answer(Ok(value)), descriptor);
                    }
                    Err(error) => self.reply::<R>(&ToChild::Answer(Err(error)), None),
                }
            }
        }
        Ok(true)
    }

    fn reply<R: Serialize>(&mut self, message: &ToChild<R>, descriptor: Option<OwnedFd>) {
        if let Some(channel) = &mut self.channel {
            // A child that is gone needs no reply.
            let _ = channel.send(message, descriptor.as_ref().map(AsFd::as_fd));
        }
    }

    fn show_progress(&mut self) {
        let Some(progress) = self.supervision.progress else {
            return;
        };
        let (done, total) = progress.get();
        // Also when nothing has changed: the observer may show how time goes by.
        if total > 0 {
            self.is_shown = true;
            self.supervision.observer.progress(done, total);
        }
    }

    fn progress_over(&mut self) {
        self.show_progress();
        if std::mem::take(&mut self.is_shown) {
            self.supervision.observer.progress(0, 0);
        }
    }

    fn stop(&mut self, signal: i32) {
        if !self.signals.are_passed() {
            self.stopped.get_or_insert(signal);
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            // It can fail only when the child is gone, which is seen next.
            let _ = rustix::process::kill_process(self.child, signal);
        }
    }

    /// The child can no longer be looked after: neither it nor a zombie may stay.
    fn abandon(&self) {
        let _ = rustix::process::kill_process(self.child, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(self.child), WaitOptions::empty())
        });
    }
}

/// The error of a child that ended without a result.
fn died(status: WaitStatus) -> Error {
    match status.terminating_signal() {
        Some(signal) if STOP.contains(&signal) => Error::interrupted(signal),
        Some(signal) => Error::killed("the process that does the work was", signal),
        None => Error::new(
            ErrorKind::Died,
            "the process that does the work ended without a result",
        ),
    }
}
