//! Compressing one frame.

use zstd::zstd_safe::{CCtx, CParameter, ResetDirective, Strategy, compress_bound, get_error_name};

use super::SBUILD_WINDOW_LOG;

/// Compression failed. With parameters in range, the only cause is a lack of memory.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub struct Error(&'static str);

/// How frames are compressed: a pure function of the level and of the frame's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// The default level.
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

    /// True if the zstd program requires `--ultra` for this level.
    pub fn is_ultra(self) -> bool {
        self.0 >= 20
    }

    /// Upper bound of the memory of a context, in bytes, for any frame: its tables and the buffers
    /// of a block.
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
        // Wide enough for the whole frame, up to what sbuild decodes. The faster levels use at most
        // 26: variants of a large file are seldom farther apart, and a decoder touches half the
        // memory. Archives of buildd chroots grow by 0.3 %.
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
        // Levels 3 to 9 have large tables instead. In the widest window zstd would enable
        // long-distance matching by itself, with large tables.
        if is_large && !matches!(self.0, 3..=9) || window == SBUILD_WINDOW_LOG {
            parameters.extend(FAR);
        }
        parameters
    }

    /// The parameters that, with the content and zstd's version, determine the compressed bytes of
    /// a frame of `size` bytes of content. Only for comparison.
    pub fn recipe(self, size: usize, is_large: bool) -> String {
        format!("{:?}", self.parameters(size, is_large))
    }

    /// Maximum sizes of the hash and chain tables, as exponents of two. With zstd's own sizes (640
    /// MiB at level 22) the memory of two workers could not hold the compilers of a buildd chroot
    /// in one frame. At level 19 this makes archives 0.4 % larger and, because both workers can
    /// always run, packing twice as fast.
    fn most(self) -> Option<(u32, u32)> {
        match self.0 {
            15 => Some((23, 22)),
            19 => Some((22, 23)),
            20.. => Some((24, 25)),
            _ => None,
        }
    }

    /// Our own parameters up to level 9. Above, zstd's own are better, with long-distance matching
    /// for large files.
    ///
    /// Level 1 skips bytes, for users to whom time matters more than a third of the size. Measured
    /// on buildd chroots: in a wide window, a simple strategy with larger tables beats zstd's
    /// levels in both time and size. Up to level 3 the tables for small files fit a processor's L2
    /// cache. Large files are variants of one another (the compilers proper of gcc) and need a
    /// table that covers the whole frame, which compresses them better than long-distance matching
    /// does. The fastest levels use long-distance matching with a small table instead: it takes
    /// half the time and compresses as well as a table of 2^21 entries (level 1, 137 MB of
    /// compilers: 44.6 MB in 0.47 s, against 47.9 MB in 0.84 s with that table).
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

/// Parameters of a search strategy: table sizes as exponents of two, in entries; the shortest match
/// in bytes; the number of bytes skipped after a failed lookup.
struct Tables {
    strategy: Strategy,
    hash: u32,
    chain: u32,
    min_match: u32,
    skip: u32,
}

/// Cheap long-distance matching: about one entry per 128 bytes, no match below 32 bytes.
const FAR: [CParameter; 5] = [
    CParameter::EnableLongDistanceMatching(true),
    CParameter::LdmHashLog(20),
    CParameter::LdmMinMatch(32),
    CParameter::LdmHashRateLog(7),
    CParameter::LdmBucketSizeLog(2),
];

/// A compression context, reused for all frames, so that the page faults of its tables occur only
/// once.
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

    /// Compresses `content` into `out`, replacing what it had, as one frame with content size and
    /// checksum. `is_large`: the content is large files that may be variants of one another.
    pub fn frame(
        &mut self,
        content: &[u8],
        is_large: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let failed = |code| Error(get_error_name(code));
        // Parameters outlive a frame. Reset them, so that a frame does not depend on the one
        // before.
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
        // zstd uses the widest window for this size.
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
