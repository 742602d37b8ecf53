//! Any bytes as an archive in a file and in a pipe, read with one thread and with two: it ends, the
//! same each time, and within its memory.
#![no_main]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use isar_tarball::internals::input::{Input, Options};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::pipe;

/// More is not read, in bytes: four of a zstd archive may stand for 128 KiB.
const MOST: usize = 4 << 20;

/// What the part that is read may take beyond the memory that is allowed, its window not counted: a
/// piece.
const BEYOND: u64 = 1 << 20;

/// A pipe takes this many bytes before anybody reads.
const PIPE: usize = 64 << 10;

/// What came before the end or before [`MOST`], and how it ended.
#[derive(PartialEq)]
struct Outcome {
    content: Vec<u8>,
    error: Option<String>,
}

// The first byte says how wide windows may be and how much memory there is.
fuzz_target!(|bytes: &[u8]| {
    let Some((how, archive)) = bytes.split_first() else {
        return;
    };
    if archive.len() > PIPE {
        return;
    }
    let options = |threads| Options {
        threads,
        memory: 1 << (16 + how / 16),
        window_log: 10 + u32::from(how % 16),
        eager: how % 2 == 0,
    };
    let file = || {
        let file =
            File::from(memfd_create("archive", MemfdFlags::CLOEXEC).expect("a file in memory"));
        file.write_all_at(archive, 0).expect("written");
        file
    };
    let one = read(file(), &options(1));
    let two = read(file(), &options(2));
    assert!(one.content == two.content, "other content with two threads");
    assert_eq!(place(&one.error), place(&two.error));
    let (reader, writer) = pipe().expect("a pipe");
    File::from(writer).write_all(archive).expect("written");
    let piped = read(File::from(reader), &options(1));
    // What comes before an error differs: the frames of a file are looked at before any is decoded,
    // and what was decoded of a piece that has an error in it is lost.
    let common = one.content.len().min(piped.content.len());
    assert!(
        one.content[..common] == piped.content[..common],
        "other content in a pipe"
    );
    match (&one.error, &piped.error) {
        (None, piped_error) => {
            assert!(
                one.content == piped.content && piped_error.is_none(),
                "{piped_error:?} in a pipe"
            )
        }
        (Some(error), None) => assert!(
            error.starts_with("zstd frame"),
            "{error} in a file, and none in a pipe"
        ),
        _ => {}
    }
});

/// An error up to what zstd says is wrong, which depends on what its decoder did before.
fn place(error: &Option<String>) -> Option<&str> {
    error
        .as_deref()
        .map(|text| text.split(": damaged").next().unwrap_or(text))
}

fn read(file: File, options: &Options) -> Outcome {
    let mut outcome = Outcome {
        content: Vec::new(),
        error: None,
    };
    let mut input = match Input::open(file, options) {
        Ok(input) => input,
        Err(error) => {
            return Outcome {
                error: Some(error.to_string()),
                ..outcome
            };
        }
    };
    while outcome.content.len() < MOST {
        match input.next() {
            Ok(Some(chunk)) => {
                assert!(!chunk.is_empty());
                outcome.content.extend_from_slice(&chunk);
            }
            Ok(None) => break,
            Err(error) => {
                outcome.error = Some(error.to_string());
                break;
            }
        }
        // What is decoded ahead keeps to the memory; what is read now may not, with its window.
        let (_, peak) = input.held();
        assert!(
            peak <= options.memory + BEYOND + (1 << options.window_log),
            "{peak} bytes"
        );
    }
    // Pieces end where decoders end them.
    outcome.content.truncate(MOST);
    outcome
}
