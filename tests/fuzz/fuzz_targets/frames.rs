//! Any bytes as a zstd archive in a file: frames that are found lie one after the other, are as
//! long as zstd itself finds them, and decode to what they say.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use isar_tarball::internals::zst::decode::{Decoder, Stream};
use isar_tarball::internals::zst::frames::{self, Fault, Frame};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

/// Windows are decoded up to this, as an exponent of two.
const WINDOW_LOG: u32 = 20;

/// The widest window that zstd looks at, in bytes.
const WIDEST: u64 = 1 << 31;

/// More content is not decoded, in bytes.
const MOST: u64 = 1 << 20;

// The first byte says how many bytes stand before the archive.
fuzz_target!(|bytes: &[u8]| {
    let Some((before, archive)) = bytes.split_first() else {
        return;
    };
    let start = u64::from(before % 4);
    let file = File::from(memfd_create("archive", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(archive, start).expect("written");
    let scanned = frames::scan(&file, start, archive.len() as u64);
    match &scanned {
        Ok(frames) => check(archive, frames),
        // zstd has the last word on whether this is an archive. Of what it takes, these three are
        // refused here.
        Err(error) => assert!(
            !zstd_finds_frames(archive)
                || matches!(error.fault, Fault::Dictionary(_) | Fault::Corrupt(_)),
            "{error}"
        ),
    }
    // Whoever decodes while the file is being cut short gets an error, too.
    ftruncate(&file, start + archive.len() as u64 / 2).expect("cut");
    (&file).flush().expect("nothing");
    let _ = frames::scan(&file, start, archive.len() as u64);
});

fn check(archive: &[u8], frames: &[Frame]) {
    let mut decoder = Decoder::new(WINDOW_LOG).expect("a decoder");
    let mut end = 0;
    for frame in frames {
        assert_eq!(frame.offset, end);
        end += frame.compressed;
        let bytes = &archive[frame.offset as usize..end as usize];
        if frame.window > WIDEST {
            continue;
        }
        assert_eq!(
            zstd_safe::find_frame_compressed_size(bytes).ok(),
            Some(bytes.len()),
            "{frame:?}"
        );
        if frame.is_skippable {
            assert_eq!((frame.content, frame.window), (Some(0), 0));
            continue;
        }
        assert_eq!(
            zstd_safe::get_frame_content_size(bytes).ok(),
            Some(frame.content),
            "{frame:?}"
        );
        decode(&mut decoder, bytes, frame);
    }
    assert_eq!(end, archive.len() as u64);
}

/// What is decoded piece by piece is what zstd decodes at once.
fn decode(decoder: &mut Decoder, bytes: &[u8], frame: &Frame) {
    let Some(size) = frame
        .content
        .filter(|content| *content <= MOST && frame.window <= 1 << WINDOW_LOG)
    else {
        return;
    };
    let mut whole = Vec::with_capacity(size as usize);
    let decoded = zstd_safe::decompress(&mut whole, bytes);
    // One byte of room is left, so that the end is seen.
    let mut pieces = Vec::with_capacity(size as usize + 1);
    let streamed = Stream::new(decoder, bytes, 0).fill(&mut pieces);
    // Piece by piece, zstd refuses blocks larger than the window, as the format does; at once it
    // takes them.
    if matches!(streamed, Ok(false)) {
        assert_eq!(pieces.len() as u64, size);
        match decoded {
            Ok(length) => assert!(length == pieces.len() && whole == pieces, "other content"),
            // The other way round for an empty block that is said to be compressed: refused at
            // once, passed over piece by piece.
            Err(_) => assert!(
                zstd_in_pieces(bytes).is_some_and(|content| content == pieces),
                "zstd refuses it"
            ),
        }
    } else {
        let is_corrupt =
            matches!(&streamed, Err(error) if matches!(error.fault, Fault::Corrupt(_)));
        assert!(
            decoded.is_err() || is_corrupt,
            "{decoded:?} and {streamed:?}"
        );
    }
}

/// Byte by byte: given all at once, zstd takes the short way.
fn zstd_in_pieces(frame: &[u8]) -> Option<Vec<u8>> {
    let (mut context, mut content) = (DCtx::create(), Vec::with_capacity(MOST as usize + 1));
    let mut output = OutBuffer::around(&mut content);
    for byte in frame.chunks(1) {
        let mut input = InBuffer::around(byte);
        while input.pos() == 0 {
            let before = output.pos();
            if context.decompress_stream(&mut output, &mut input).ok()? == 0 {
                return Some(output.as_slice().to_vec());
            }
            if input.pos() == 0 && output.pos() == before {
                return None;
            }
        }
    }
    None
}

fn zstd_finds_frames(mut archive: &[u8]) -> bool {
    while !archive.is_empty() {
        match zstd_safe::find_frame_compressed_size(archive) {
            Ok(length) if length > 0 && length <= archive.len() => archive = &archive[length..],
            _ => return false,
        }
    }
    true
}
