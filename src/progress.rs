//! How far an operation is: two counters that its process and its caller share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::SharedCounters;

/// Bytes to process and bytes processed.
#[derive(Debug)]
pub struct Progress {
    counters: Counters,
}

#[derive(Debug)]
enum Counters {
    Own([AtomicU64; 2]),
    Shared(SharedCounters),
}

impl Default for Progress {
    /// Counters of this process alone.
    fn default() -> Progress {
        Progress {
            counters: Counters::Own(Default::default()),
        }
    }
}

impl Progress {
    /// Counters that processes forked from now on share with this one.
    pub fn shared() -> io::Result<Progress> {
        Ok(Progress {
            counters: Counters::Shared(SharedCounters::new()?),
        })
    }

    fn counters(&self) -> &[AtomicU64; 2] {
        match &self.counters {
            Counters::Own(counters) => counters,
            Counters::Shared(shared) => shared.get(),
        }
    }

    /// Bytes to process; 0 while this is unknown, and once the work is over.
    pub fn total(&self) -> &AtomicU64 {
        let [total, _] = self.counters();
        total
    }

    /// Bytes processed.
    pub fn done(&self) -> &AtomicU64 {
        let [_, done] = self.counters();
        done
    }

    /// Both numbers, the bytes processed first.
    pub fn get(&self) -> (u64, u64) {
        (
            self.done().load(Ordering::Relaxed),
            self.total().load(Ordering::Relaxed),
        )
    }
}
