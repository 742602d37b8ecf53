//! Compressing one frame.

use zstd::zstd_safe::{CCtx, CParameter, ResetDirective, Strategy, compress_bound, get_error_name};

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

    /// The parameters for a frame of `size` bytes.
    fn parameters(self, size: usize) -> Vec<CParameter> {
        // Wide enough for the whole frame; 27 is the widest that sbuild's zstd decodes.
        let window = (usize::BITS - size.saturating_sub(1).leading_zeros()).clamp(17, 27);
        let mut parameters = vec![
            CParameter::CompressionLevel(self.0.into()),
            CParameter::WindowLog(window),
            CParameter::ChecksumFlag(true),
            CParameter::ContentSizeFlag(true),
        ];
        if self.0 == 1 {
            parameters.extend([CParameter::Strategy(Strategy::ZSTD_fast), CParameter::HashLog(window.min(18))]);
        }
        if window > 25 {
            parameters.extend([
                CParameter::HashLog(22),
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::MinMatch(7),
            ]);
        } else if self.0 == 3 {
            parameters.extend([CParameter::HashLog(18), CParameter::Strategy(Strategy::ZSTD_dfast)]);
        }
        parameters
    }
}

/// A compression context, used again from frame to frame: its tables are touched for the first time only once.
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

    /// Puts `content` into `out`, whose former bytes go, as one frame with content size and checksum.
    pub fn frame(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let failed = |code| Error(get_error_name(code));
        // Parameters outlive a frame; this one's must not depend on which frame came before.
        self.context.reset(ResetDirective::SessionAndParameters).map_err(failed)?;
        for parameter in self.level.parameters(content.len()) {
            self.context.set_parameter(parameter).map_err(failed)?;
        }
        out.clear();
        out.reserve(compress_bound(content.len()));
        self.context.compress2(out, content).map_err(failed)?;
        Ok(())
    }
}
