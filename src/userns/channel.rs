//! The connection between the caller and the process that it has forked.
//!
//! A stream socket carries messages. Each is a header of [`HEADER`] bytes (length of the body as
//! `u32`, little-endian; 1 if a descriptor comes with it, else 0) and a body in the encoding of
//! the crate postcard. The descriptor travels with the first byte of its header.
//!
//! Both ends run the same build of this program, so the encoding need not be stable.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the body of a message.
const HEADER: usize = 5;

/// Bytes received at once.
const CHUNK: usize = 64 << 10;

/// One end of the connection.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// Received and not yet decoded.
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// What [`Channel::receive`] found.
#[derive(Debug)]
pub enum Received<M> {
    /// A message, with the descriptor that came with it.
    Message(M, Option<OwnedFd>),
    /// No whole message yet. Only [`Wait::No`] gives this.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// Whether to wait for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until a whole message is there.
    Yes,
    /// Take what is there.
    No,
}

impl Channel {
    /// Both ends. Neither survives an exec.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel::new(one), Channel::new(other)))
    }

    fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            bytes: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    /// Sends a message, with a descriptor if there is one.
    pub fn send<M: Serialize>(
        &mut self,
        message: &M,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let body = postcard::to_allocvec(message).map_err(io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = [&length.to_le_bytes()[..], &[u8::from(descriptor.is_some())]].concat();
        let message = [header, body].concat();
        let mut sent = 0;
        let mut attached = descriptor;
        while let Some(rest) = message.get(sent..).filter(|rest| !rest.is_empty()) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let files: Vec<BorrowedFd<'_>> = attached.into_iter().collect();
            if !files.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&files));
            }
            let bytes = [IoSlice::new(rest)];
            match sendmsg(&self.socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    sent += count;
                    attached = None;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// `InvalidData` for a message that this end does not understand.
    pub fn receive<M: DeserializeOwned>(&mut self, wait: Wait) -> io::Result<Received<M>> {
        loop {
            if let Some(body) = self.take_body() {
                let (body, has_descriptor) = body;
                let message = postcard::from_bytes(&body)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let descriptor = if has_descriptor {
                    self.descriptors.pop_front()
                } else {
                    None
                };
                return Ok(Received::Message(message, descriptor));
            }
            match self.fill(wait) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(Received::Closed),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The body of the first message, if all of it is there, and whether a descriptor belongs to
    /// it.
    fn take_body(&mut self) -> Option<(Vec<u8>, bool)> {
        let (header, rest) = self.bytes.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, has_descriptor] = *header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let body = rest.get(..length)?.to_vec();
        self.bytes.drain(..HEADER + length);
        Some((body, has_descriptor != 0))
    }

    /// Receives some bytes. Gives how many; 0 at the end.
    fn fill(&mut self, wait: Wait) -> Result<usize, Errno> {
        let mut buffer = vec![0; CHUNK];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if wait == Wait::No {
            flags |= RecvFlags::DONTWAIT;
        }
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                flags,
            )
        })?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.descriptors.extend(files);
            }
        }
        self.bytes
            .extend_from_slice(buffer.get(..received.bytes).unwrap_or_default());
        Ok(received.bytes)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::panic, clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use rustix::fs::fstat;

    use super::*;

    fn message(channel: &mut Channel) -> (String, Option<OwnedFd>) {
        match channel.receive(Wait::Yes).unwrap() {
            Received::Message(message, descriptor) => (message, descriptor),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_arrive_in_order_with_their_descriptors_and_the_end_is_seen() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        one.send(&"first", None).unwrap();
        one.send(&"second", Some(null.as_fd())).unwrap();
        one.send(&"third", None).unwrap();
        assert_eq!(message(&mut other).0, "first");
        let (second, descriptor) = message(&mut other);
        assert_eq!(second, "second");
        let inode = |fd: BorrowedFd<'_>| fstat(fd).unwrap().st_ino;
        assert_eq!(inode(descriptor.unwrap().as_fd()), inode(null.as_fd()));
        let (third, descriptor) = message(&mut other);
        assert!(third == "third" && descriptor.is_none());
        assert!(matches!(
            other.receive::<String>(Wait::No).unwrap(),
            Received::Nothing
        ));
        drop(one);
        assert!(matches!(
            other.receive::<String>(Wait::Yes).unwrap(),
            Received::Closed
        ));
    }

    #[test]
    fn a_message_longer_than_the_socket_holds_arrives_whole() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let long = "x".repeat(3 << 20);
        let expected = long.clone();
        let sender = std::thread::spawn(move || one.send(&long, None).unwrap());
        assert_eq!(message(&mut other).0, expected);
        sender.join().unwrap();
    }

    #[test]
    fn a_message_that_was_cut_short_is_no_message() {
        let (one, mut other) = Channel::pair().unwrap();
        rustix::io::write(&one.socket, &[9, 0, 0, 0, 0, 1]).unwrap();
        assert!(matches!(
            other.receive::<String>(Wait::No).unwrap(),
            Received::Nothing
        ));
        drop(one);
        assert!(matches!(
            other.receive::<String>(Wait::Yes).unwrap(),
            Received::Closed
        ));
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let (one, mut other) = Channel::pair().unwrap();
        rustix::io::write(&one.socket, &[2, 0, 0, 0, 0, 0xff, 0xff]).unwrap();
        let error = other.receive::<String>(Wait::Yes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
