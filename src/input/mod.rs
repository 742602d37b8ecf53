//! The tar stream of an archive: from a file or a pipe, plain or compressed, decoded ahead of
//! whoever reads it.

mod ahead;
mod byte_source;
mod decoders;
mod detect;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Seek};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use ahead::Chunk;

use crate::zst::decode::check_windows;
use crate::zst::frames::{self, Frame};
use ahead::Ahead;
use byte_source::{ByteSource, Interrupt};
use decoders::Frames;
use detect::{DETECTED, Detected};

/// How an archive is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    #[default]
    None,
    /// Zstandard, in any framing.
    Zstd,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
}

/// How an archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that decode frames, at least 1.
    pub threads: usize,
    /// Bytes that decoded frames may take before they are read, what decoders need for them
    /// included. The next one in order may always be decoded.
    pub memory: u64,
    /// The widest zstd window accepted, as the exponent of two: 10..=31. sbuild takes 27.
    pub window_log: u32,
    /// Are large frames decoded before their turn where that takes more memory than their window?
    /// That saves time where there is nothing to do but to read; whoever writes files beside it
    /// loses more by the memory that is touched.
    pub eager: bool,
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the archive failed.
    #[error("read: {}", crate::error::describe(.0))]
    Read(io::Error),
    /// It is a directory.
    #[error("it is a directory, not an archive")]
    Directory,
    /// There is nothing in it.
    #[error("it is empty (0 bytes): whatever made it failed; make it again")]
    Empty,
    /// It is in a format that is not read here.
    #[error(
        "it is {0}; only tar archives are read, plain or compressed with zstd, gzip or xz: convert it first"
    )]
    Other(&'static str),
    /// It is in no known format.
    #[error("it is no tar archive, plain or compressed with zstd, gzip or xz")]
    Unknown,
    /// It is compressed in a way that this build leaves out.
    #[error(
        "it is compressed with {format}, which this build of isar-tarball does not read; decompress it first"
    )]
    FeatureOff {
        /// The name of the compression, and of the feature.
        format: &'static str,
    },
    /// A zstd frame cannot be read.
    #[error(transparent)]
    Zstd(#[from] frames::Error),
    /// A gzip or xz archive cannot be read.
    #[error("{format} data near byte {offset}: {}", damage(.cause))]
    Damaged {
        /// The name of the compression.
        format: &'static str,
        /// How much had been read, in bytes.
        offset: u64,
        /// What is wrong.
        cause: io::Error,
    },
    /// Decoding an xz archive would take more memory than allowed.
    #[error(
        "decoding this xz archive takes more memory than the {limit} bytes allowed; compress it with a smaller dictionary"
    )]
    XzMemory {
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// The system gives no thread.
    #[error("start a thread: {}", crate::error::describe(.0))]
    Thread(io::Error),
    /// A decoding thread died: a defect of this program.
    #[error("a thread that decodes died; please report this")]
    Broken,
}

fn damage(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the archive ends too early: it is truncated; copy or make it again".to_owned()
        }
        _ if cause.raw_os_error().is_some() => format!("read: {}", crate::error::describe(cause)),
        _ => format!("damaged: {cause}"),
    }
}

/// The tar stream of an archive.
pub struct Input {
    compression: Compression,
    frames: Option<Vec<Frame>>,
    ahead: Arc<Ahead>,
    interrupt: Option<Arc<Interrupt>>,
    threads: Vec<JoinHandle<()>>,
    consumed: u64,
    content: Option<u64>,
}

impl Input {
    /// Takes an archive opened by the caller: what follows the file's current position.
    ///
    /// The frames of a regular file are found and decoded in parallel; the file's position stays as
    /// it is. Anything else is decoded as it comes. Waits for a pipe's first bytes.
    pub fn open(file: File, options: &Options) -> Result<Input, Error> {
        let file = Arc::new(file);
        let about = file.metadata().map_err(Error::Read)?;
        if about.is_dir() {
            return Err(Error::Directory);
        }
        let (mut source, range, interrupt) = if about.is_file() {
            let start = (&*file)
                .stream_position()
                .map_err(Error::Read)?
                .min(about.len());
            (
                ByteSource::range(Arc::clone(&file), start, about.len()),
                Some((start, about.len() - start)),
                None,
            )
        } else {
            let interrupt = Arc::new(Interrupt::new().map_err(Error::Read)?);
            (
                ByteSource::pipe(Arc::clone(&file), Arc::clone(&interrupt)),
                None,
                Some(interrupt),
            )
        };
        let compression = detect(&mut source)?;
        let frames = match (compression, range) {
            (Compression::Zstd, Some((start, length))) => Some(frames::scan(&file, start, length)?),
            _ => None,
        };
        check_windows(frames.as_deref().unwrap_or_default(), options.window_log)?;
        let with_content = frames
            .iter()
            .flatten()
            .filter(|frame| !frame.is_skippable)
            .copied()
            .collect::<Vec<_>>();
        let content = match compression {
            Compression::None => range.map(|(_, length)| length),
            _ => frames.as_deref().and_then(content),
        };
        let window_log = options.window_log;
        let threads = options.threads.clamp(1, with_content.len().max(1));
        let parallel = frames.is_some().then(|| {
            let start = range.map_or(0, |(start, _)| start);
            Arc::new(Frames {
                file,
                start,
                frames: with_content,
                window_log,
                threads,
                eager: options.eager,
            })
        });
        let ahead = match &parallel {
            Some(frames) => Ahead::new(frames.frames.len(), frames.early(), options.memory),
            None => Ahead::new(1, Vec::new(), options.memory),
        };
        let mut input = Input {
            compression,
            frames,
            ahead,
            interrupt,
            threads: Vec::new(),
            consumed: 0,
            content,
        };
        match parallel {
            Some(frames) => {
                for _ in 0..threads {
                    let frames = Arc::clone(&frames);
                    input.spawn(move |ahead| frames.work(ahead))?;
                }
            }
            None => input
                .spawn(move |ahead| decoders::stream(ahead, source, compression, window_log))?,
        }
        Ok(input)
    }

    fn spawn(&mut self, work: impl FnOnce(&Arc<Ahead>) + Send + 'static) -> Result<(), Error> {
        let ahead = Arc::clone(&self.ahead);
        let thread = thread::Builder::new()
            .name("decode".to_owned())
            .spawn(move || work(&ahead));
        self.threads.push(thread.map_err(Error::Thread)?);
        Ok(())
    }

    /// How the archive is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The frames, for a zstd archive in a regular file.
    pub fn frames(&self) -> Option<&[Frame]> {
        self.frames.as_deref()
    }

    /// The next piece of the tar stream; `None` at its end. Pieces are of any length but empty.
    ///
    /// A piece may be kept and shared. As long as it is, less is decoded ahead; but the piece asked
    /// for comes in any case, so that whoever holds on to all of them gets all of them, with the
    /// memory that this takes. Whoever hands pieces to other threads calls [`Input::wait_for_room`]
    /// now and then.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not be asked for anything else in between"
    )]
    pub fn next(&mut self) -> Result<Option<Chunk>, Error> {
        Ok(self.ahead.next()?.map(|(chunk, consumed)| {
            self.consumed = consumed;
            chunk
        }))
    }

    /// Waits until the pieces given out, the latest one not counted, take no more than half of the
    /// memory allowed. To be called when other threads are about to drop theirs; whoever keeps them
    /// all itself would wait for ever.
    pub fn wait_for_room(&self) {
        self.ahead.wait_for_room();
    }

    /// Bytes that pieces take now, those not yet read and those that are still shared, and what is
    /// being decoded; and the most that they ever took.
    pub fn held(&self) -> (u64, u64) {
        self.ahead.held()
    }

    /// Bytes of the archive that the pieces read so far came from.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Bytes of the tar stream, where a regular file tells before it is read: one that is not
    /// compressed, or zstd frames whose headers all say it.
    pub fn content(&self) -> Option<u64> {
        self.content
    }
}

/// How the archive in a regular file is compressed, and where its zstd frames are. Nothing is
/// decoded, and the file's position stays as it is.
pub fn look(file: &File) -> Result<(Compression, Option<Vec<Frame>>), Error> {
    let length = file.metadata().map_err(Error::Read)?.len();
    let source = file.try_clone().map_err(Error::Read)?;
    let compression = detect(&mut ByteSource::range(Arc::new(source), 0, length))?;
    let frames = match compression {
        Compression::Zstd => Some(frames::scan(file, 0, length)?),
        _ => None,
    };
    Ok((compression, frames))
}

fn detect(source: &mut ByteSource) -> Result<Compression, Error> {
    let first = source.peek(DETECTED).map_err(Error::Read)?;
    match detect::detect(first) {
        Detected::Tar(compression) => Ok(compression),
        Detected::Other(name) => Err(Error::Other(name)),
        Detected::Unknown if first.is_empty() => Err(Error::Empty),
        Detected::Unknown => Err(Error::Unknown),
    }
}

/// Bytes of content in all frames, when each says it.
fn content(frames: &[Frame]) -> Option<u64> {
    frames
        .iter()
        .try_fold(0_u64, |sum, frame| sum.checked_add(frame.content?))
}

impl Drop for Input {
    fn drop(&mut self) {
        self.ahead.stop();
        if let Some(interrupt) = &self.interrupt {
            interrupt.raise();
        }
        for thread in self.threads.drain(..) {
            // It has nothing to tell; had it died, the reader would have been told.
            let _ = thread.join();
        }
        self.ahead.clear();
    }
}
