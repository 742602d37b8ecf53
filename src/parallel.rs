//! Parallel processing of a list.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

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
        let others: Vec<_> = (1..threads.min(items.len()))
            .map(|_| scope.spawn(run))
            .collect();
        let mut done = run();
        for other in others {
            let more = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
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
