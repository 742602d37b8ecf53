//! The process outside: answers, forwards signals, waits.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::channel::{Channel, Message};
use super::signals::Watched;
use super::{Error, Isolation, Outcome, Request, diagnosis, id_programs};

/// Looks after one process inside.
pub struct Supervisor<'a, F> {
    place: &'a Isolation,
    child: Pid,
    /// `None` once the other end is closed.
    channel: Option<Channel>,
    signals: Watched,
    outside: F,
    /// Why the place was not entered.
    failure: Option<Error>,
    /// The first signal that asked to stop.
    stopped: Option<i32>,
}

impl<'a, F: FnMut(Request) -> io::Result<()>> Supervisor<'a, F> {
    /// For a child that was just forked.
    pub fn new(
        place: &'a Isolation,
        child: Pid,
        channel: Channel,
        signals: Watched,
        outside: F,
    ) -> Supervisor<'a, F> {
        Supervisor {
            place,
            child,
            channel: Some(channel),
            signals,
            outside,
            failure: None,
            stopped: None,
        }
    }

    /// Until the child is gone.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let ended = match self.serve() {
            Ok(ended) => ended,
            Err(error) => {
                self.abandon();
                return Err(Error::Supervise(error));
            }
        };
        let outcome = match (ended.exit_status(), ended.terminating_signal()) {
            (Some(status), _) => Outcome::Exited(u8::try_from(status).unwrap_or(u8::MAX)),
            (None, signal) => Outcome::Killed(signal.unwrap_or(libc::SIGKILL)),
        };
        match (outcome, self.stopped, self.failure) {
            (Outcome::Exited(0), _, None) => Ok(outcome),
            (_, Some(signal), _) => Ok(Outcome::Killed(signal)),
            (_, None, Some(failure)) => Err(failure),
            (_, None, None) => Ok(outcome),
        }
    }

    fn serve(&mut self) -> io::Result<WaitStatus> {
        loop {
            // Signals first: what is asked for after one is not done any more.
            while let Some(signal) = self.signals.next()? {
                self.stop(signal);
            }
            if let Some((_, status)) =
                rustix::process::waitpid(Some(self.child), WaitOptions::NOHANG)?
            {
                self.hear_last_words();
                return Ok(status);
            }
            if self.wait()? {
                self.hear()?;
            }
        }
    }

    /// Sleeps until something happens. True when the child has said something.
    fn wait(&self) -> io::Result<bool> {
        let mut sources = vec![PollFd::new(&self.signals, PollFlags::IN)];
        sources.extend(
            self.channel
                .as_ref()
                .map(|channel| PollFd::new(channel, PollFlags::IN)),
        );
        match poll(&mut sources, None) {
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
            // A signal that came with the message goes first.
            Ok(_)
                if sources
                    .first()
                    .is_some_and(|signals| !signals.revents().is_empty()) =>
            {
                Ok(false)
            }
            Ok(_) => Ok(true),
        }
    }

    fn hear(&mut self) -> io::Result<()> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        match channel.next()? {
            None => self.channel = None,
            Some(Message::Failed(step, errno)) => self.failure = Some(diagnosis::of(step, errno)),
            Some(_) if self.stopped.is_some() => channel.reply(Err(Errno::INTR.into())),
            Some(Message::Ask(request)) => channel.reply((self.outside)(request)),
            Some(Message::Unshared) => {
                let done = match self.place {
                    Isolation::Namespace(maps) => id_programs::set_maps(self.child, maps),
                    Isolation::None => Ok(()),
                };
                channel.reply(done.map_err(|failure| {
                    self.failure = Some(failure);
                    Errno::CANCELED.into()
                }));
            }
        }
        Ok(())
    }

    /// A child that fails says why and exits; its end may be seen before its words.
    fn hear_last_words(&mut self) {
        while let Some(Ok(Some(message))) = self.channel.as_mut().map(Channel::next_left) {
            if let Message::Failed(step, errno) = message {
                self.failure = Some(diagnosis::of(step, errno));
            }
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
