//! What the two processes say to each other, over a pair of sockets that keep messages apart.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Request;
use super::error::Step;

/// One end of the pair.
pub struct Channel {
    socket: OwnedFd,
}

/// What the process inside says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// It is in a namespace without maps and waits for them.
    Unshared,
    /// It wants this done and waits for it.
    Ask(Request),
    /// It could not take this step, for the reason of this errno, and exits.
    Failed(Step, i32),
}

const UNSHARED: u8 = 0;
const ASK: u8 = 1;
const FAILED: u8 = 2;
/// The longest message: its kind, the step, the errno.
const LONGEST: usize = 6;

impl Channel {
    /// Both ends. Neither survives an exec.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel { socket: one }, Channel { socket: other }))
    }

    /// From inside: the namespace is there; returns when it has its maps.
    pub fn unshared(&mut self) -> io::Result<()> {
        self.send(&[UNSHARED])?;
        self.answer()
    }

    /// From inside: has a request done.
    pub fn ask(&mut self, request: Request) -> io::Result<()> {
        self.send(&[ASK, request])?;
        self.answer()
    }

    /// From inside: a step failed. When nobody listens any more, nobody wants to know.
    pub fn failed(&mut self, step: Step, cause: &io::Error) {
        let mut message = vec![FAILED, step.code()];
        message.extend(number(cause).to_le_bytes());
        let _ = self.send(&message);
    }

    /// From outside: the next message; `None` when the other end is closed, or speaks another
    /// language.
    pub fn next(&mut self) -> io::Result<Option<Message>> {
        self.take(RecvFlags::empty())
    }

    /// From outside, once the process inside is gone: what it has left, without waiting, because
    /// processes that it has left may hold its end open.
    pub fn next_left(&mut self) -> io::Result<Option<Message>> {
        self.take(RecvFlags::DONTWAIT)
    }

    fn take(&mut self, flags: RecvFlags) -> io::Result<Option<Message>> {
        let mut buffer = [0; LONGEST];
        Ok(match self.receive(&mut buffer, flags)? {
            [UNSHARED] => Some(Message::Unshared),
            [ASK, request] => Some(Message::Ask(*request)),
            [FAILED, step, a, b, c, d] => Step::from_code(*step)
                .map(|step| Message::Failed(step, i32::from_le_bytes([*a, *b, *c, *d]))),
            _ => None,
        })
    }

    /// From outside: what became of the message before. When nobody listens any more, nobody wants
    /// to know.
    pub fn reply(&mut self, result: io::Result<()>) {
        let number = result.map_or_else(|error| number(&error), |()| 0);
        let _ = self.send(&number.to_le_bytes());
    }

    fn answer(&mut self) -> io::Result<()> {
        let mut buffer = [0; LONGEST];
        match self.receive(&mut buffer, RecvFlags::empty())? {
            [0, 0, 0, 0] => Ok(()),
            [a, b, c, d] => Err(io::Error::from_raw_os_error(i32::from_le_bytes([
                *a, *b, *c, *d,
            ]))),
            _ => Err(Errno::PIPE.into()),
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| {
            rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    fn receive<'b>(&mut self, buffer: &'b mut [u8], flags: RecvFlags) -> io::Result<&'b [u8]> {
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *buffer, flags)) {
            Ok((length, _)) => Ok(buffer.get(..length).unwrap_or_default()),
            // The other end has closed with something unread, as when it is killed right after a
            // reply: closed all the same.
            Err(Errno::CONNRESET) => Ok(&[]),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number of an error; never 0.
fn number(error: &io::Error) -> i32 {
    error
        .raw_os_error()
        .filter(|number| *number != 0)
        .unwrap_or(libc::EIO)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent_and_the_end_is_seen() {
        let (mut outside, mut inside) = Channel::pair().unwrap();
        inside.send(&[ASK, 7]).unwrap();
        inside.failed(Step::Mounts, &io::Error::from_raw_os_error(libc::EPERM));
        inside.send(&[9]).unwrap();
        assert_eq!(outside.next().unwrap(), Some(Message::Ask(7)));
        assert_eq!(
            outside.next().unwrap(),
            Some(Message::Failed(Step::Mounts, libc::EPERM))
        );
        assert_eq!(outside.next().unwrap(), None);
        drop(inside);
        assert_eq!(outside.next().unwrap(), None);
    }

    #[test]
    fn an_end_that_is_closed_before_it_reads_the_reply_is_closed() {
        let (mut outside, mut inside) = Channel::pair().unwrap();
        inside.send(&[UNSHARED]).unwrap();
        assert_eq!(outside.next().unwrap(), Some(Message::Unshared));
        outside.reply(Ok(()));
        drop(inside);
        assert_eq!(outside.next().unwrap(), None);
        assert_eq!(outside.next_left().unwrap(), None);
    }

    #[test]
    fn answers_carry_the_number_of_the_error() {
        let cases = [
            (Ok(()), None),
            (
                Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                Some(libc::ENOSPC),
            ),
            (Err(io::Error::other("no number")), Some(libc::EIO)),
        ];
        for (result, expected) in cases {
            let (mut outside, mut inside) = Channel::pair().unwrap();
            outside.reply(result);
            assert_eq!(
                inside.answer().err().and_then(|error| error.raw_os_error()),
                expected
            );
            drop(outside);
            assert_eq!(inside.ask(1).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
