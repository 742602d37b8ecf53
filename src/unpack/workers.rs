//! Writing files: whoever reads the archive makes the names, in order, and hands over the open
//! files; workers write, give the attributes and close.
//!
//! A name is made and replaced by one thread in archive order, and everything after that goes
//! through the descriptor. So it does not matter when a worker gets to a file, nor whether its name
//! still stands: the tree is the same for any number of workers.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::ftruncate;
use rustix::io::{Errno, pwrite};

use super::attributes::{Attributes, Handle, Own};
use super::error::Error;
use crate::error::{FileError, PathContext};
use crate::input::Chunk;
use crate::sys::piece;

/// A file that was made and is not complete. Whoever lets go of it last completes it.
#[derive(Debug)]
pub struct OpenFile {
    /// Open for writing.
    pub file: OwnedFd,
    /// For messages.
    pub path: Box<[u8]>,
    /// What it gets once its data is written.
    pub attributes: Attributes,
    /// Its length, where a hole at its end makes it longer than its data.
    pub length: Option<u64>,
    /// It may have a group or an ACL from the directory that it was made in.
    pub has_inherited: bool,
}

impl OpenFile {
    fn complete(self, own: Own) -> Result<(), FileError> {
        if let Some(length) = self.length {
            ftruncate(&self.file, length).at(&self.path, "set its length")?;
        }
        let mode = (!self.has_inherited).then(|| self.attributes.initial_mode());
        let handle = Handle {
            file: self.file.as_fd(),
            is_path: false,
            path: &self.path,
            mode,
        };
        self.attributes.apply(handle, own)
    }
}

/// Bytes of a file that are to be written.
#[derive(Debug)]
pub struct Piece {
    /// Where in the file.
    pub offset: u64,
    /// What holds them.
    pub chunk: Chunk,
    /// Where they are in it.
    pub bytes: Range<usize>,
}

/// What one worker does at a time: bytes of a file, perhaps the last ones.
#[derive(Debug)]
pub struct Job {
    /// The file.
    pub file: Arc<OpenFile>,
    /// The bytes, in order.
    pub pieces: Vec<Piece>,
}

impl Job {
    fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| piece.bytes.len() as u64)
            .sum()
    }

    fn run(self, own: Own) -> Result<(), FileError> {
        for Piece {
            offset,
            chunk,
            bytes,
        } in &self.pieces
        {
            let data = chunk.get(bytes.clone()).unwrap_or_default();
            write_all(&self.file, data, *offset)?;
        }
        match Arc::into_inner(self.file) {
            Some(file) => file.complete(own),
            None => Ok(()),
        }
    }
}

fn write_all(file: &OpenFile, mut data: &[u8], mut offset: u64) -> Result<(), FileError> {
    while !data.is_empty() {
        match pwrite(&file.file, piece(data), offset) {
            Ok(0) => return Err(FileError::new(&file.path, "write", Errno::IO)),
            Ok(count) => {
                data = data.get(count..).unwrap_or_default();
                offset = offset.saturating_add(count as u64);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(FileError::new(&file.path, "write", error)),
        }
    }
    Ok(())
}

/// Jobs are handed over so many at a time: waking a worker costs as much as a small file.
const BATCH: usize = 32;

/// A batch is handed over early when it has this many bytes.
const BATCH_BYTES: u64 = 256 << 10;

/// No more batches wait than these. With those in work they bound the number of open files.
const WAITING: usize = 8;

/// So many files are open at once, at the most, for `workers` workers.
pub fn open_files(workers: usize) -> usize {
    (WAITING + workers + 1) * BATCH
}

/// Batches of jobs between the reader and the workers.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Bytes that may wait or be in work. A single batch may always.
    max_bytes: u64,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Vec<Job>>,
    bytes: u64,
    is_closed: bool,
    failed: Option<Error>,
    has_failed: bool,
}

impl Queue {
    /// An empty queue for so many bytes.
    pub fn new(max_bytes: u64) -> Queue {
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            max_bytes,
        }
    }

    /// Hands a batch over, once there is room for it. Fails when a worker has.
    fn put(&self, batch: Vec<Job>) -> Result<(), Error> {
        let bytes: u64 = batch.iter().map(Job::bytes).sum();
        let mut state = self.lock();
        while !state.has_failed
            && (state.batches.len() >= WAITING
                || (state.bytes > 0 && state.bytes + bytes > self.max_bytes))
        {
            state = self
                .drained
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.has_failed {
            return Err(Error::GivenUp);
        }
        state.bytes += bytes;
        state.batches.push_back(batch);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Works until the queue is closed and empty, or somebody has failed.
    pub fn work(&self, own: Own) {
        let mut state = self.lock();
        loop {
            if state.has_failed {
                return;
            }
            let Some(batch) = state.batches.pop_front() else {
                if state.is_closed {
                    return;
                }
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            self.drained.notify_one();
            let bytes: u64 = batch.iter().map(Job::bytes).sum();
            let done = batch.into_iter().try_for_each(|job| job.run(own));
            state = self.lock();
            state.bytes -= bytes;
            self.drained.notify_one();
            if let Err(error) = done {
                state.has_failed = true;
                state.failed.get_or_insert(error.into());
                self.filled.notify_all();
            }
        }
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    /// Nothing that waits is worth doing any more.
    pub fn give_up(&self) {
        let mut state = self.lock();
        state.has_failed = true;
        state.batches.clear();
        drop(state);
        self.filled.notify_all();
    }

    /// The error of the worker that failed first.
    pub fn take_error(&self) -> Option<Error> {
        self.lock().failed.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Jobs on their way to the queue.
pub struct Batch<'a> {
    queue: &'a Queue,
    jobs: Vec<Job>,
    bytes: u64,
}

impl<'a> Batch<'a> {
    /// An empty batch for `queue`.
    pub fn new(queue: &'a Queue) -> Batch<'a> {
        Batch {
            queue,
            jobs: Vec::with_capacity(BATCH),
            bytes: 0,
        }
    }

    /// Adds a job.
    pub fn push(&mut self, job: Job) -> Result<(), Error> {
        self.bytes += job.bytes();
        self.jobs.push(job);
        if self.jobs.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Hands over what there is. To be called before waiting for anything: jobs hold on to memory
    /// that may be waited for.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        if self.jobs.is_empty() {
            return Ok(());
        }
        self.queue
            .put(std::mem::replace(&mut self.jobs, Vec::with_capacity(BATCH)))
    }
}
