//! State shared by the decoders and the reader: the assignment of parts, the decoded pieces, and
//! the memory that they take.
//!
//! The stream is divided into parts (frames, or one part for the whole stream). Decoders take parts
//! in order and queue decoded pieces; the reader consumes the pieces of one part after the other.
//! Memory is charged before it is used, and a decoder that would exceed the budget waits until
//! memory is released. One exception prevents a deadlock: the part being read may exceed the budget
//! if none of its pieces is queued. The part being read is never blocked, so it always finishes and
//! the next part takes its place.
//!
//! Large parts may be taken early, so that the others do not end up waiting for one. Memory for the
//! whole content of such a part is reserved beforehand and charged at once, so it is never blocked
//! either.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Error;

/// Minimum size of a buffer, in bytes: smaller ones are not worth the bookkeeping.
const SMALLEST: usize = 64 << 10;

/// The queue between the decoders and the reader.
pub(super) struct Ahead {
    /// Number of parts.
    parts: usize,
    /// Parts to be taken early, in the order in which they are due.
    early: Vec<Early>,
    /// Memory budget, in bytes.
    budget: u64,
    state: Mutex<State>,
    /// Signals that there is something to read, or nothing more to wait for.
    ready: Condvar,
    /// Signals that memory was released, or that there is nothing more to wait for.
    released: Condvar,
}

/// A part that is taken early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Early {
    /// Index of the part.
    pub(super) part: usize,
    /// The part at whose turn this one is due.
    pub(super) due: usize,
    /// Size of its content, in bytes.
    pub(super) size: usize,
}

#[derive(Default)]
struct State {
    /// Index of the next part to take; all before it are taken.
    next: usize,
    /// Parts after `next` that were taken early.
    taken_early: HashSet<usize>,
    /// Index of the next early part to take.
    early: usize,
    /// Number of parts being decoded.
    working: usize,
    /// Index of the part being read.
    head: usize,
    /// Parts from `head` to the last one taken.
    slots: VecDeque<Slot>,
    /// Bytes charged: buffers outside `free`, and the contexts of decoders.
    held: u64,
    /// Bytes reserved for the next part to be taken early.
    reserved: u64,
    /// Bytes of these in pieces that the reader has handed out.
    lent: u64,
    /// Size of the last piece read.
    latest: u64,
    /// Peak of the charged bytes.
    peak: u64,
    /// Buffers for reuse, the most recently used last.
    free: Vec<Vec<u8>>,
    /// Decoding is of no more use: the reader has gone, or an error ended the stream.
    stopped: bool,
    /// A decoder panicked.
    broken: bool,
}

#[derive(Default)]
struct Slot {
    pieces: VecDeque<Piece>,
    outcome: Option<Result<(), Error>>,
}

/// A decoded piece.
struct Piece {
    buffer: Buffer,
    /// Position in the archive at the end of this piece, in bytes.
    consumed: u64,
}

/// A buffer for content, charged until it is dropped.
pub(super) struct Buffer {
    /// The content. Its capacity must not change.
    pub(super) bytes: Vec<u8>,
    charged: u64,
    is_lent: bool,
    ahead: Arc<Ahead>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.clear();
        let mut state = self.ahead.lock();
        state.held = state.held.saturating_sub(self.charged);
        if self.is_lent {
            state.lent = state.lent.saturating_sub(self.charged);
        }
        if state.may_want(self.ahead.parts) {
            state.free.push(mem::take(&mut bytes));
            state.trim(self.ahead.budget);
        }
        drop(state);
        // Freeing memory takes time: do it without the lock.
        drop(bytes);
        self.ahead.ready.notify_all();
        self.ahead.released.notify_all();
    }
}

/// Bytes of the tar stream. Clones share them; the memory is reused after the last clone is
/// dropped.
#[derive(Clone)]
pub struct Chunk(Arc<Buffer>);

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Chunk({} bytes)", self.len())
    }
}

/// A decoder's context, reused for the next part to save page faults, and charged until it is
/// dropped.
pub(super) struct Kept<T> {
    /// The context, if it exists. Dropped when other decoders wait for the memory.
    pub(super) value: Option<T>,
    charged: u64,
    ahead: Arc<Ahead>,
}

impl<T> Kept<T> {
    /// Nothing yet.
    pub(super) fn new(ahead: &Arc<Ahead>) -> Kept<T> {
        Kept {
            value: None,
            charged: 0,
            ahead: Arc::clone(ahead),
        }
    }

    /// Drops the context if the charged memory exceeds the budget. Call it before a part is done,
    /// because another decoder may exceed the budget with the next one.
    pub(super) fn settle(&mut self) {
        if self.ahead.is_over_budget() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.value = None;
        self.ahead.lock().give_back(&mut self.charged);
        self.ahead.released.notify_all();
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A part taken by a decoder. Dropping it without [`Part::done`] breaks the stream.
pub(super) struct Part {
    /// Index of the part.
    pub(super) index: usize,
    /// A buffer for all of its content, if it was taken early.
    whole: Option<Buffer>,
    ahead: Arc<Ahead>,
}

impl Part {
    /// True if the part was taken early, with a buffer for all of its content.
    pub(super) fn is_early(&self) -> bool {
        self.whole.is_some()
    }

    /// Returns a buffer for `size` bytes, waiting for memory. `None` if the reader has gone.
    pub(super) fn buffer(&mut self, size: usize) -> Option<Buffer> {
        let size = size.max(SMALLEST);
        if let Some(buffer) = self.whole.take_if(|buffer| buffer.bytes.capacity() >= size) {
            return Some(buffer);
        }
        let ahead = &self.ahead;
        let mut state = ahead.lock();
        loop {
            if state.stopped {
                return None;
            }
            let budget = ahead.budget.saturating_sub(state.reserved);
            if let Some(bytes) = state.allowed(self.index, size, budget) {
                return Some(ahead.charged(state, bytes, size));
            }
            state = wait(&ahead.released, state);
        }
    }

    /// Queues the next piece of this part. Drops empty ones.
    pub(super) fn put(&self, buffer: Buffer, consumed: u64) {
        if buffer.bytes.is_empty() {
            return;
        }
        let mut state = self.ahead.lock();
        if let Some(slot) = state.slot(self.index) {
            slot.pieces.push_back(Piece { buffer, consumed });
        }
        drop(state);
        self.ahead.ready.notify_all();
    }

    /// Ends this part: complete, or with the error in `outcome`.
    pub(super) fn done(self, outcome: Result<(), Error>) {
        let mut state = self.ahead.lock();
        if let Some(slot) = state.slot(self.index) {
            slot.outcome = Some(outcome);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.ahead.lock();
        if state
            .slot(self.index)
            .is_some_and(|slot| slot.outcome.is_none())
        {
            state.broken = true;
        }
        state.working -= 1;
        let unused = if state.may_want(self.ahead.parts) {
            Vec::new()
        } else {
            mem::take(&mut state.free)
        };
        drop(state);
        self.ahead.ready.notify_all();
        self.ahead.released.notify_all();
        drop(unused);
    }
}

impl State {
    /// The slot of a part that was taken and is not yet read to its end.
    fn slot(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index.checked_sub(self.head)?)
    }

    /// True if a buffer may be reused.
    fn may_want(&self, parts: usize) -> bool {
        !self.stopped && (self.next < parts || self.working > 0)
    }

    /// Marks part `index` as taken.
    fn take(&mut self, index: usize) {
        let slots = (index + 1).saturating_sub(self.head).max(self.slots.len());
        self.slots.resize_with(slots, Slot::default);
        self.working += 1;
        self.taken_early.insert(index);
        while self.taken_early.remove(&self.next) {
            self.next += 1;
        }
    }

    /// Takes the next early part, if it is due and memory for all of its content is available.
    /// Returns its index, the buffer and the size of the buffer.
    fn take_early(&mut self, early: &[Early], budget: u64) -> Option<(usize, Vec<u8>, usize)> {
        // Skip early parts that did not fit in time and were taken in order.
        while early
            .get(self.early)
            .is_some_and(|early| early.part < self.next)
        {
            self.early += 1;
        }
        let next = early.get(self.early).filter(|early| early.part > self.next);
        self.reserved = next.map_or(0, |next| next.size as u64);
        let Early { part, size, .. } = *next.filter(|early| early.due <= self.next)?;
        let bytes = self.allowed(part, size, budget)?;
        self.early += 1;
        self.reserved = 0;
        self.take(part);
        Some((part, bytes, size))
    }

    /// Returns a buffer for part `index` if it may have `size` bytes now: a reused or an empty one.
    fn allowed(&mut self, index: usize, size: usize, budget: u64) -> Option<Vec<u8>> {
        let is_next =
            index == self.head && self.slots.front().is_none_or(|slot| slot.pieces.is_empty());
        // A much larger buffer would hold back memory that others wait for.
        let fits = |bytes: &Vec<u8>| bytes.capacity() <= size.saturating_mul(2);
        let free = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, bytes)| fits(bytes));
        // The buffer that grows least; of these the smallest.
        let place =
            free.min_by_key(|(_, bytes)| (size.saturating_sub(bytes.capacity()), bytes.capacity()));
        let place = place.map(|(place, _)| place);
        let needed = place
            .and_then(|place| self.free.get(place))
            .map_or(size, |bytes| bytes.capacity().max(size));
        if !is_next && self.held.saturating_add(needed as u64) > budget {
            return None;
        }
        Some(place.map_or_else(Vec::new, |place| self.free.remove(place)))
    }

    fn charge(&mut self, bytes: u64) {
        self.held = self.held.saturating_add(bytes);
        self.peak = self.peak.max(self.held);
    }

    fn give_back(&mut self, charged: &mut u64) {
        self.held = self.held.saturating_sub(mem::take(charged));
    }

    /// Frees unused buffers until all memory fits the budget.
    fn trim(&mut self, budget: u64) {
        let mut unused: u64 = self.free.iter().map(|bytes| bytes.capacity() as u64).sum();
        while !self.free.is_empty() && self.held.saturating_add(unused) > budget {
            unused -= self.free.remove(0).capacity() as u64;
        }
    }
}

impl Ahead {
    /// Parts in `early` that would take more than two thirds of the budget are taken in order
    /// instead.
    pub(super) fn new(parts: usize, mut early: Vec<Early>, budget: u64) -> Arc<Ahead> {
        early.retain(|early| early.size as u64 <= budget.saturating_mul(2) / 3);
        let state = Mutex::default();
        Arc::new(Ahead {
            parts,
            early,
            budget,
            state,
            ready: Condvar::new(),
            released: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns `bytes` into a buffer for `size` bytes. The memory is already charged.
    fn charged(
        self: &Arc<Ahead>,
        mut state: MutexGuard<'_, State>,
        mut bytes: Vec<u8>,
        size: usize,
    ) -> Buffer {
        let charged = size.max(bytes.capacity()) as u64;
        state.charge(charged);
        // Free unused memory of the wrong size first.
        state.trim(self.budget);
        drop(state);
        // Grow a buffer that is too small: the kernel moves large memory without touching it.
        bytes.reserve_exact(size);
        Buffer {
            bytes,
            charged,
            is_lent: false,
            ahead: Arc::clone(self),
        }
    }

    fn is_over_budget(&self) -> bool {
        self.lock().held > self.budget
    }

    /// Takes the next part to decode, waiting for memory. `needs` returns the size of the decoder's
    /// context for a part, in bytes. `None` if there is nothing more to do.
    pub(super) fn take<T>(
        self: &Arc<Ahead>,
        kept: &mut Kept<T>,
        needs: impl Fn(usize) -> u64,
    ) -> Option<Part> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some((index, bytes, size)) = state.take_early(&self.early, self.budget) {
                let whole = Some(self.charged(state, bytes, size));
                return Some(Part {
                    index,
                    whole,
                    ahead: Arc::clone(self),
                });
            }
            let index = state.next;
            if index == self.parts {
                return None;
            }
            let more = needs(index).saturating_sub(kept.charged);
            let budget = self.budget.saturating_sub(state.reserved);
            if index == state.head || state.held.saturating_add(more) <= budget {
                state.take(index);
                state.charge(more);
                kept.charged += more;
                // Free unused buffers for it.
                state.trim(self.budget);
                return Some(Part {
                    index,
                    whole: None,
                    ahead: Arc::clone(self),
                });
            }
            if kept.charged == 0 {
                state = wait(&self.released, state);
                continue;
            }
            // Release memory that would be idle here.
            drop(state);
            kept.let_go();
            state = self.lock();
        }
    }

    /// Returns the next piece of the stream and the position in the archive at its end. `None` at
    /// the end of the stream.
    pub(super) fn next(&self) -> Result<Option<(Chunk, u64)>, Error> {
        let mut state = self.lock();
        loop {
            if state.head == self.parts {
                return Ok(None);
            }
            let slot = state.slots.front_mut();
            if let Some(Piece {
                mut buffer,
                consumed,
            }) = slot.and_then(|slot| slot.pieces.pop_front())
            {
                buffer.is_lent = true;
                state.lent += buffer.charged;
                state.latest = buffer.charged;
                drop(state);
                // The decoder of the part being read may wait for this piece to be taken.
                self.released.notify_all();
                return Ok(Some((Chunk(Arc::new(buffer)), consumed)));
            }
            match state.slots.front_mut().and_then(|slot| slot.outcome.take()) {
                Some(Ok(())) => {
                    state.slots.pop_front();
                    state.head += 1;
                    self.released.notify_all();
                }
                Some(Err(error)) => {
                    state.stopped = true;
                    // A further call returns the end.
                    state.head = self.parts;
                    self.released.notify_all();
                    return Err(error);
                }
                None if state.broken => return Err(Error::Broken),
                None => state = wait(&self.ready, state),
            }
        }
    }

    #[cfg(any(test, feature = "internals"))]
    /// Waits until the pieces handed out, except the latest, take at most half of the budget.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.lent > state.latest.saturating_add(self.budget / 2) {
            state = wait(&self.ready, state);
        }
    }

    #[cfg(any(test, feature = "internals"))]
    /// Bytes charged now, and their peak.
    pub(super) fn held(&self) -> (u64, u64) {
        let state = self.lock();
        (state.held, state.peak)
    }

    /// Stops the decoders and the reader.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let unused = mem::take(&mut state.free);
        drop(state);
        drop(unused);
        self.ready.notify_all();
        self.released.notify_all();
    }

    /// Drops unread pieces. Call it when no decoder is left: the pieces and this queue reference
    /// each other.
    pub(super) fn clear(&self) {
        let slots = mem::take(&mut self.lock().slots);
        // Outside the lock, because dropping a piece takes it.
        drop(slots);
    }
}

fn wait<'s>(condition: &Condvar, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}
