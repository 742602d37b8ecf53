//! The tar stream of an archive, from a file or a pipe, plain or compressed, decoded ahead of the
//! reader.

mod ahead;
mod byte_source;
mod decoders;
mod detect;
mod digest;

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Read(error) => Classify::kind(error),
            Error::Zstd(frames::Error {
                fault: Fault::Read(cause),
                ..
            })
            | Error::Damaged { cause, .. }
                if has_changed(cause) || cause.raw_os_error().is_some() =>
            {
                Classify::kind(cause)
            }
            Error::Directory => ErrorKind::InvalidInput,
            _ => ErrorKind::BadArchive,
        }
    }
}

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use ahead::Chunk;
pub use digest::{Digests, Hashed};

use crate::error::{Changed, Classify, ErrorKind, of_call};
use crate::zst::decode::check_windows;
use crate::zst::frames::{self, Fault, Frame};
use ahead::Ahead;
use byte_source::{ByteSource, Interrupt};
use decoders::Frames;
use detect::{DETECTED, Detected};
use digest::Verified;

/// The compression of an archive, detected by its first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    #[default]
    None,
    /// Zstandard, with any frames.
    Zstd,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
}

/// Options for reading an archive.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of decoding threads, at least 1.
    pub threads: usize,
    /// Memory for decoded frames before they are read and for the decoders, in bytes. The next
    /// frame in order may always be decoded.
    pub memory: u64,
    /// The widest zstd window accepted, as the exponent of two: 10..=31. sbuild accepts 27.
    pub window_log: u32,
    /// Decode large frames early even if that takes more memory than their window. This saves time
    /// if the caller only reads. A caller that also writes files loses more by the additional
    /// memory.
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
    #[error("it is empty (0 bytes): the program that wrote it failed; create it again")]
    Empty,
    /// There is nothing in it but its compression.
    #[error("its content is empty (0 bytes): the program that wrote it failed; create it again")]
    EmptyContent,
    /// It has an unsupported format.
    #[error(
        "it is {0}; only tar archives are read, plain or compressed with zstd, gzip or xz: convert it first"
    )]
    Other(&'static str),
    /// Its format is unknown.
    #[error("it is not a tar archive, plain or compressed with zstd, gzip or xz")]
    Unknown,
    /// Its compression is not compiled in.
    #[error(
        "it is compressed with {format}, which this build of isar-tarball does not read; decompress it first"
    )]
    #[cfg_attr(all(feature = "gzip", feature = "xz"), allow(dead_code))]
    FeatureOff {
        /// Name of the compression and of the Cargo feature.
        format: &'static str,
    },
    /// A zstd frame cannot be read.
    #[error(transparent)]
    Zstd(#[from] frames::Error),
    /// A gzip or xz archive cannot be read.
    #[error("{format} data near byte {offset}: {}", damage(.cause))]
    #[cfg_attr(not(any(feature = "gzip", feature = "xz")), allow(dead_code))]
    Damaged {
        /// The name of the compression.
        format: &'static str,
        /// Bytes read so far.
        offset: u64,
        /// The fault.
        cause: io::Error,
    },
    /// Decoding an xz archive would take more memory than allowed.
    #[error(
        "decoding this xz archive takes more memory than the {limit} bytes allowed; compress it with a smaller dictionary"
    )]
    #[cfg_attr(not(feature = "xz"), allow(dead_code))]
    XzMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A thread could not be started.
    #[error("start a thread: {}; see `ulimit -u`", crate::error::describe(.0))]
    Thread(io::Error),
    /// A decoding thread panicked, which is a bug.
    #[error("a decoding thread panicked; please report this bug")]
    Broken,
}

/// True if another process changed the archive while it was read.
fn has_changed(cause: &io::Error) -> bool {
    cause.get_ref().is_some_and(|cause| cause.is::<Changed>())
}

fn damage(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the archive is truncated; copy or create it again".to_owned()
        }
        _ if has_changed(cause) => format!("read: {cause}"),
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
    is_empty: bool,
}

impl Input {
    /// Opens the archive that begins at the current position of `file`.
    ///
    /// The frames of a regular file are located and decoded in parallel, and the position of the
    /// file does not change. Other input is decoded sequentially. Waits for the first bytes of a
    /// pipe.
    pub fn open(file: File, options: &Options) -> Result<Input, Error> {
        Input::open_with(file, None, options)
    }

    /// [`Input::open`] of a regular file that was hashed before, if `digests` are given. If it has
    /// other bytes by now, [`Input::next`] fails with [`Changed`] before any of them is decoded.
    pub fn open_with(
        file: File,
        digests: Option<Arc<Digests>>,
        options: &Options,
    ) -> Result<Input, Error> {
        let file = Arc::new(file);
        let about = file.metadata().map_err(Error::Read)?;
        if about.is_dir() {
            return Err(Error::Directory);
        }
        let (mut source, range, interrupt) = if about.is_file() {
            let (start, end) = match &digests {
                Some(digests) => digests.range(),
                None => {
                    let start = (&*file).stream_position().map_err(Error::Read)?;
                    (start.min(about.len()), about.len())
                }
            };
            (
                ByteSource::range(Arc::clone(&file), start, end, digests.as_ref()),
                Some((start, end - start)),
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
            (Compression::Zstd, Some((start, length))) => Some(match &digests {
                Some(digests) => scan_verified(&file, digests)?,
                None => frames::scan(&file, start, length)?,
            }),
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
                digests,
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
            is_empty: true,
        };
        match parallel {
            Some(frames) => {
                for _ in 0..threads {
                    let frames = Arc::clone(&frames);
                    match input.spawn(move |ahead| frames.work(ahead)) {
                        // The threads that run do all of the work.
                        Err(_) if !input.threads.is_empty() => break,
                        started => started?,
                    }
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
        let thread = thread.map_err(|error| Error::Thread(of_call("clone3", "5.3", error)))?;
        self.threads.push(thread);
        Ok(())
    }

    /// The compression of the archive.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The frames of a zstd archive in a regular file.
    pub fn frames(&self) -> Option<&[Frame]> {
        self.frames.as_deref()
    }

    /// Returns the next piece of the tar stream, `None` at its end. Pieces have any length except
    /// 0.
    ///
    /// A piece may be kept and shared. While it is, less is decoded ahead. But the requested piece
    /// is always returned, so a caller that keeps all pieces gets all of them and pays the memory.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator could not be asked for anything else in between"
    )]
    pub fn next(&mut self) -> Result<Option<Chunk>, Error> {
        match self.ahead.next()? {
            Some((chunk, consumed)) => {
                self.consumed = consumed;
                self.is_empty = false;
                Ok(Some(chunk))
            }
            None if self.is_empty => Err(Error::EmptyContent),
            None => Ok(None),
        }
    }

    #[cfg(any(test, feature = "internals"))]
    /// Waits until the pieces handed out, except the latest, take at most half of the memory
    /// allowed. For callers whose other threads drop their pieces; a caller that keeps all pieces
    /// would wait forever.
    pub fn wait_for_room(&self) {
        self.ahead.wait_for_room();
    }

    #[cfg(any(test, feature = "internals"))]
    /// Bytes taken now by unread pieces, shared pieces and decoders, and their peak.
    pub fn held(&self) -> (u64, u64) {
        self.ahead.held()
    }

    /// Position in the archive of the pieces read so far, in bytes.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Length of the tar stream in bytes, if known beforehand: for a regular file that is not
    /// compressed, or whose zstd frame headers all have the content size.
    pub fn content(&self) -> Option<u64> {
        self.content
    }
}

/// Returns the compression of the archive in a regular file. Does not change the position of the
/// file.
pub fn compression(file: &File) -> Result<Compression, Error> {
    let length = file.metadata().map_err(Error::Read)?.len();
    let source = file.try_clone().map_err(Error::Read)?;
    detect(&mut ByteSource::range(Arc::new(source), 0, length, None))
}

/// Returns the compression of the archive in a regular file and its zstd frames. Decodes nothing,
/// and does not change the position of the file.
pub fn look(file: &File) -> Result<(Compression, Option<Vec<Frame>>), Error> {
    let length = file.metadata().map_err(Error::Read)?.len();
    let compression = compression(file)?;
    let frames = match compression {
        Compression::Zstd => Some(frames::scan(file, 0, length)?),
        _ => None,
    };
    Ok((compression, frames))
}

/// [`frames::scan`] of the bytes that were hashed: with others, the content of a frame could be
/// taken for frames.
fn scan_verified(file: &Arc<File>, digests: &Arc<Digests>) -> Result<Vec<Frame>, frames::Error> {
    let (start, end) = digests.range();
    let mut verified = Verified::new(Arc::clone(file), Arc::clone(digests));
    frames::scan_with(end - start, |offset, buffer| {
        verified.at(start + offset)?.read(buffer)
    })
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

/// Bytes of content in all frames, if each header has its size.
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
            // It returns nothing, and the reader has already seen a panic.
            let _ = thread.join();
        }
        self.ahead.clear();
    }
}
