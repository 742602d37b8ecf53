//! What decoders and the reader share: who decodes what, the pieces that wait to be read, and the
//! memory that they take.
//!
//! The stream is cut into parts (frames, or one part that is everything). Decoders take parts in
//! order and put their pieces down; the reader takes the pieces of the first part, then of the
//! next. Memory is charged before it is used, and whoever wants more than the budget waits until
//! some is given back. The one exception keeps all of it moving: the part that is read now may go
//! over the budget when none of its pieces is waiting. That part never waits, so it ends, and the
//! next one is it.
//!
//! Large parts may be taken before their turn, so that the others don't end up waiting for one.
//! Room for all of such a part's content is kept free until then and charged at once, because then
//! it never waits either.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Error;

/// The smallest buffer, in bytes: smaller ones would not be worth the bookkeeping.
const SMALLEST: usize = 64 << 10;

/// Decoders on one side, the reader on the other.
pub(super) struct Ahead {
    /// Number of parts.
    parts: usize,
    /// Parts to be taken before their turn, in the order in which this is due.
    early: Vec<Early>,
    /// Bytes that may be taken.
    budget: u64,
    state: Mutex<State>,
    /// There is something to read, or nothing more to wait for.
    ready: Condvar,
    /// There is memory again, or nothing more to wait for.
    room: Condvar,
}

/// A part that is taken before its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Early {
    /// Which one.
    pub(super) part: usize,
    /// When: as soon as it would be this one's turn.
    pub(super) due: usize,
    /// Bytes of its content.
    pub(super) size: usize,
}

#[derive(Default)]
struct State {
    /// The part whose turn it is to be taken; all before it have been.
    next: usize,
    /// Parts behind it that have been taken.
    taken_early: HashSet<usize>,
    /// The early part that is to be taken next.
    early: usize,
    /// Parts that have been taken and are still worked on.
    working: usize,
    /// The part that is being read.
    head: usize,
    /// Parts from `head` on, up to the last that has been taken.
    slots: VecDeque<Slot>,
    /// Bytes charged: buffers outside `free`, and what decoders need besides.
    held: u64,
    /// Bytes kept free for the next part that is to be taken early.
    reserved: u64,
    /// Of these, what the reader and whoever it shares with have.
    lent: u64,
    /// What the last piece read takes.
    latest: u64,
    /// The most that was ever charged.
    peak: u64,
    /// Buffers to be used again, the one last used at the end.
    free: Vec<Vec<u8>>,
    /// Nobody will read any more, or it makes no sense to.
    stopped: bool,
    /// A decoder died.
    broken: bool,
}

#[derive(Default)]
struct Slot {
    pieces: VecDeque<Piece>,
    outcome: Option<Result<(), Error>>,
}

/// Content that waits to be read.
struct Piece {
    buffer: Buffer,
    /// Bytes of the archive that have been read when this piece has.
    consumed: u64,
}

/// Room for content, charged until it is dropped.
pub(super) struct Buffer {
    /// The content. Its capacity must stay as it is.
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
        // Memory that nobody needs any more takes its time to go: here others can go on meanwhile.
        drop(bytes);
        self.ahead.ready.notify_all();
        self.ahead.room.notify_all();
    }
}

/// Bytes of the tar stream. Clones share them; the memory is used again when the last clone is
/// gone.
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

/// What a decoder needs besides buffers and uses again for the next part, charged until it is
/// dropped: memory that is touched for the first time is dear.
pub(super) struct Kept<T> {
    /// It, once it is there. Taken away when others wait for the memory.
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

    /// Lets go of it when more is taken than the budget allows. To be called before a part is done:
    /// with the next one, somebody else may go over the budget.
    pub(super) fn settle(&mut self) {
        if self.ahead.is_over_budget() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.value = None;
        self.ahead.lock().give_back(&mut self.charged);
        self.ahead.room.notify_all();
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A part that a decoder has taken. Dropping it without [`Part::done`] breaks the stream.
pub(super) struct Part {
    /// Which one.
    pub(super) index: usize,
    /// Room for all of its content, where it was taken before its turn.
    room: Option<Buffer>,
    ahead: Arc<Ahead>,
}

impl Part {
    /// Was it taken before its turn, with room for all of its content?
    pub(super) fn is_early(&self) -> bool {
        self.room.is_some()
    }

    /// Room for `size` bytes; waits until there is. `None` when nobody will read it.
    pub(super) fn buffer(&mut self, size: usize) -> Option<Buffer> {
        let size = size.max(SMALLEST);
        if let Some(room) = self.room.take_if(|room| room.bytes.capacity() >= size) {
            return Some(room);
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
            state = wait(&ahead.room, state);
        }
    }

    /// Puts the next piece of this part down for the reader. Empty ones are dropped.
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

    /// No piece follows: all are there, or `outcome` says why not.
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
        self.ahead.room.notify_all();
        drop(unused);
    }
}

impl State {
    /// The slot of a part that has been taken and not yet been read to its end.
    fn slot(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index.checked_sub(self.head)?)
    }

    /// May a buffer be of use again?
    fn may_want(&self, parts: usize) -> bool {
        !self.stopped && (self.next < parts || self.working > 0)
    }

    /// Part `index` is taken.
    fn take(&mut self, index: usize) {
        let slots = (index + 1).saturating_sub(self.head).max(self.slots.len());
        self.slots.resize_with(slots, Slot::default);
        self.working += 1;
        self.taken_early.insert(index);
        while self.taken_early.remove(&self.next) {
            self.next += 1;
        }
    }

    /// Takes the next early part, if it is due and may have room for all of its content now: its
    /// number, the buffer, and the size of that.
    fn take_early(&mut self, early: &[Early], budget: u64) -> Option<(usize, Vec<u8>, usize)> {
        // Those that did not fit in time have been taken when it was their turn.
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

    /// A buffer for part `index` if it may have `size` bytes now: one to be used again, or an empty
    /// one.
    fn allowed(&mut self, index: usize, size: usize, budget: u64) -> Option<Vec<u8>> {
        let is_next =
            index == self.head && self.slots.front().is_none_or(|slot| slot.pieces.is_empty());
        // A much larger one would keep what is waited for back, or take room from others.
        let fits = |bytes: &Vec<u8>| bytes.capacity() <= size.saturating_mul(2);
        let free = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, bytes)| fits(bytes));
        // That which grows least, and of these the smallest.
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

    /// Gives unused buffers back to the system until all memory together fits the budget.
    fn trim(&mut self, budget: u64) {
        let mut unused: u64 = self.free.iter().map(|bytes| bytes.capacity() as u64).sum();
        while !self.free.is_empty() && self.held.saturating_add(unused) > budget {
            unused -= self.free.remove(0).capacity() as u64;
        }
    }
}

impl Ahead {
    /// Of the parts in `early`, those are left to their turn that would take more than two thirds
    /// of the budget.
    pub(super) fn new(parts: usize, mut early: Vec<Early>, budget: u64) -> Arc<Ahead> {
        early.retain(|early| early.size as u64 <= budget.saturating_mul(2) / 3);
        let state = Mutex::default();
        Arc::new(Ahead {
            parts,
            early,
            budget,
            state,
            ready: Condvar::new(),
            room: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer with room for `size` bytes made of `bytes`, which were allowed for it.
    fn charged(
        self: &Arc<Ahead>,
        mut state: MutexGuard<'_, State>,
        mut bytes: Vec<u8>,
        size: usize,
    ) -> Buffer {
        let charged = size.max(bytes.capacity()) as u64;
        state.charge(charged);
        // Unused memory of the wrong size is let go of first.
        state.trim(self.budget);
        drop(state);
        // What is too small grows: the system moves large memory without touching it.
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

    /// The next part to decode, of which `needs` tells how many bytes its decoder needs besides
    /// buffers; waits until there is room. `None` when there is nothing more to do.
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
                let room = Some(self.charged(state, bytes, size));
                return Some(Part {
                    index,
                    room,
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
                // Unused buffers make room for it.
                state.trim(self.budget);
                return Some(Part {
                    index,
                    room: None,
                    ahead: Arc::clone(self),
                });
            }
            if kept.charged == 0 {
                state = wait(&self.room, state);
                continue;
            }
            // Others may need what would only lie idle here.
            drop(state);
            kept.let_go();
            state = self.lock();
        }
    }

    /// The next piece of the stream, and how much of the archive has been read with it. `None` at
    /// the end.
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
                // The part that is read now may have waited for its piece to be taken.
                self.room.notify_all();
                return Ok(Some((Chunk(Arc::new(buffer)), consumed)));
            }
            match state.slots.front_mut().and_then(|slot| slot.outcome.take()) {
                Some(Ok(())) => {
                    state.slots.pop_front();
                    state.head += 1;
                    self.room.notify_all();
                }
                Some(Err(error)) => {
                    state.stopped = true;
                    // Asked again, it is at its end.
                    state.head = self.parts;
                    self.room.notify_all();
                    return Err(error);
                }
                None if state.broken => return Err(Error::Broken),
                None => state = wait(&self.ready, state),
            }
        }
    }

    /// Waits until the pieces given out, the latest one left out, take no more than half of the
    /// budget.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.lent > state.latest.saturating_add(self.budget / 2) {
            state = wait(&self.ready, state);
        }
    }

    /// Bytes charged now, and the most that ever were.
    pub(super) fn held(&self) -> (u64, u64) {
        let state = self.lock();
        (state.held, state.peak)
    }

    /// Tells everybody to stop.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let unused = mem::take(&mut state.free);
        drop(state);
        drop(unused);
        self.ready.notify_all();
        self.room.notify_all();
    }

    /// Drops what nobody has read. To be called when no decoder is left: pieces hold on to what
    /// they wait in.
    pub(super) fn clear(&self) {
        let slots = mem::take(&mut self.lock().slots);
        // Dropping a piece takes the lock.
        drop(slots);
    }
}

fn wait<'s>(condition: &Condvar, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
    condition
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}
