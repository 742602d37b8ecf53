//! Decoding frame after frame, in pieces of any size.

use std::io::{self, BufRead};

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{
    DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name, is_error_kind,
};

use super::frames::{self, Error, Fault, Frame, Header, LONGEST_HEADER, Start};

/// A decoding context, reused for all frames.
pub struct Decoder {
    context: DCtx<'static>,
    window_log: u32,
}

/// Result of a decoding step.
struct Step {
    read: usize,
    wrote: usize,
    /// The frame is complete and its checksum matches.
    is_finished: bool,
}

impl Decoder {
    /// A decoder for windows of up to `1 << window_log` bytes. `window_log` is clamped to 10..=31.
    pub fn new(window_log: u32) -> Result<Decoder, Fault> {
        let window_log = window_log.clamp(10, 31);
        let mut context = DCtx::try_create().ok_or(Fault::Memory)?;
        context
            .set_parameter(DParameter::WindowLogMax(window_log))
            .map_err(fault)?;
        Ok(Decoder {
            context,
            window_log,
        })
    }

    /// Fails if a window of this many bytes exceeds the limit.
    pub fn check_window(&self, window: u64) -> Result<(), Fault> {
        check_window(window, self.window_log)
    }

    /// Chooses whether the content of each frame goes to one stable buffer, which saves the window
    /// and a copy. The buffer then must keep its address and capacity between the steps of a frame,
    /// and frames whose content exceeds the capacity fail. Call it between frames.
    pub fn in_one_place(&mut self, is_in_one_place: bool) -> Result<(), Fault> {
        self.reset()?;
        self.context
            .set_parameter(DParameter::StableOutBuffer(is_in_one_place))
            .map_err(fault)?;
        Ok(())
    }

    /// Decodes from `input` into the spare capacity of `out`, as far as both allow.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, Fault> {
        let before = out.len();
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around_pos(out, before);
        let hint = self
            .context
            .decompress_stream(&mut to, &mut from)
            .map_err(fault)?;
        let (read, wrote) = (from.pos(), to.pos() - before);
        Ok(Step {
            read,
            wrote,
            is_finished: hint == 0,
        })
    }

    /// Decodes one frame into `out`, replacing what it had. The capacity of `out` must suffice.
    /// Verifies the checksum of the frame, if it has one.
    pub fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        out.clear();
        self.context.decompress(out, frame).map_err(fault)?;
        Ok(())
    }

    /// Discards a partly decoded frame.
    fn reset(&mut self) -> Result<(), Fault> {
        self.context
            .reset(ResetDirective::SessionOnly)
            .map_err(fault)?;
        Ok(())
    }
}

/// Fails if a window of so many bytes exceeds `1 << window_log`.
pub fn check_window(window: u64, window_log: u32) -> Result<(), Fault> {
    let limit = 1 << window_log.clamp(10, 31);
    if window > limit {
        Err(Fault::Window { window, limit })
    } else {
        Ok(())
    }
}

/// Fails if one of the frames needs a wider window than `1 << window_log`.
pub fn check_windows(frames: &[Frame], window_log: u32) -> Result<(), Error> {
    frames.iter().try_for_each(|frame| {
        check_window(frame.window, window_log).map_err(|fault| Error {
            offset: frame.offset,
            fault,
        })
    })
}

fn fault(code: usize) -> Fault {
    let is = |kind| is_error_kind(code, kind);
    if is(ZSTD_ErrorCode::ZSTD_error_checksum_wrong) {
        Fault::Checksum
    } else if is(ZSTD_ErrorCode::ZSTD_error_memory_allocation) {
        Fault::Memory
    } else {
        Fault::Corrupt(get_error_name(code))
    }
}

/// A partly decoded frame.
#[derive(Clone, Copy)]
struct Begun {
    /// Offset in the archive, in bytes.
    offset: u64,
    /// Length of its content, if the header has it.
    content: Option<u64>,
    /// Bytes of content decoded so far.
    decoded: u64,
}

/// The decoded content of a stream of frames of any size.
pub struct Stream<'d, R> {
    decoder: &'d mut Decoder,
    input: R,
    /// Bytes of the archive consumed so far.
    consumed: u64,
    /// The current frame.
    frame: Option<Begun>,
    /// The first bytes of that frame, inspected but not yet decoded.
    head: Vec<u8>,
}

impl<'d, R: BufRead> Stream<'d, R> {
    /// Decodes `input`, which begins with a frame at `offset` of the archive.
    pub fn new(decoder: &'d mut Decoder, input: R, offset: u64) -> Stream<'d, R> {
        Stream {
            decoder,
            input,
            consumed: offset,
            frame: None,
            head: Vec::with_capacity(LONGEST_HEADER),
        }
    }

    /// Position in the archive: bytes consumed so far, from its start.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Appends content to `out` until its capacity is used. False after the last frame.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        while out.len() < out.capacity() {
            let offset = self.frame.map_or(self.consumed, |frame| frame.offset);
            let goes_on = match self.frame {
                Some(frame) => self.content(frame, out).map(|()| true),
                None => self.begin(),
            };
            if !goes_on.map_err(|fault| Error { offset, fault })? {
                return Ok(false);
            }
        }
        // A caller that learns that more follows must first provide space for it.
        let offset = self.consumed;
        Ok(self.frame.is_some()
            || !self
                .peek()
                .map_err(|fault| Error { offset, fault })?
                .is_empty())
    }

    /// Reads the header of the next frame and skips skippable frames. False at the end of the
    /// archive.
    fn begin(&mut self) -> Result<bool, Fault> {
        let offset = self.consumed;
        self.head.clear();
        loop {
            // Byte by byte, because the bytes after a short frame belong to the next one.
            let Some(byte) = self.peek()?.first().copied() else {
                return if self.head.is_empty() {
                    Ok(false)
                } else {
                    Err(Fault::Truncated)
                };
            };
            self.head.push(byte);
            self.take(1);
            match frames::start(&self.head) {
                Err(Fault::Truncated) => {}
                Err(fault) => return Err(fault),
                Ok(Start::Skippable(length)) => {
                    self.skip(length.saturating_sub(self.head.len() as u64))?;
                    return Ok(true);
                }
                Ok(Start::Frame(Header {
                    window, content, ..
                })) => {
                    self.decoder.check_window(window)?;
                    self.decoder.reset()?;
                    self.frame = Some(Begun {
                        offset,
                        content,
                        decoded: 0,
                    });
                    return Ok(true);
                }
            }
        }
    }

    fn content(&mut self, frame: Begun, out: &mut Vec<u8>) -> Result<(), Fault> {
        let step = if self.head.is_empty() {
            let input = peek(&mut self.input)?;
            let is_over = input.is_empty();
            let step = self.decoder.step(input, out)?;
            self.take(step.read);
            if is_over && step.wrote == 0 && !step.is_finished {
                return Err(Fault::Truncated);
            }
            step
        } else {
            let step = self.decoder.step(&self.head, out)?;
            self.head.drain(..step.read.min(self.head.len()));
            step
        };
        let decoded = frame.decoded.saturating_add(step.wrote as u64);
        self.frame = if step.is_finished {
            None
        } else {
            Some(Begun { decoded, ..frame })
        };
        // The library does not check this if the last block is empty.
        if step.is_finished && frame.content.is_some_and(|content| content != decoded) {
            return Err(Fault::Corrupt(
                "its content is not as long as its header says",
            ));
        }
        Ok(())
    }

    fn skip(&mut self, mut length: u64) -> Result<(), Fault> {
        while length > 0 {
            let here = self.peek()?.len();
            if here == 0 {
                return Err(Fault::Truncated);
            }
            let step = usize::try_from(length).map_or(here, |length| length.min(here));
            self.take(step);
            length -= step as u64;
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<&[u8], Fault> {
        peek(&mut self.input)
    }

    fn take(&mut self, count: usize) {
        self.input.consume(count);
        self.consumed += count as u64;
    }
}

/// The bytes of one read; none at the end.
fn peek(input: &mut impl BufRead) -> Result<&[u8], Fault> {
    loop {
        match input.fill_buf() {
            // Called again below: the borrow checker extends a borrow that is returned on one path
            // only.
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Read(error)),
        }
    }
    input.fill_buf().map_err(Fault::Read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::zst::compress::{Compressor, Level};

    #[test]
    fn a_frame_gives_its_content_and_a_flipped_bit_an_error() {
        let content: Vec<u8> = (0..200_000u32)
            .flat_map(|number| (number / 7).to_le_bytes())
            .collect();
        let mut frame = Vec::new();
        Compressor::new(Level::DEFAULT)
            .unwrap()
            .frame(&content, false, &mut frame)
            .unwrap();
        let mut decoder = Decoder::new(27).unwrap();
        let mut decoded = Vec::with_capacity(content.len());
        decoder.frame(&frame, &mut decoded).unwrap();
        assert!(decoded == content);
        for place in (0..frame.len()).step_by(frame.len() / 50) {
            frame[place] ^= 0x10;
            let done = decoder.frame(&frame, &mut decoded);
            // A changed bit of the header, such as one of the window size, may leave the content as
            // it is.
            assert!(done.is_err() || decoded == content, "byte {place}");
            assert!(done.is_err() || place < LONGEST_HEADER, "byte {place}");
            frame[place] ^= 0x10;
        }
        assert!(
            decoder
                .frame(&frame[..frame.len() - 1], &mut decoded)
                .is_err()
        );
    }

    #[test]
    fn content_goes_to_one_place_in_steps_of_any_size() {
        let content: Vec<u8> = (0..300_000u32)
            .flat_map(|number| (number / 3).to_le_bytes())
            .collect();
        let (mut frame, mut decoder) = (Vec::new(), Decoder::new(27).unwrap());
        Compressor::new(Level::DEFAULT)
            .unwrap()
            .frame(&content, true, &mut frame)
            .unwrap();
        for step in [1, 1000, frame.len()] {
            decoder.in_one_place(true).unwrap();
            let input = io::BufReader::with_capacity(step, frame.as_slice());
            let mut decoded = Vec::with_capacity(content.len() + 1);
            assert!(
                !Stream::new(&mut decoder, input, 0)
                    .fill(&mut decoded)
                    .unwrap()
            );
            assert!(decoded == content);
            // Then in pieces again.
            decoder.in_one_place(false).unwrap();
            let mut stream = Stream::new(&mut decoder, frame.as_slice(), 0);
            let mut decoded = Vec::new();
            loop {
                let mut piece = Vec::with_capacity(5000);
                let goes_on = stream.fill(&mut piece).unwrap();
                decoded.append(&mut piece);
                if !goes_on {
                    break;
                }
            }
            assert!(decoded == content);
        }
    }
}
