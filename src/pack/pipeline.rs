//! The packing pipeline: workers read and compress whole frames, one writer writes them in order.

use std::collections::BTreeMap;
use std::io::Write;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::members::{PackContext, Reader};
use super::plan::{Content, Frame, Plan};
use super::reuse::{self, Found, Record, Reuse};
use super::{Error, Format, Memory, Options};
use crate::archive::header;
use crate::archive::outline::Outline;
use crate::archive::writer::END;
use crate::parallel;
use crate::sbuild::check::StreamingCheck;
use crate::sys::MAPPED;
use crate::tree::walk::{Node, Tree};
use crate::tree::xattr::Skipped;
use crate::zst::SBUILD_WINDOW_LOG;
use crate::zst::compress::Compressor;
use crate::zst::decode::Decoder;

/// Bytes of an archive that sbuild 0.89 reads to detect the format.
const DETECTED: usize = 512;

/// Minimum size of a frame, in bytes: smaller ones are not worth their headers.
const LEAST_FRAME: u64 = 1 << 20;

/// Usual size of the extension of a member, in bytes: a PAX header with the exact time.
const EXTENSION: usize = 2 * header::BLOCK;

/// Memory of the program itself, in bytes.
const PROGRAM: u64 = 16 << 20;

/// Number of workers and memory budget for a tree, derived from the allowed threads and memory.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Workers.
    pub threads: usize,
    /// The largest frame, in bytes of content.
    pub max_frame: u64,
    /// Memory for frames that are being compressed or wait to be written, in bytes.
    budget: u64,
}

impl Shape {
    /// Fits threads and frames into the memory allowed. The size of frames determines the bytes of
    /// the archive, so it depends only on the options and the tree, not on the threads.
    pub fn new(options: &Options, tree: &Tree) -> Result<Shape, Error> {
        Shape::of(
            options.memory,
            options.threads,
            options.format,
            options.cuts.most,
            tree.nodes.len(),
        )
    }

    fn of(
        memory: Memory,
        threads: usize,
        format: Format,
        most: u64,
        nodes: usize,
    ) -> Result<Shape, Error> {
        let tree = (nodes * size_of::<Node>() * 2) as u64;
        let (context, is_ultra) = match format {
            Format::Zstd(level) => (level.context(), level.is_ultra()),
            Format::Tar => (0, false),
        };
        let free = |threads: usize| {
            memory
                .of(threads)
                .checked_sub(PROGRAM + tree + context * threads as u64)
        };
        // A frame and, at worst, as much again for its compressed bytes; for two workers, unless
        // only one fits or the level is an ultra level.
        let two = free(2).filter(|free| !is_ultra && *free >= 2 * LEAST_FRAME);
        let room = two.or(free(1)).unwrap_or(0);
        let allowed = (memory.base / 3).min(room / 2);
        if allowed < LEAST_FRAME {
            return Err(Error::Memory {
                memory: memory.base,
                least: PROGRAM + tree + context + 4 * LEAST_FRAME,
            });
        }
        let (max_frame, mut threads) = (most.min(allowed), threads.max(1));
        while threads > 1 && free(threads).is_none_or(|free| free < 2 * max_frame) {
            threads -= 1;
        }
        // A plain tar is written as fast as it is read, so reading far ahead would only touch more
        // memory.
        let ahead = if format == Format::Tar {
            4 * threads as u64 * max_frame
        } else {
            u64::MAX
        };
        Ok(Shape {
            threads,
            max_frame,
            budget: free(threads).unwrap_or(0).min(ahead),
        })
    }
}

/// Summary of the written archive.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Number of frames.
    pub frames: u64,
    /// SHA-256 of the archive, if requested.
    pub sha256: Option<[u8; 32]>,
    /// Number of skipped extended attributes.
    pub skipped_xattrs: Skipped,
    /// Frames reused from an older archive.
    pub reused_frames: u64,
    /// Compressed bytes of the reused frames.
    pub reused_bytes: u64,
    /// Frames that the state has but that are damaged in the older archive.
    pub damaged_frames: u64,
    /// Records of the frames for the state, if requested.
    pub records: Vec<Record>,
    /// sbuild's rules, applied to all members.
    pub rules: StreamingCheck,
}

/// A frame ready to be written.
#[derive(Default)]
struct Done {
    index: usize,
    tar_bytes: u64,
    archived: Buffer,
    outline: Outline,
    skipped_xattrs: Skipped,
    /// `None` unless a state is requested.
    record: Option<Record>,
    is_reused: bool,
    is_damaged: bool,
}

/// Writes the archive. `None`, with nothing written, if it is too small for sbuild to detect its
/// format.
pub fn run(
    source: &PackContext<'_>,
    shape: &Shape,
    out: &mut impl Write,
) -> Result<Option<Written>, Error> {
    let queue = Queue::new(source.plan, shape.budget, shape.threads);
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        for number in 0..shape.threads.min(source.plan.frames.len()) {
            let (sender, queue) = (sender.clone(), &queue);
            let started = parallel::spawn(scope, move || {
                if let Err(error) = work(source, queue, &sender) {
                    queue.stop();
                    // If the writer has failed first and gone, report its error instead.
                    let _ = sender.send(Err(error));
                }
            });
            match started {
                Err(error) if number == 0 => return Err(error.into()),
                // With fewer threads it takes longer.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(sender);
        let release = |archived: Arc<Buffer>| {
            // The writer and the hasher both finish frames in order; the last one releases the
            // buffer.
            if let Some(archived) = Arc::into_inner(archived) {
                queue.written(archived);
            }
        };
        let (mut to_hash, mut hasher) = (None, None);
        if source.options.sha256 {
            let (sender, hashed) = sync_channel::<Arc<Buffer>>(1);
            let started = parallel::spawn(scope, move || {
                let mut hash = Sha256::new();
                for archived in hashed {
                    hash.update(&archived.bytes);
                    release(archived);
                }
                hash.finalize().into()
            });
            hasher = Some(started.inspect_err(|_| queue.stop())?);
            to_hash = Some(sender);
        }
        let written = write(receiver.iter(), &queue, to_hash, release, out);
        queue.stop();
        let sha256 = hasher.map(parallel::join);
        Ok(written?.map(|written| Written { sha256, ..written }))
    })
}

fn work(
    source: &PackContext<'_>,
    queue: &Queue<'_>,
    sender: &Sender<Result<Done, Error>>,
) -> Result<(), Error> {
    let mut maker = Maker::new(source, queue)?;
    while let Some((index, charged)) = queue.take(&mut maker.content) {
        let mut done = match source.reuse {
            Some(reuse) => maker.reused_or_made(index, reuse)?,
            None => maker.made(index)?,
        };
        // Compression takes most of the time: what was only read does not count as done.
        let data = source.plan.data_of(&source.plan.frames[index], source.tree);
        source.done.fetch_add(data, Ordering::Relaxed);
        done.archived.touch();
        queue.finished(
            charged,
            (done.archived.touched + done.outline.bytes.len()) as u64,
        );
        if sender.send(Ok(done)).is_err() {
            break;
        }
    }
    Ok(())
}

/// A buffer that is reused for all frames, to save page faults.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Bytes of its capacity used so far. The rest has not been touched and takes no memory.
    touched: usize,
}

impl Buffer {
    /// Empties the buffer and reserves `bytes`, rounded up so that growing is cheap.
    fn make_room(&mut self, bytes: usize) {
        self.bytes.clear();
        self.bytes.reserve_exact(bytes.next_multiple_of(MAPPED));
    }

    /// Records its length as touched.
    fn touch(&mut self) {
        self.touched = self.touched.max(self.bytes.len());
    }

    /// Empties the buffer and shrinks it, if it takes more memory than a new one would for `frame`.
    fn shrink(&mut self, frame: &Frame) {
        let most = frame.size as usize;
        if self.touched > most {
            self.bytes.clear();
            self.bytes.shrink_to(most);
            self.touched = most;
        }
    }
}

/// A worker: reads, compresses and verifies frames.
struct Maker<'a> {
    source: &'a PackContext<'a>,
    reader: Reader<'a>,
    /// `None` for a plain tar.
    compressor: Option<Compressor>,
    /// Decodes each frame again, to verify it.
    decoder: Decoder,
    /// The content of the current frame.
    content: Buffer,
    /// Supplies buffers for compressed frames.
    queue: &'a Queue<'a>,
}

impl<'a> Maker<'a> {
    fn new(source: &'a PackContext<'a>, queue: &'a Queue<'a>) -> Result<Maker<'a>, Error> {
        let compressor = match source.options.format {
            Format::Zstd(level) => Some(Compressor::new(level)?),
            Format::Tar => None,
        };
        let decoder = Decoder::new(SBUILD_WINDOW_LOG).map_err(|_| Error::Unverified)?;
        Ok(Maker {
            source,
            reader: Reader::new(source),
            compressor,
            decoder,
            content: Buffer::default(),
            queue,
        })
    }

    /// Reads and compresses frame `index`.
    fn made(&mut self, index: usize) -> Result<Done, Error> {
        let frame = self.read(index)?;
        self.compress(index, frame, self.queue.spare(frame))
    }

    /// Takes frame `index` from an older archive, or reads and compresses it. The result has a
    /// record in either case.
    fn reused_or_made(&mut self, index: usize, reuse: &Reuse) -> Result<Done, Error> {
        let PackContext { plan, options, .. } = *self.source;
        let frame = &plan.frames[index];
        let seen = reuse::seen(self.source, frame, self.is_last(index));
        let mut archived = self.queue.spare(frame);
        let unread = reuse.by_metadata(&seen, options.format, frame.is_large, &mut archived.bytes);
        let mut is_damaged = matches!(unread, Found::Damaged);
        if let Found::Intact(record) = unread {
            let mut outline = self.reader.unread(&frame.content)?;
            outline.bytes.extend_from_slice(self.end(index));
            return Ok(reused(index, record, archived, outline));
        }
        self.read(index)?;
        let content = *blake3::hash(&self.content.bytes).as_bytes();
        let recipe = reuse::recipe(
            options.format,
            self.content.bytes.len() as u64,
            frame.is_large,
        );
        let metadata = reuse.lasting(&seen);
        let skipped_xattrs = self.reader.skipped_xattrs;
        match reuse.by_content(&content, &recipe, &mut archived.bytes) {
            Found::Intact(record) => {
                let outline = self.reader.outline(&self.content.bytes);
                return Ok(reused(
                    index,
                    Record {
                        metadata,
                        skipped_xattrs,
                        ..record
                    },
                    archived,
                    outline,
                ));
            }
            Found::Damaged => is_damaged = true,
            Found::Missing => {}
        }
        let done = self.compress(index, frame, archived)?;
        let record = Record {
            content,
            recipe,
            metadata,
            compressed: blake3::hash(&done.archived.bytes).into(),
            content_bytes: done.tar_bytes,
            compressed_bytes: done.archived.bytes.len() as u64,
            skipped_xattrs,
        };
        Ok(Done {
            record: Some(record),
            is_damaged,
            ..done
        })
    }

    fn read(&mut self, index: usize) -> Result<&'a Frame, Error> {
        let frame = &self.source.plan.frames[index];
        let members = match &frame.content {
            Content::Members(range) => range.len(),
            Content::Part { .. } => 1,
        };
        let end = self.end(index);
        self.content
            .make_room(frame.size as usize + members * EXTENSION);
        let bytes = &mut self.content.bytes;
        self.reader.frame(&frame.content, bytes)?;
        bytes.extend_from_slice(end);
        self.content.touch();
        Ok(frame)
    }

    /// The bytes after the members of a frame: the end of the archive in the last one.
    fn end(&self, index: usize) -> &'static [u8] {
        if self.is_last(index) { &END } else { &[] }
    }

    fn is_last(&self, index: usize) -> bool {
        index + 1 == self.source.plan.frames.len()
    }

    /// Compresses the content of frame `index` into `archived`.
    fn compress(
        &mut self,
        index: usize,
        frame: &Frame,
        mut archived: Buffer,
    ) -> Result<Done, Error> {
        let content = &mut self.content;
        let (tar_bytes, skipped_xattrs) = (content.bytes.len() as u64, self.reader.skipped_xattrs);
        let outline = self.reader.outline(&content.bytes);
        match &mut self.compressor {
            Some(compressor) => {
                compressor.frame(&content.bytes, frame.is_large, &mut archived.bytes)?;
                // The frame has a checksum of the content, so the content need not be kept for
                // comparison.
                let decoded = self.decoder.frame(&archived.bytes, &mut content.bytes);
                if !matches!(decoded, Ok(()) if content.bytes.len() as u64 == tar_bytes) {
                    return Err(Error::Unverified);
                }
            }
            None => mem::swap(content, &mut archived),
        }
        Ok(Done {
            index,
            tar_bytes,
            archived,
            outline,
            skipped_xattrs,
            ..Done::default()
        })
    }
}

fn reused(index: usize, record: Record, archived: Buffer, outline: Outline) -> Done {
    let Record {
        content_bytes,
        skipped_xattrs,
        ..
    } = record;
    Done {
        index,
        tar_bytes: content_bytes,
        archived,
        outline,
        skipped_xattrs,
        record: Some(record),
        is_reused: true,
        is_damaged: false,
    }
}

/// Writes the frames in order. With `to_hash`, another thread hashes each frame meanwhile. Releases
/// the buffer of a frame when both are done with it.
fn write(
    frames: impl Iterator<Item = Result<Done, Error>>,
    queue: &Queue<'_>,
    to_hash: Option<SyncSender<Arc<Buffer>>>,
    release: impl Fn(Arc<Buffer>),
    out: &mut impl Write,
) -> Result<Option<Written>, Error> {
    let mut written = Written::default();
    let mut early = BTreeMap::new();
    // Held back until sbuild can detect the format.
    let mut head = Vec::new();
    let mut next = 0;
    for frame in frames {
        let frame = frame?;
        early.insert(frame.index, frame);
        while let Some(frame) = early.remove(&next) {
            next += 1;
            written.tar_bytes += frame.tar_bytes;
            let archived = Arc::new(frame.archived);
            let bytes = &archived.bytes;
            written.archive_bytes += bytes.len() as u64;
            written.frames += 1;
            written.skipped_xattrs += frame.skipped_xattrs;
            if frame.is_reused {
                written.reused_frames += 1;
                written.reused_bytes += bytes.len() as u64;
            }
            written.damaged_frames += u64::from(frame.is_damaged);
            written.records.extend(frame.record);
            written.rules.add(&frame.outline);
            queue.given_back(frame.outline.bytes.len() as u64);
            if let Some(to_hash) = &to_hash {
                // The receiver lives as long as this sender.
                let _ = to_hash.send(Arc::clone(&archived));
            }
            if written.archive_bytes < DETECTED as u64 {
                head.extend_from_slice(bytes);
            } else {
                out.write_all(&head)
                    .and_then(|()| out.write_all(bytes))
                    .map_err(Error::Write)?;
                head = Vec::new();
            }
            release(archived);
        }
    }
    if written.archive_bytes < DETECTED as u64 {
        return Ok(None);
    }
    out.flush().map_err(Error::Write)?;
    Ok(Some(written))
}

/// The queue of frames. The largest frame is first, because taken last it would keep all workers
/// waiting. Then frames are taken in order, and of the last few the largest first; but only frames
/// that fit the budget.
///
/// The next frame to be written may always be taken; otherwise all workers could wait for it
/// forever. So a frame taken early leaves memory for the costliest frame not yet taken, which may
/// be that next frame.
struct Queue<'a> {
    plan: &'a Plan,
    budget: u64,
    /// Number of the last few frames: two per worker.
    last_few: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The frames not taken yet, the next one at the end.
    waiting: Vec<usize>,
    /// The next frame to be written.
    next: usize,
    /// Bytes of the frames taken and not written.
    held: u64,
    stopped: bool,
    /// Buffers of written frames, for reuse. Their memory still counts as held.
    spare: Vec<Buffer>,
}

impl State {
    /// Frees an unused buffer. False if there is none.
    fn let_go(&mut self) -> bool {
        let spare = self.spare.pop();
        self.held -= spare.as_ref().map_or(0, |spare| spare.touched) as u64;
        spare.is_some()
    }
}

impl<'a> Queue<'a> {
    fn new(plan: &'a Plan, budget: u64, threads: usize) -> Queue<'a> {
        let mut waiting: Vec<usize> = (0..plan.frames.len()).rev().collect();
        if let Some(largest) = (0..waiting.len()).max_by_key(|index| plan.frames[*index].size) {
            waiting.retain(|index| *index != largest);
            waiting.push(largest);
        }
        let state = State {
            waiting,
            next: 0,
            held: 0,
            stopped: false,
            spare: Vec::new(),
        };
        Queue {
            plan,
            budget,
            last_few: 2 * threads,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Memory for a frame in new buffers, in bytes: its content and, at worst, as much again.
    fn cost(&self, index: usize) -> u64 {
        2 * self.plan.frames[index].size
    }

    /// The costs of the two costliest of some frames.
    fn costliest(&self, frames: &[usize]) -> [u64; 2] {
        frames.iter().fold([0; 2], |[first, second], index| {
            let cost = self.cost(*index);
            [first.max(cost), second.max(cost.min(first))]
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next frame, waiting for memory, and returns its index and the bytes charged for
    /// it. `None` if no frame is left or the queue was stopped.
    ///
    /// The unused part of the content buffer is charged as well, or freed if it does not fit the
    /// budget.
    fn take(&self, content: &mut Buffer) -> Option<(usize, u64)> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.waiting.is_empty() {
                return None;
            }
            if let Some(place) = self.fitting(&state) {
                let index = state.waiting.remove(place);
                let rest = self.costliest(&state.waiting)[0];
                let frame = &self.plan.frames[index];
                let mut charged = frame.size.max(content.touched as u64) + frame.size;
                if state.held + charged + rest > self.budget {
                    content.shrink(frame);
                    charged = self.cost(index);
                }
                state.held += charged;
                // The next frame in order is taken in any case.
                while state.held > self.budget && state.let_go() {}
                return Some((index, charged));
            }
            if state.let_go() {
                continue;
            }
            // A waiting worker is not charged, so it keeps no buffer.
            *content = Buffer::default();
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The position in `waiting` of the frame that can be taken now.
    fn fitting(&self, state: &State) -> Option<usize> {
        let waiting = &state.waiting;
        let [costliest, second] = self.costliest(waiting);
        let mut fitting = (0..waiting.len()).filter(|place| {
            let cost = self.cost(waiting[*place]);
            let rest = if cost == costliest { second } else { costliest };
            waiting[*place] == state.next || state.held + cost + rest <= self.budget
        });
        // The next frame in order is at the end.
        if waiting.len() > self.last_few {
            fitting.next_back()
        } else {
            fitting.max_by_key(|place| self.cost(waiting[*place]))
        }
    }

    /// Replaces the charge of a finished frame by its actual size, `bytes`.
    fn finished(&self, charged: u64, bytes: u64) {
        let mut state = self.lock();
        state.held = state.held + bytes - charged;
        self.changed.notify_all();
    }

    /// Releases `bytes` of the next frame in order.
    fn given_back(&self, bytes: u64) {
        self.lock().held -= bytes;
        self.changed.notify_all();
    }

    /// Marks the next frame in order as written and keeps its `buffer` for reuse.
    fn written(&self, buffer: Buffer) {
        let mut state = self.lock();
        state.spare.push(buffer);
        state.next += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Returns a buffer for the compressed `frame`, whose memory is already charged: the largest
    /// unused buffer that is within the charge, or a new one.
    fn spare(&self, frame: &Frame) -> Buffer {
        let mut state = self.lock();
        let fitting =
            (0..state.spare.len()).filter(|place| state.spare[*place].touched as u64 <= frame.size);
        let place = fitting.max_by_key(|place| state.spare[*place].touched);
        let mut spare = place.map_or_else(Buffer::default, |place| state.spare.remove(place));
        state.held -= spare.touched as u64;
        drop(state);
        spare.make_room(frame.size as usize);
        spare
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::VecDeque;

    use super::*;
    use crate::zst::compress::Level;

    #[test]
    fn frames_get_smaller_before_threads_or_the_tree_take_too_much_memory() {
        let shape = |memory, level, threads, nodes| {
            Shape::of(
                memory,
                threads,
                Format::Zstd(Level::new(level).unwrap()),
                192 << 20,
                nodes,
            )
        };
        let limits = (50..1000).step_by(10).map(|mib| Memory::limit(mib << 20));
        for memory in limits.chain([Memory::DEFAULT]) {
            for (level, nodes) in [
                (3, 1),
                (3, 10_000),
                (3, 1_000_000),
                (19, 10_000),
                (22, 10_000),
            ] {
                let Ok(one) = shape(memory, level, 1, nodes) else {
                    continue;
                };
                for threads in 1..20 {
                    let shape = shape(memory, level, threads, nodes).unwrap();
                    assert_eq!(
                        shape.max_frame, one.max_frame,
                        "the bytes depend on the threads"
                    );
                    assert!(
                        (1..=threads).contains(&shape.threads)
                            && shape.budget >= 2 * shape.max_frame
                    );
                    let contexts = Level::new(level).unwrap().context() * shape.threads as u64;
                    let fixed = PROGRAM + contexts + (nodes * size_of::<Node>() * 2) as u64;
                    assert!(fixed + shape.budget <= memory.of(shape.threads));
                }
            }
        }
        // A million files by default, with two workers; any level, with the compilers of a chroot
        // in one frame; and the reported minimum suffices.
        assert!(matches!(
            shape(Memory::DEFAULT, 3, 2, 1_000_000),
            Ok(Shape { threads: 2, .. })
        ));
        for level in 1..=22 {
            assert!(
                shape(Memory::DEFAULT, level, 2, 15_000).unwrap().max_frame > 137_000_000,
                "level {level}"
            );
            let Err(Error::Memory { least, .. }) = shape(Memory::limit(40 << 20), level, 1, 1000)
            else {
                panic!("40 MiB do not do")
            };
            assert!(shape(Memory::limit(least), level, 1, 1000).is_ok());
        }
    }

    fn plan(sizes: &[u64]) -> Plan {
        let frame = |(index, size): (usize, &u64)| Frame {
            content: Content::Members(index..index + 1),
            size: *size,
            is_large: false,
        };
        Plan {
            frames: sizes.iter().enumerate().map(frame).collect(),
            ..Plan::default()
        }
    }

    #[test]
    fn the_largest_frame_comes_first_then_all_in_order_but_the_last_few() {
        let plan = plan(&[10, 30, 20, 10, 20, 10]);
        let order = |threads| -> Vec<usize> {
            let queue = Queue::new(&plan, 1000, threads);
            std::iter::from_fn(|| queue.take(&mut Buffer::default()))
                .map(|taken| taken.0)
                .collect()
        };
        assert_eq!(order(1), [1, 0, 2, 3, 4, 5]);
        assert_eq!(order(2), [1, 0, 2, 4, 3, 5]);
    }

    #[test]
    fn frames_made_early_leave_room_for_the_one_that_all_wait_for() {
        // Enough for the largest frame while it is compressed, and for the largest of the others.
        for (sizes, budget) in [
            (&[10, 10, 40, 10, 30, 10, 10][..], 140),
            (&[40, 10, 10, 10], 100),
            (&[10, 40, 40, 40, 10], 160),
            (&[1, 1, 1, 50], 102),
        ] {
            let plan = plan(sizes);
            for workers in 1..4 {
                let queue = Queue::new(&plan, budget, workers);
                let mut buffers: Vec<Buffer> = (0..workers).map(|_| Buffer::default()).collect();
                let (mut working, mut made, mut next) =
                    (VecDeque::new(), vec![false; sizes.len()], 0);
                while next < sizes.len() {
                    // A worker takes a frame only if it need not wait.
                    while !buffers.is_empty() && can_take(&queue) {
                        let mut own = buffers.pop().unwrap();
                        let (index, charged) = queue.take(&mut own).unwrap();
                        // All memory that it uses meanwhile is charged.
                        own.touched = own.touched.max(sizes[index] as usize);
                        assert!(
                            own.touched as u64 + sizes[index] <= charged,
                            "{sizes:?} {workers}"
                        );
                        working.push_back((index, charged, own));
                    }
                    assert!(
                        queue.lock().held <= budget,
                        "{sizes:?} {workers}: {}",
                        queue.lock().held
                    );
                    // The worst case: the last frame taken is ready first, and nothing is
                    // compressible.
                    let (index, charged, own) = working
                        .pop_back()
                        .expect("a worker is busy while a frame is missing");
                    queue.finished(charged, sizes[index]);
                    made[index] = true;
                    buffers.push(own);
                    while next < sizes.len() && made[next] {
                        queue.written(Buffer {
                            touched: sizes[next] as usize,
                            ..Buffer::default()
                        });
                        next += 1;
                    }
                }
                let spare: usize = queue.lock().spare.iter().map(|spare| spare.touched).sum();
                assert_eq!(queue.lock().held, spare as u64);
                assert_eq!(queue.take(&mut Buffer::default()), None);
            }
        }
    }

    /// True if a worker could take a frame now without waiting.
    fn can_take(queue: &Queue<'_>) -> bool {
        let mut state = queue.lock();
        let spare: usize = state.spare.iter().map(|spare| spare.touched).sum();
        state.held -= spare as u64;
        let can_take = queue.fitting(&state).is_some();
        state.held += spare as u64;
        can_take
    }
}
