//! Writing files: the reader of the archive creates the names in order and passes the open files to
//! workers, which write the data, set the attributes and close the files.
//!
//! One thread creates and replaces names in archive order, and workers use only descriptors. So the
//! tree is the same for any number of workers, no matter when a worker processes a file and whether
//! the file still has its name.

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

/// A new, incomplete file. The last worker to drop it completes it.
#[derive(Debug)]
pub struct OpenFile {
    /// Open for writing.
    pub file: OwnedFd,
    /// For messages.
    pub path: Box<[u8]>,
    /// Attributes to set after the data is written.
    pub attributes: Attributes,
    /// Its length, if it ends with a hole.
    pub length: Option<u64>,
    /// True if it may have inherited a group or an ACL from its directory.
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

/// Bytes to write to a file.
#[derive(Debug)]
pub struct Piece {
    /// Offset in the file.
    pub offset: u64,
    /// The piece that contains them.
    pub chunk: Chunk,
    /// Their range in the piece.
    pub bytes: Range<usize>,
}

/// A job for a worker: bytes of a file, perhaps the last ones.
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

/// Maximum number of jobs in a batch: waking a worker costs as much as writing a small file.
const BATCH: usize = 32;

/// Size in bytes at which a smaller batch is queued.
const BATCH_BYTES: u64 = 256 << 10;

/// Maximum number of queued batches. Together with the batches of the workers it limits the number
/// of open files.
const WAITING: usize = 8;

/// Number of batches with open files: those in the queue, that of each worker, and the next one.
fn batches(workers: usize) -> usize {
    WAITING + workers + 1
}

/// Batches of jobs between the reader and the workers.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Maximum number of bytes in queued and current batches. A single batch is always accepted.
    max_bytes: u64,
    /// Number of jobs in a full batch.
    batch: usize,
    /// Maximum number of open files.
    max_open: usize,
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
    /// An empty queue for `workers` workers, with a limit in bytes and one of open files. At least
    /// one file for each batch is open at a time.
    pub fn new(workers: usize, max_bytes: u64, max_open: usize) -> Queue {
        let batch = (max_open / batches(workers)).clamp(1, BATCH);
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            max_bytes,
            batch,
            max_open: batch * batches(workers),
        }
    }

    /// Maximum number of open files.
    pub fn max_open(&self) -> usize {
        self.max_open
    }

    /// Queues a batch, waiting for memory. Fails if a worker has failed.
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

    /// Processes batches until the queue is closed and empty, or a worker has failed.
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

    /// Closes the queue.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    /// Stops the workers and discards the queued batches.
    pub fn give_up(&self) {
        let mut state = self.lock();
        state.has_failed = true;
        state.batches.clear();
        drop(state);
        self.filled.notify_all();
    }

    /// The first error of a worker.
    pub fn take_error(&self) -> Option<Error> {
        self.lock().failed.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No operation under the lock can leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that is being collected.
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
            jobs: Vec::with_capacity(queue.batch),
            bytes: 0,
        }
    }

    /// Adds a job.
    pub fn push(&mut self, job: Job) -> Result<(), Error> {
        self.bytes += job.bytes();
        self.jobs.push(job);
        if self.jobs.len() >= self.queue.batch || self.bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Queues the batch. Call it before waiting for anything: the jobs hold memory that the wait
    /// may depend on.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        if self.jobs.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(self.queue.batch);
        self.queue.put(std::mem::replace(&mut self.jobs, next))
    }
}
