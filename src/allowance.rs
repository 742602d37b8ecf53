//! A limit of the memory for what a job has to remember until its end, such as the names of an
//! archive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Classify, ErrorKind};

/// A limit on remembered data, in bytes. All clones count against the same limit.
#[derive(Clone, Debug)]
pub struct Allowance {
    limit: u64,
    used: Arc<AtomicU64>,
}

/// The limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "remembering its members takes more than {limit} bytes, the part of the memory limit for that"
)]
pub struct Exceeded {
    limit: u64,
}

impl Allowance {
    /// An allowance of `limit` bytes.
    pub fn new(limit: u64) -> Allowance {
        Allowance {
            limit,
            used: Arc::default(),
        }
    }

    /// Counts `bytes` against the limit. Call it just before or just after allocating them.
    pub fn take(&self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = bytes as u64;
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        match before.saturating_add(bytes) > self.limit {
            true => Err(Exceeded { limit: self.limit }),
            false => Ok(()),
        }
    }

    /// How many entries of `bytes` each fit in the whole allowance.
    pub fn room_for(&self, bytes: usize) -> usize {
        let count = self.limit / (bytes as u64).max(1);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// The error for an allowance that is used up.
    pub fn exceeded(&self) -> Exceeded {
        Exceeded { limit: self.limit }
    }
}

/// No limit.
impl Default for Allowance {
    fn default() -> Allowance {
        Allowance::new(u64::MAX)
    }
}

impl Classify for Exceeded {
    fn kind(&self) -> ErrorKind {
        ErrorKind::MemoryLimit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_use_up_the_same_limit() {
        let (one, other) = {
            let one = Allowance::new(100);
            (one.clone(), one)
        };
        assert_eq!((one.take(60), other.take(40)), (Ok(()), Ok(())));
        let exceeded = Err(Exceeded { limit: 100 });
        assert_eq!((one.take(1), other.take(1)), (exceeded, exceeded));
        assert_eq!(
            (one.room_for(30), Allowance::default().take(1)),
            (3, Ok(()))
        );
    }
}
