//! Random choices that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator (xorshift64*) whose seed is printed. `ISAR_TARBALL_SEED` repeats a run.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let seed: u64 = match std::env::var("ISAR_TARBALL_SEED") {
            Ok(text) => text.parse().expect("a number"),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.as_nanos() as u64
            }
        };
        eprintln!("ISAR_TARBALL_SEED={seed}");
        Random(seed | 1)
    }

    /// A number below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % count
    }

    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

/// The number that the environment asks for, as in `ISAR_TARBALL_KILLS=1000`.
pub fn wanted(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number")),
    )
}
