//! Threads, and parallel processing of a list.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::error::{Classify, ErrorKind, describe};

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
        .map_err(NoThread)
}

/// Waits for a thread, and panics if it did.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
