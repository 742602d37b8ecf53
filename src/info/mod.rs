//! Description of an archive: its compression, its members, and the distribution of a root file
//! system.
//!
//! One pass over the stream, which also computes the SHA-256.

mod hash;
mod system;
mod system_files;

use std::fs::File;
use std::io;

pub use system::System;

use crate::archive::reader::{Event, Limits};
use crate::entry::{Entry, Kind};
use crate::error::{Changed, Classify, ErrorKind, describe};
use crate::input::{self, Compression, Input};
use crate::member_stream;
use crate::members::Members;
use crate::parallel::NoThread;
use crate::zst::frames::Frame;
use system_files::SystemFiles;

/// An archive that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or decompressed, or is not a tar archive.
    #[error(transparent)]
    Contents(#[from] member_stream::Error),
    /// It cannot be read to compute the digest.
    #[error("read for the digest: {}", describe(.0))]
    Hash(io::Error),
    /// Another process wrote to it while it was read.
    #[error("{Changed}")]
    Changed,
    /// No thread could be started for that.
    #[error(transparent)]
    Thread(#[from] NoThread),
}

/// Description of an archive.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// Its compression.
    pub compression: Compression,
    /// Its zstd frames; `None` for another format or a pipe.
    pub frames: Option<Frames>,
    /// Its length in bytes.
    pub archive_bytes: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Length of the tar stream in bytes.
    pub tar_bytes: u64,
    /// Its members.
    pub members: Members,
    /// Total length of the files, holes included, in bytes.
    pub file_bytes: u64,
    /// Members with extended attributes.
    pub with_xattrs: u64,
    /// Members with an access or a default ACL.
    pub with_acls: u64,
    /// The root file system in it, as far as it is one.
    pub system: System,
}

/// Summary of the frames of a zstd archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// Frames with content.
    pub count: u64,
    /// Skippable frames.
    pub skippable: u64,
    /// Frames that end in a checksum.
    pub with_checksum: u64,
    /// Frames whose header has the content size.
    pub with_size: u64,
    /// The widest window, in bytes.
    pub window: u64,
    /// The largest known content size, in bytes.
    pub longest: u64,
}

/// Reads an archive to its end: a file from its beginning, or a pipe.
pub fn inspect(file: File, options: &input::Options) -> Result<Info, Error> {
    let (mut info, hashed) = hash::beside(file, |file| -> Result<Info, Error> {
        let mut input = Input::open(file, options).map_err(member_stream::Error::from)?;
        read(&mut input)
    })?;
    (info.archive_bytes, info.sha256) = (hashed.bytes, hashed.sha256);
    Ok(info)
}

fn read(input: &mut Input) -> Result<Info, Error> {
    let mut info = Info {
        compression: input.compression(),
        frames: input.frames().map(Frames::of),
        ..Info::default()
    };
    let mut picked = SystemFiles::default();
    info.tar_bytes = member_stream::read(input, Limits::default(), |event| {
        match event {
            Event::Member(member) => {
                info.add(&member.entry);
                picked.begin(&member.entry);
            }
            Event::Data(offset, data) => picked.data(offset, data),
            Event::MemberEnd => picked.end(),
        }
        Ok::<_, member_stream::Error>(())
    })?
    .bytes;
    info.system = System::of(&picked);
    Ok(info)
}

impl Info {
    fn add(&mut self, entry: &Entry) {
        self.members.total += 1;
        self.members.add(&entry.kind);
        if let Kind::File { size, .. } = &entry.kind {
            self.file_bytes = self.file_bytes.saturating_add(*size);
        }
        self.with_xattrs += u64::from(!entry.xattrs.is_empty());
        self.with_acls += u64::from(entry.access_acl.is_some() || entry.default_acl.is_some());
    }
}

impl Frames {
    fn of(frames: &[Frame]) -> Frames {
        let mut all = Frames::default();
        for frame in frames {
            if frame.is_skippable {
                all.skippable += 1;
                continue;
            }
            all.count += 1;
            all.with_checksum += u64::from(frame.has_checksum);
            all.with_size += u64::from(frame.content.is_some());
            all.window = all.window.max(frame.window);
            all.longest = all.longest.max(frame.content.unwrap_or(0));
        }
        all
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Contents(error) => error.kind(),
            Error::Hash(error) => Classify::kind(error),
            Error::Changed => ErrorKind::Changed,
            Error::Thread(_) => ErrorKind::Io,
        }
    }
}
