//! Compressing one frame.

use zstd::zstd_safe::{CCtx, CParameter, ResetDirective, Strategy, compress_bound, get_error_name};

use super::SBUILD_WINDOW_LOG;

/// Compression failed; with parameters in range that is only for want of memory.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct Error(&'static str);

/// How frames are compressed: a pure function of the level and of the frame's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// The level used when none is asked for.
    pub const DEFAULT: Level = Level(3);
    /// The highest level.
    pub const MAX: Level = Level(22);

    /// `level`, when it is 1..=22.
    pub fn new(level: u8) -> Option<Level> {
        (1..=Level::MAX.0).contains(&level).then_some(Level(level))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Is it one of those for which the zstd program wants to be told `--ultra`?
    pub fn is_ultra(self) -> bool {
        self.0 >= 20
    }

    /// What a context takes at most, in bytes, whatever the frame: its tables, and the buffers of a
    /// block.
    pub fn context(self) -> u64 {
        let mib = match self.0 {
            ..10 => 40,
            10..20 => 60,
            20.. => 208,
        };
        mib << 20
    }

    /// The parameters for a frame of `size` bytes.
    fn parameters(self, size: usize, is_large: bool) -> Vec<CParameter> {
        // Wide enough for the whole frame, up to what sbuild decodes. Where time counts as well,
        // 26: variants of a large file seldom stand farther apart, and whoever decodes has half the
        // memory to touch (archives of buildd chroots are 0.3 % larger by it).
        let widest = if self.0 < 10 {
            SBUILD_WINDOW_LOG - 1
        } else {
            SBUILD_WINDOW_LOG
        };
        let window = (usize::BITS - size.saturating_sub(1).leading_zeros()).clamp(17, widest);
        let mut parameters = vec![
            CParameter::CompressionLevel(self.0.into()),
            CParameter::WindowLog(window),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ];
        match self.tables(is_large) {
            Some(Tables {
                strategy,
                hash,
                chain,
                min_match,
                skip,
            }) => {
                parameters.extend([
                    CParameter::Strategy(strategy),
                    CParameter::HashLog(hash.min(window)),
                    CParameter::ChainLog(chain.min(window)),
                    CParameter::MinMatch(min_match),
                    CParameter::TargetLength(skip),
                ]);
            }
            None => {
                if let Some((hash, chain)) = self.most() {
                    parameters.push(CParameter::HashLog(hash.min(window + 1)));
                    parameters.push(CParameter::ChainLog(chain.min(window + 1)));
                }
            }
        }
        // Levels 3 to 9 have large tables instead. In the widest window zstd would turn
        // long-distance matching on by itself, and not sparingly.
        if is_large && !matches!(self.0, 3..=9) || window == SBUILD_WINDOW_LOG {
            parameters.extend(FAR);
        }
        parameters
    }

    /// All that decides, beside the content and zstd's version, which bytes a frame of `size` bytes
    /// of content becomes. For comparing only.
    pub fn recipe(self, size: usize, is_large: bool) -> String {
        format!("{:?}", self.parameters(size, is_large))
    }

    /// How large the tables for hashes and for chains are at most, as exponents of two, where with
    /// zstd's own two workers would have no room for the compilers of a buildd chroot in one frame:
    /// those of level 22 take 640 MiB. Level 19 is 0.4 % larger by it and, because both workers
    /// always have room, twice as fast.
    fn most(self) -> Option<(u32, u32)> {
        match self.0 {
            15 => Some((23, 22)),
            19 => Some((22, 23)),
            20.. => Some((24, 25)),
            _ => None,
        }
    }

    /// Tables of our own up to level 9; above, zstd's own levels are the better ones, with
    /// long-distance matching for large files.
    ///
    /// Level 1 skips bytes: for where time counts more than a third of the size. Measured on buildd
    /// chroots: in a wide window, a plain strategy with larger tables beats zstd's levels both in
    /// time and in size. Up to level 3 the tables of small files stay within a processor's second
    /// cache. Large files are variants of one another (the compilers proper of gcc) and need a
    /// table that reaches all over the frame: it makes less of them than long-distance matching
    /// does. Where time counts more, that with a small table takes half the time and makes the same
    /// of them as a table of 2^21 entries (level 1: 47.9 MB of 137 in 0.84 s, with it 44.6 in 0.47
    /// s).
    fn tables(self, is_large: bool) -> Option<Tables> {
        use Strategy::{ZSTD_dfast as DoubleFast, ZSTD_fast as Fast, ZSTD_lazy2 as Lazy2};
        let tables = |strategy, hash, chain, min_match| {
            Some(Tables {
                strategy,
                hash,
                chain,
                min_match,
                skip: 0,
            })
        };
        match (self.0, is_large) {
            (1, _) => tables(Fast, 16, 10, 7).map(|tables| Tables { skip: 2, ..tables }),
            (2, _) => tables(Fast, 18, 10, 6),
            (3 | 4, true) => tables(Fast, 23, 10, 7),
            (5..=9, true) => tables(DoubleFast, 23, 18, 5),
            (3, false) => tables(DoubleFast, 18, 15, 5),
            (4, false) => tables(DoubleFast, 19, 17, 5),
            (5, false) => tables(DoubleFast, 20, 18, 5),
            (6, false) => tables(DoubleFast, 21, 19, 5),
            (7, false) => tables(Lazy2, 20, 20, 5),
            (8 | 9, false) => tables(Lazy2, 21, 21, 5),
            _ => None,
        }
    }
}

/// What a strategy searches with: sizes as exponents of two, in entries; the shortest match in
/// bytes; how many bytes it skips after each that it has looked up in vain.
struct Tables {
    strategy: Strategy,
    hash: u32,
    chain: u32,
    min_match: u32,
    skip: u32,
}

/// Long-distance matching that costs little: an entry for every 128 bytes or so, and for no match
/// of less than 32.
const FAR: [CParameter; 5] = [
    CParameter::EnableLongDistanceMatching(true),
    CParameter::LdmHashLog(20),
    CParameter::LdmMinMatch(32),
    CParameter::LdmHashRateLog(7),
    CParameter::LdmBucketSizeLog(2),
];

/// A compression context, used again from frame to frame: its tables are touched for the first time
/// only once.
pub struct Compressor {
    context: CCtx<'static>,
    level: Level,
}

impl Compressor {
    /// A compressor for frames of `level`.
    pub fn new(level: Level) -> Result<Compressor, Error> {
        let context = CCtx::try_create().ok_or(Error("not enough memory"))?;
        Ok(Compressor { context, level })
    }

    /// Puts `content` into `out`, whose former bytes go, as one frame with content size and
    /// checksum. `is_large` says that it holds large files that may be variants of one another.
    pub fn frame(
        &mut self,
        content: &[u8],
        is_large: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let failed = |code| Error(get_error_name(code));
        // Parameters outlive a frame; this one's must not depend on which frame came before.
        self.context
            .reset(ResetDirective::SessionAndParameters)
            .map_err(failed)?;
        for parameter in self.level.parameters(content.len(), is_large) {
            self.context.set_parameter(parameter).map_err(failed)?;
        }
        out.clear();
        out.reserve_exact(compress_bound(content.len()));
        self.context.compress2(out, content).map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_context_takes_more_than_it_is_said_to() {
        // For this zstd takes the widest window.
        let content = vec![0; (1 << (SBUILD_WINDOW_LOG - 1)) + 1];
        let mut out = Vec::new();
        for number in 1..=Level::MAX.0 {
            let level = Level::new(number).unwrap();
            for is_large in [false, true] {
                let mut compressor = Compressor::new(level).unwrap();
                compressor.frame(&content, is_large, &mut out).unwrap();
                let (taken, said) = (compressor.context.sizeof() as u64, level.context());
                assert!(
                    taken <= said,
                    "level {number}, {is_large}: {taken} of {said} bytes"
                );
            }
        }
    }
}
