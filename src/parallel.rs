//! Threads, parallel processing of a list, and how much of it the limit on open files allows.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

use rustix::process::{Resource, getrlimit};

use crate::error::{Classify, ErrorKind, describe, of_call};

/// The kernel has refused a thread, as for a user who has too many processes.
#[derive(Debug, thiserror::Error)]
#[error("start a thread: {}; see `ulimit -u`", describe(.0))]
pub struct NoThread(io::Error);

impl Classify for NoThread {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Io
    }
}

/// Starts a thread. `Scope::spawn` would panic if the kernel refuses it.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    thread::Builder::new()
        .spawn_scoped(scope, work)
        .map_err(|cause| NoThread(of_call("clone3", "5.3", cause)))
}

/// Waits for a thread, and panics if it did.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Descriptors that every operation needs, whatever its work is: standard streams, the tree and the
/// archive, the connection between caller and child.
const OTHERS: usize = 32;

/// Descriptors that one thread needs that reads files of a tree: the directory, the file, and those
/// on the way to them.
const PER_THREAD: usize = 6;

/// The number of descriptors that work may have open at a time.
pub fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    limit.unwrap_or(usize::MAX).saturating_sub(OTHERS).max(2)
}

/// The number of threads that the limit on open files allows, at least 1.
pub fn most_threads() -> usize {
    (descriptors() / PER_THREAD).max(1)
}

/// Applies `work` to each of `items` with up to `threads` threads, including the caller's, and
/// returns the results in the order of the items. Each thread has a `state` that it reuses for all
/// of its items.
///
/// # Errors
///
/// One of the errors of `work`. No item is begun after an error.
pub fn each<S, T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, R)>, E> {
        let (mut state, mut done) = (state(), Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return Ok(done);
            };
            match work(&mut state, item) {
                Ok(result) => done.push((index, result)),
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut done = thread::scope(|scope| {
        // With fewer threads the same work takes longer.
        let others: Vec<_> = (1..threads.min(items.len()))
            .map_while(|_| spawn(scope, run).ok())
            .collect();
        let mut done = run();
        for other in others {
            let more = join(other);
            done = done.and_then(|mut done| {
                done.extend(more?);
                Ok(done)
            });
        }
        done
    })?;
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [0, 1, 2, 8] {
            let done = each(&items, threads, || (), |(), item| Ok::<_, ()>(item * 2)).unwrap();
            assert!(
                done.into_iter().eq(items.iter().map(|item| item * 2)),
                "{threads} threads"
            );
        }
        assert_eq!(
            each(&[], 2, || (), |(), item: &u8| Ok::<_, ()>(*item)),
            Ok(Vec::new())
        );
    }

    #[test]
    fn an_error_ends_it() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [1, 8] {
            let begun = AtomicUsize::new(0);
            let failing = |(): &mut (), item: &usize| {
                begun.fetch_add(1, Ordering::Relaxed);
                if *item == 3 { Err(*item) } else { Ok(()) }
            };
            assert_eq!(each(&items, threads, || (), failing), Err(3));
            if threads == 1 {
                assert_eq!(begun.into_inner(), 4);
            }
        }
    }
}
