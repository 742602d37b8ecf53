//! A digest of a file's content that is independent of its holes. Holes are never read, so it takes
//! only the time for the data.

use xxhash_rust::xxh3::Xxh3;

/// Size of a block in bytes: a block of zeros counts as a hole.
const BLOCK: usize = 4096;

/// Two files of the same length and digest have the same content, except for deliberate collisions
/// (xxh3 is not a cryptographic hash).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    data: u128,
    layout: u128,
}

impl Digest {
    /// The digest as 16 hexadecimal digits.
    pub fn short(&self) -> String {
        // The layout of a file without zero blocks follows from its length.
        format!(
            "{:016x}",
            (self.data as u64) ^ (self.layout as u64).rotate_left(1)
        )
    }
}

/// Computes the digest of a file's data, given in order.
pub struct Hasher {
    /// Hash of the blocks that are not zero.
    data: Xxh3,
    /// Hash of the runs of such blocks: number of the first block, number of the block after the
    /// last.
    layout: Xxh3,
    /// The run of the last block.
    run: std::ops::Range<u64>,
    /// The partly filled block, zero where nothing was written.
    partial: Box<[u8; BLOCK]>,
    partial_number: u64,
    has_partial: bool,
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher {
            data: Xxh3::new(),
            layout: Xxh3::new(),
            run: 0..0,
            partial: Box::new([0; BLOCK]),
            partial_number: 0,
            has_partial: false,
        }
    }
}

impl Hasher {
    /// Adds `data` at `offset` of the file, which must not be before earlier data.
    pub fn update(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (number, start) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
            if self.has_partial && self.partial_number != number {
                self.end_partial();
            }
            let taken = if start == 0 && data.len() >= BLOCK {
                let blocks = data.len() / BLOCK;
                self.whole(number, &data[..blocks * BLOCK]);
                blocks * BLOCK
            } else {
                let taken = data.len().min(BLOCK - start);
                self.partial[start..start + taken].copy_from_slice(&data[..taken]);
                (self.partial_number, self.has_partial) = (number, true);
                taken
            };
            offset += taken as u64;
            data = &data[taken..];
        }
    }

    /// Returns the digest of the data since the beginning or the last call.
    pub fn finish(&mut self) -> Digest {
        self.end_partial();
        self.end_run();
        let digest = Digest {
            data: self.data.digest128(),
            layout: self.layout.digest128(),
        };
        self.data.reset();
        self.layout.reset();
        self.run = 0..0;
        digest
    }

    fn end_partial(&mut self) {
        if std::mem::take(&mut self.has_partial) {
            let block = *self.partial;
            self.whole(self.partial_number, &block);
            self.partial.fill(0);
        }
    }

    /// Adds whole blocks, beginning with block `number`.
    fn whole(&mut self, number: u64, data: &[u8]) {
        let mut rest = data;
        let mut next = number;
        while !rest.is_empty() {
            // Hash consecutive blocks that are not zero in one piece.
            let holds = |block: &[u8]| block.iter().any(|byte| *byte != 0);
            let blocks = rest.chunks(BLOCK).take_while(|block| holds(block)).count();
            if blocks == 0 {
                (rest, next) = (rest.get(BLOCK..).unwrap_or_default(), next + 1);
                continue;
            }
            if self.run.end != next || self.run.is_empty() {
                self.end_run();
                self.run = next..next;
            }
            let (full, others) = rest.split_at((blocks * BLOCK).min(rest.len()));
            self.data.update(full);
            next += blocks as u64;
            self.run.end = next;
            rest = others;
        }
    }

    fn end_run(&mut self) {
        if !self.run.is_empty() {
            self.layout.update(&self.run.start.to_le_bytes());
            self.layout.update(&self.run.end.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[(u64, &[u8])]) -> Digest {
        let mut hasher = Hasher::default();
        for (offset, data) in pieces {
            hasher.update(*offset, data);
        }
        hasher.finish()
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|place| (place % 251) as u8 + 1).collect()
    }

    #[test]
    fn how_the_data_is_cut_makes_no_difference() {
        let data = text(5 * BLOCK + 100);
        let whole = digest(&[(0, &data)]);
        for length in [1, 7, 512, 4095, 4096, 4097, 10_000] {
            let pieces: Vec<(u64, &[u8])> = data
                .chunks(length)
                .enumerate()
                .map(|(index, piece)| ((index * length) as u64, piece))
                .collect();
            assert_eq!(digest(&pieces), whole, "pieces of {length}");
        }
    }

    #[test]
    fn holes_and_zeros_are_the_same() {
        let (head, tail) = (text(5000), text(3000));
        let mut zeros = head.clone();
        zeros.resize(100_000, 0);
        zeros.extend_from_slice(&tail);
        zeros.resize(200_000, 0);
        assert_eq!(
            digest(&[(0, &zeros)]),
            digest(&[(0, &head), (100_000, &tail)])
        );
        assert_eq!(digest(&[(0, &[0; 70_000])]), digest(&[]));
    }

    #[test]
    fn what_differs_in_a_byte_or_a_place_differs() {
        let data = text(3 * BLOCK);
        let mut other = data.clone();
        other[2 * BLOCK] ^= 1;
        let block = BLOCK as u64;
        let all = [
            digest(&[]),
            digest(&[(0, &data)]),
            digest(&[(0, &other)]),
            digest(&[(block, &data)]),
            digest(&[(0, &data[..BLOCK]), (2 * block, &data[BLOCK..])]),
            digest(&[(0, &data[..2 * BLOCK]), (3 * block, &data[2 * BLOCK..])]),
            digest(&[(1, &data)]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(
                all[index + 1..]
                    .iter()
                    .all(|other| other != one && other.short() != one.short()),
                "{index}"
            );
        }
    }

    #[test]
    fn a_hasher_starts_anew_after_each_file() {
        let mut hasher = Hasher::default();
        hasher.update(0, &text(10_000));
        hasher.finish();
        hasher.update(0, &text(5));
        assert_eq!(hasher.finish(), digest(&[(0, &text(5))]));
    }
}
