#![allow(clippy::disallowed_methods, clippy::panic, clippy::unwrap_used)]
//! Contents in all compressions, from files and pipes, whole and damaged.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

use super::ahead::{Early, Kept, Part};
use super::*;
use crate::zst::frames::Fault;

/// A piece of an archive.
#[derive(Clone, Debug)]
enum Cut {
    Frame {
        size: usize,
        says_size: bool,
        has_checksum: bool,
        window_log: u32,
    },
    Skippable(usize),
}

fn compress(content: &[u8], says_size: bool, has_checksum: bool, window_log: u32) -> Vec<u8> {
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(1),
        CParameter::ContentSizeFlag(says_size),
        CParameter::ChecksumFlag(has_checksum),
        CParameter::WindowLog(window_log),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    let mut out = Vec::with_capacity(compress_bound(content.len()));
    context.compress2(&mut out, content).unwrap();
    out
}

fn frame(content: &[u8]) -> Vec<u8> {
    compress(content, true, true, 20)
}

fn skippable(size: usize) -> Vec<u8> {
    [
        &[0x53, 0x2A, 0x4D, 0x18],
        (size as u32).to_le_bytes().as_slice(),
        &vec![0xAA; size],
    ]
    .concat()
}

/// Bytes that compress to about half, without repetitions.
fn content(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'a' + (state & 15) as u8
        })
        .collect()
}

fn archive(cuts: &[Cut]) -> (Vec<u8>, Vec<u8>) {
    let (mut all, mut archive) = (Vec::new(), Vec::new());
    let total = cuts
        .iter()
        .map(|cut| {
            if let Cut::Frame { size, .. } = cut {
                *size
            } else {
                0
            }
        })
        .sum();
    let source = content(total);
    for cut in cuts {
        match cut {
            Cut::Frame {
                size,
                says_size,
                has_checksum,
                window_log,
            } => {
                let part = &source[all.len()..all.len() + size];
                archive.extend(compress(part, *says_size, *has_checksum, *window_log));
                all.extend_from_slice(part);
            }
            Cut::Skippable(size) => archive.extend(skippable(*size)),
        }
    }
    (all, archive)
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn pipe(bytes: &[u8]) -> File {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = bytes.to_vec();
    // The reader may leave early; ignore the error then.
    thread::spawn(move || writer.write_all(&bytes));
    File::from(OwnedFd::from(reader))
}

fn options(threads: usize, memory: u64) -> Options {
    Options {
        threads,
        memory,
        window_log: 27,
        eager: true,
    }
}

fn read_all(input: &mut Input) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(chunk) = input.next()? {
        assert!(!chunk.is_empty());
        all.extend_from_slice(&chunk);
    }
    assert!(input.next()?.is_none(), "the end stays the end");
    Ok(all)
}

fn read(file: File, options: Options) -> Result<Vec<u8>, Error> {
    in_time(move || read_all(&mut Input::open(file, &options)?))
}

/// Turns a hang into a failure.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver
        .recv_timeout(Duration::from_secs(60))
        .expect("an answer within a minute")
}

fn fault(result: Result<Vec<u8>, Error>) -> (u64, Fault) {
    match result {
        Err(Error::Zstd(frames::Error { offset, fault })) => (offset, fault),
        other => panic!("{:?}", other.map(|content| content.len())),
    }
}

/// True if the content was read. An archive without content is an error.
fn is(read: Result<Vec<u8>, Error>, content: &[u8]) -> bool {
    match read {
        Err(Error::EmptyContent) => content.is_empty(),
        read => read.unwrap() == content,
    }
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let frame = (0..200_000_usize, any::<bool>(), any::<bool>(), 17..24_u32).prop_map(
        |(size, says_size, has_checksum, window_log)| Cut::Frame {
            size: if size < 20_000 { 0 } else { size },
            says_size,
            has_checksum,
            window_log,
        },
    );
    proptest::collection::vec(
        prop_oneof![4 => frame, 1 => (0..5000_usize).prop_map(Cut::Skippable)],
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_framing_gives_the_same_bytes_at_any_thread_count_and_budget(cuts in cuts()) {
        let (content, archive) = archive(&cuts);
        for (threads, memory) in [(1, 0), (2, 0), (8, 0), (1, 300 << 10), (2, 300 << 10), (8, 1 << 20), (8, 1 << 30)] {
            prop_assert!(is(read(file(&archive), options(threads, memory)), &content), "{threads} {memory}");
        }
        for memory in [0, 3 << 20] {
            prop_assert!(is(read(pipe(&archive), options(2, memory)), &content), "pipe");
        }
    }

    #[test]
    fn the_scan_finds_the_frames_that_zstd_finds(cuts in cuts()) {
        let (content, archive) = archive(&cuts);
        let frames = frames::scan(&file(&archive), 0, archive.len() as u64).unwrap();
        prop_assert_eq!(frames.len(), cuts.len());
        let mut offset = 0;
        for (found, cut) in frames.iter().zip(&cuts) {
            prop_assert_eq!(found.offset, offset as u64);
            let length = zstd::zstd_safe::find_frame_compressed_size(&archive[offset..]).unwrap();
            prop_assert_eq!(found.compressed, length as u64);
            match cut {
                Cut::Frame { size, says_size, has_checksum, .. } => {
                    prop_assert_eq!(found.content, says_size.then_some(*size as u64));
                    prop_assert_eq!(found.has_checksum, *has_checksum);
                }
                Cut::Skippable(_) => prop_assert!(found.is_skippable && found.content == Some(0)),
            }
            offset += length;
        }
        prop_assert_eq!(offset, archive.len());
        prop_assert!(content.len() <= frames.iter().filter_map(|frame| frame.content).sum::<u64>() as usize
            || frames.iter().any(|frame| frame.content.is_none()));
    }
}

#[test]
fn the_scan_reads_headers_and_not_the_data() {
    let archive = frame(&content(20 << 20));
    let mut read = 0;
    let found = frames::scan_with(archive.len() as u64, |offset, buffer| {
        let from = &archive[offset as usize..];
        let count = buffer.len().min(from.len());
        buffer[..count].copy_from_slice(&from[..count]);
        read += count;
        Ok(count)
    });
    assert_eq!(found.unwrap().len(), 1);
    assert!(read < archive.len() / 10, "{read} of {}", archive.len());
}

/// Some frames of every kind, small enough to damage each byte. Frames without a content size are
/// compressed as streams.
fn small() -> (Vec<u8>, Vec<u8>) {
    let frame = |size, says_size| Cut::Frame {
        size,
        says_size,
        has_checksum: true,
        window_log: 17,
    };
    archive(&[
        frame(300, true),
        Cut::Skippable(9),
        frame(0, true),
        frame(200, false),
        Cut::Skippable(0),
        frame(90, true),
    ])
}

#[test]
fn a_cut_is_an_error_unless_it_falls_between_frames() {
    let (content, archive) = small();
    let frames = frames::scan(&file(&archive), 0, archive.len() as u64).unwrap();
    for end in 1..archive.len() {
        let between = frames.iter().any(|frame| frame.offset == end as u64);
        let inside = frames
            .iter()
            .rfind(|frame| frame.offset < end as u64)
            .unwrap()
            .offset;
        for source in [file, pipe] {
            let result = read(source(&archive[..end]), options(2, 1 << 20));
            match result {
                Ok(read) => assert!(between && content.starts_with(&read), "cut at {end}"),
                // The magic number alone is not a zstd archive.
                Err(Error::Unknown) => assert!(end < 4),
                Err(error) => assert!(
                    !between
                        && matches!(fault(Err(error)), (offset, Fault::Truncated) if offset == inside),
                    "cut at {end}"
                ),
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let (content, archive) = small();
    for bit in 0..archive.len() * 8 {
        let mut archive = archive.clone();
        archive[bit / 8] ^= 1 << (bit % 8);
        for source in [file, pipe] {
            if let Ok(read) = read(source(&archive), options(2, 1 << 20)) {
                assert!(read == content, "bit {bit}");
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_frame_is_told_with_its_place() {
    let content = content(100_000);
    let good = frame(&content);
    let place = good.len() as u64;
    let mut wrong_sum = frame(&content[..5000]);
    *wrong_sum.last_mut().unwrap() ^= 1;
    let mut reserved_block = frame(b"");
    let end = reserved_block.len();
    reserved_block[end - 7] = 7;
    let with_dictionary = [0x28, 0xB5, 0x2F, 0xFD, 0x21, 7, 0, 1, 0, 0];
    let lies_about_size = [0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0, 0, 8, 0, 1, 0, 0];
    let legacy = [0x27, 0xB5, 0x2F, 0xFD, 0, 0, 0, 0];
    type Expected = fn(&Fault) -> bool;
    let cases: &[(&str, &[u8], Expected)] = &[
        ("checksum", &wrong_sum, |fault| {
            matches!(fault, Fault::Checksum)
        }),
        ("reserved block", &reserved_block, |fault| {
            matches!(fault, Fault::Corrupt(_))
        }),
        ("dictionary", &with_dictionary, |fault| {
            matches!(fault, Fault::Dictionary(7))
        }),
        ("size", &lies_about_size, |fault| {
            matches!(fault, Fault::Corrupt(_))
        }),
        ("legacy", &legacy, |fault| matches!(fault, Fault::Legacy)),
        ("newline behind", b"\n", |fault| {
            matches!(fault, Fault::NotAFrame)
        }),
        ("zeros behind", &[0; 1024], |fault| {
            matches!(fault, Fault::NotAFrame)
        }),
        ("cut", &good[..50], |fault| {
            matches!(fault, Fault::Truncated)
        }),
        (
            "window",
            &compress(&vec![7; 3 << 20], false, true, 21),
            |fault| {
                matches!(
                    fault,
                    Fault::Window {
                        window: 0x20_0000,
                        limit: 0x10_0000
                    }
                )
            },
        ),
    ];
    for (name, bad, expected) in cases {
        for source in [file, pipe] {
            let archive = [&good, *bad].concat();
            let options = Options {
                window_log: 20,
                ..options(2, 1 << 20)
            };
            let (offset, fault) = fault(read(source(&archive), options));
            assert!(
                offset == place && expected(&fault),
                "{name}: {fault:?} at {offset}"
            );
        }
    }
}

#[test]
fn a_large_frame_comes_in_pieces_while_the_next_ones_are_decoded() {
    let all = content(40 << 20);
    for says_size in [true, false] {
        let archive = [
            compress(&all, says_size, true, 23),
            frame(&all[..1 << 20]),
            frame(b"end"),
        ]
        .concat();
        let mut input = Input::open(file(&archive), &options(2, 64 << 20)).unwrap();
        let mut read = 0;
        let mut consumed = 0;
        while let Some(chunk) = input.next().unwrap() {
            assert!(chunk.len() <= 1 << 20);
            read += chunk.len();
            assert!(input.consumed() >= consumed && input.consumed() > 0);
            consumed = input.consumed();
        }
        assert_eq!(read, (41 << 20) + 3);
        assert_eq!(
            (consumed, input.content()),
            (archive.len() as u64, says_size.then_some(read as u64))
        );
    }
}

#[test]
fn a_slow_reader_does_not_make_memory_grow() {
    let all = content(64 * (200 << 10));
    let small: Vec<u8> = all.chunks(200 << 10).flat_map(frame).collect();
    let large = compress(&all, false, true, 17);
    let budget = 4 << 20;
    for (archive, source) in [
        (&small, file as fn(&[u8]) -> File),
        (&large, file),
        (&large, pipe),
        (&all, pipe),
    ] {
        let archive = if *archive == all {
            tar_of(&all)
        } else {
            archive.clone()
        };
        let mut input = Input::open(source(&archive), &options(8, budget)).unwrap();
        let mut read = 0;
        while let Some(chunk) = input.next().unwrap() {
            thread::sleep(Duration::from_millis(2));
            read += chunk.len();
        }
        let (_, peak) = input.held();
        assert!(read >= all.len());
        // One piece more, because the next one may always be decoded.
        assert!(peak > 1 << 20 && peak <= budget + (2 << 20), "{peak}");
    }
}

#[test]
fn whoever_keeps_all_pieces_gets_all_pieces() {
    let all = content(64 * (200 << 10));
    let archive: Vec<u8> = all.chunks(200 << 10).flat_map(frame).collect();
    let kept = in_time(move || {
        let mut input = Input::open(file(&archive), &options(2, 1 << 20)).unwrap();
        let mut kept = Vec::new();
        while let Some(chunk) = input.next().unwrap() {
            kept.push(chunk);
        }
        kept
    });
    // Pieces outlive the input.
    assert!(kept.iter().flat_map(|chunk| chunk.iter()).eq(&all));
}

#[test]
fn waiting_for_room_bounds_what_other_threads_hold() {
    let all = content(64 * (200 << 10));
    let archive: Vec<u8> = all.chunks(200 << 10).flat_map(frame).collect();
    let (peak, read) = in_time(move || {
        let mut input = Input::open(file(&archive), &options(2, 2 << 20)).unwrap();
        let (sender, receiver) = mpsc::channel::<Chunk>();
        let writer = thread::spawn(move || {
            receiver
                .iter()
                .map(|chunk| {
                    thread::sleep(Duration::from_millis(1));
                    chunk.len()
                })
                .sum::<usize>()
        });
        while let Some(chunk) = input.next().unwrap() {
            sender.send(chunk).unwrap();
            input.wait_for_room();
        }
        drop(sender);
        (input.held().1, writer.join().unwrap())
    });
    assert_eq!(read, 64 * (200 << 10));
    assert!(peak <= 3 << 20, "{peak}");
}

#[test]
fn dropping_early_ends_all_threads_even_on_a_silent_pipe() {
    let (_, archive) = archive(&[Cut::Frame {
        size: 900_000,
        says_size: false,
        has_checksum: true,
        window_log: 17,
    }]);
    for begun in [&archive[..archive.len() / 2], &tar_of(b"x")[..512]] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&begun[..begun.len().min(60_000)]).unwrap();
        in_time(move || {
            drop(Input::open(File::from(OwnedFd::from(reader)), &options(1, 0)).unwrap())
        });
        // The other end is closed.
        assert!(writer.write_all(&[0; 1 << 17]).is_err());
    }
    let frames: Vec<u8> = (0..50).flat_map(|_| frame(&archive)).collect();
    for threads in [1, 2, 8] {
        let file = file(&frames);
        in_time(move || {
            let mut input = Input::open(file, &options(threads, 0)).unwrap();
            let first = input.next().unwrap();
            drop(input);
            drop(first);
        });
    }
}

#[test]
fn a_file_is_read_from_its_position_on() {
    let archive = [b"leading bytes".as_slice(), &frame(b"one"), &frame(b"two")].concat();
    let mut file = file(&archive);
    file.seek(SeekFrom::Start(13)).unwrap();
    let mut input = Input::open(file.try_clone().unwrap(), &options(2, 0)).unwrap();
    assert_eq!(input.frames().unwrap()[0].offset, 0);
    assert_eq!(input.content(), Some(6));
    assert_eq!(read_all(&mut input).unwrap(), b"onetwo");
    assert_eq!(file.stream_position().unwrap(), 13);
}

/// A plain tar of one member.
fn tar_of(content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "a", content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_plain_tar_comes_as_it_is() {
    let tar = tar_of(&content(3_000_000));
    for source in [file, pipe] {
        let mut input = Input::open(source(&tar), &options(1, 0)).unwrap();
        assert_eq!(input.compression(), Compression::None);
        assert!(read_all(&mut input).unwrap() == tar);
    }
}

#[test]
fn other_formats_and_nothing_at_all_are_named() {
    for source in [file, pipe] {
        assert!(matches!(
            read(source(b""), options(1, 0)),
            Err(Error::Empty)
        ));
        assert!(matches!(
            read(source(b"hello"), options(1, 0)),
            Err(Error::Unknown)
        ));
        let error = read(source(b"BZh91AY&SY"), options(1, 0)).unwrap_err();
        assert!(
            error.to_string().starts_with("it is a bzip2 archive;"),
            "{error}"
        );
    }
    let directory = File::open("/").unwrap();
    assert_eq!(
        read(directory, options(1, 0)).unwrap_err().to_string(),
        "it is a directory, not an archive"
    );
}

/// gzip or xz, whole and damaged.
#[cfg(any(feature = "gzip", feature = "xz"))]
fn check_foreign(compression: Compression, tar: &[u8], archive: &[u8]) {
    for source in [file, pipe] {
        let mut input = Input::open(source(archive), &options(2, 0)).unwrap();
        assert_eq!(input.compression(), compression);
        assert!(read_all(&mut input).unwrap() == tar);
    }
    for end in (10..archive.len()).step_by(archive.len() / 40) {
        let result = read(file(&archive[..end]), options(1, 0));
        let Err(Error::Damaged { cause, .. }) = result else {
            panic!("cut at {end}: {:?}", result.map(|_| ()))
        };
        assert_eq!(cause.kind(), io::ErrorKind::UnexpectedEof, "cut at {end}");
    }
    for bit in (80..archive.len() * 8).step_by(archive.len() / 10 + 1) {
        let mut archive = archive.to_vec();
        archive[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = read(file(&archive), options(1, 0)) {
            assert!(read == tar, "bit {bit}");
        }
    }
    let behind = read(file(&[archive, b"garbage behind"].concat()), options(1, 0));
    assert!(matches!(behind, Err(Error::Damaged { .. })), "{behind:?}");
}

#[cfg(feature = "gzip")]
#[test]
fn gzip_is_read_in_any_number_of_members() {
    let tar = tar_of(&content(300_000));
    let member = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    };
    check_foreign(Compression::Gzip, &tar, &member(&tar));
    let members: Vec<u8> = tar
        .chunks(70_000)
        .chain([b"".as_slice()])
        .flat_map(member)
        .collect();
    assert!(read(file(&members), options(1, 0)).unwrap() == tar);
}

#[cfg(feature = "xz")]
#[test]
fn xz_is_read_in_any_number_of_streams_with_padding_within_a_memory_limit() {
    let tar = tar_of(&content(300_000));
    let stream = |content: &[u8], preset| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), preset);
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    };
    check_foreign(Compression::Xz, &tar, &stream(&tar, 1));
    let mut streams: Vec<u8> = tar
        .chunks(70_000)
        .flat_map(|part| [stream(part, 0), vec![0; 8]].concat())
        .collect();
    assert!(read(file(&streams), options(1, 0)).unwrap() == tar);
    streams.push(0);
    assert!(
        read(file(&streams), options(1, 0)).is_err(),
        "padding is in fours"
    );
    let wide = stream(&tar, 9);
    let narrow = Options {
        window_log: 20,
        ..options(1, 0)
    };
    assert!(matches!(
        read(file(&wide), narrow),
        Err(Error::XzMemory { limit: 0x110_0000 })
    ));
}

#[test]
fn a_decoder_that_dies_is_an_error_and_not_a_hang() {
    let ahead = Ahead::new(2, Vec::new(), 0);
    drop(ahead.take(&mut Kept::<()>::new(&ahead), |_| 0).unwrap());
    assert!(matches!(
        in_time(move || ahead.next().map(|_| ())),
        Err(Error::Broken)
    ));
}

#[test]
fn a_decoder_is_kept_for_the_next_part_as_long_as_it_fits_the_budget() {
    for (needs, is_kept) in [(60, true), (100, true), (101, false), (300, false)] {
        let ahead = Ahead::new(2, Vec::new(), 100);
        let mut kept = Kept::new(&ahead);
        let part = ahead.take(&mut kept, |_| needs).unwrap();
        kept.value = Some(());
        kept.settle();
        assert_eq!(
            (kept.value.is_some(), ahead.held().0),
            (is_kept, if is_kept { needs } else { 0 }),
            "{needs}"
        );
        part.done(Ok(()));
    }
}

#[test]
fn a_large_frame_is_due_when_the_others_take_no_longer_for_what_stands_before_it() {
    let mib = |content: u64| Frame {
        offset: 0,
        compressed: 1,
        content: Some(content << 20),
        window: 64 << 20,
        has_checksum: true,
        is_skippable: false,
    };
    let planned = |contents: &[u64], threads, eager| {
        let frames = contents.iter().map(|content| mib(*content)).collect();
        let frames = Frames {
            file: Arc::new(file(b"")),
            digests: None,
            start: 0,
            frames,
            window_log: 27,
            threads,
            eager,
        };
        frames
            .early()
            .iter()
            .map(|early| (early.part, early.due))
            .collect::<Vec<_>>()
    };
    let due = |contents: &[u64], threads| planned(contents, threads, true);
    let late = [20, 20, 20, 20, 20, 20, 100, 20];
    assert_eq!(due(&late, 1), []);
    assert_eq!(due(&late, 2), [(6, 1)]);
    assert_eq!(due(&late, 3), [(6, 0)]);
    // With that many threads, it is decoded in pieces.
    assert_eq!(due(&late, 4), []);
    assert_eq!(due(&[20, 20, 90, 20, 60, 50], 2), [(2, 0), (4, 3)]);
    assert_eq!(due(&[20; 9], 2), []);
    assert_eq!(due(&[20, 20, 20, 20, 20, 192], 2), [(5, 0)]);
    assert_eq!(
        due(&[20, 20, 20, 20, 20, 193], 2),
        [],
        "larger than what is decoded into one buffer"
    );
    assert_eq!(planned(&late, 2, false), [], "larger than its window");
    assert_eq!(planned(&[20, 20, 20, 20, 64], 2, false), [(4, 1)]);
}

#[test]
fn a_part_is_taken_before_its_turn_when_it_is_due_and_room_for_it_is_kept_until_then() {
    const MIB: usize = 1 << 20;
    let early = |size| {
        vec![Early {
            part: 3,
            due: 1,
            size,
        }]
    };
    let take = |ahead: &Arc<Ahead>| ahead.take(&mut Kept::<()>::new(ahead), |_| 0);
    let ahead = Ahead::new(5, early(4 * MIB), 10 * MIB as u64);
    let mut parts = [take(&ahead).unwrap(), take(&ahead).unwrap()];
    assert_eq!(parts.each_ref().map(|part| part.index), [0, 3]);
    assert_eq!(ahead.held().0, 4 * MIB as u64, "charged when it is taken");
    let buffer = parts[1].buffer(4 * MIB).unwrap();
    assert_eq!(
        (buffer.bytes.capacity(), ahead.held().0),
        (4 * MIB, 4 * MIB as u64),
        "and not once more"
    );
    let rest: Vec<Part> = std::iter::from_fn(|| take(&ahead)).collect();
    assert_eq!(
        rest.iter().map(|part| part.index).collect::<Vec<_>>(),
        [1, 2, 4]
    );

    // Before it is due, only the part being read may take the memory reserved for it.
    let ahead = Ahead::new(
        5,
        vec![Early {
            part: 3,
            due: 2,
            size: 4 * MIB,
        }],
        10 * MIB as u64,
    );
    let (mut first, mut second) = (take(&ahead).unwrap(), take(&ahead).unwrap());
    let first = first.buffer(5 * MIB).unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        sender.send(second.buffer(5 * MIB).map(|buffer| buffer.bytes.capacity()))
    });
    assert!(
        receiver.recv_timeout(Duration::from_millis(100)).is_err(),
        "5 of 10 are taken, and 4 are kept"
    );
    assert_eq!(take(&ahead).unwrap().index, 3);
    drop(first);
    assert_eq!(
        receiver.recv_timeout(Duration::from_secs(60)).unwrap(),
        Some(5 * MIB)
    );

    // A part that would leave too little for the others is taken in order.
    let ahead = Ahead::new(5, early(7 * MIB), 10 * MIB as u64);
    let order: Vec<usize> = std::iter::from_fn(|| take(&ahead))
        .map(|part| part.index)
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[test]
fn frames_taken_early_come_in_their_place_whatever_the_budget_and_the_damage() {
    // As large as a large frame, but tiny when compressed.
    let sizes = [
        1 << 20,
        2 << 20,
        3 << 20,
        1 << 20,
        50 << 20,
        1 << 20,
        60 << 20,
        5,
    ];
    let contents: Vec<Vec<u8>> = sizes
        .iter()
        .zip(1..)
        .map(|(size, byte)| vec![byte; *size])
        .collect();
    let frames: Vec<Vec<u8>> = contents
        .iter()
        .map(|content| compress(content, true, true, 27))
        .collect();
    let archive = frames.concat();
    // Also with windows narrower than a frame: a part taken early still has a single buffer.
    let narrow: Vec<u8> = contents
        .iter()
        .flat_map(|content| compress(content, true, true, 20))
        .collect();
    for archive in [&archive, &narrow] {
        for (threads, memory) in [
            (1, 256 << 20),
            (2, 256 << 20),
            (3, 128 << 20),
            (3, 80 << 20),
            (3, 0),
        ] {
            for eager in [false, true] {
                let options = Options {
                    eager,
                    ..options(threads, memory)
                };
                assert!(
                    read(file(archive), options).unwrap() == contents.concat(),
                    "{threads} {memory} {eager}"
                );
            }
        }
    }
    // The end of the second large frame, its checksum, is changed.
    let mut damaged = archive.clone();
    let place = archive.len() - frames[7].len() - 1;
    damaged[place] ^= 1;
    let at = frames[..6].iter().map(|frame| frame.len() as u64).sum();
    let (offset, fault) = fault(read(file(&damaged), options(3, 256 << 20)));
    assert!(
        offset == at && matches!(fault, Fault::Checksum),
        "{offset} {fault:?}"
    );
}
