//! Any bytes as a tar stream: no panic, data within the file it belongs to, and the same events in whatever pieces the stream comes.
#![no_main]

use isar_tarball::archive::reader::{End, Error, Event, Limits, Reader};
use isar_tarball::entry::{Entry, Kind};
use libfuzzer_sys::fuzz_target;

/// A member, and where each piece of data lies that it has: first byte and the one behind the last, touching pieces joined.
type Read = Vec<(Entry, Vec<(u64, u64)>)>;

fn read(stream: &[u8], piece: usize) -> (Read, Result<End, Error>) {
    let mut reader = Reader::new(Limits { extents: 1000, ..Limits::default() });
    let mut members = Read::new();
    for mut input in stream.chunks(piece) {
        loop {
            match reader.next(&mut input) {
                Ok(Some(event)) => take(&mut members, event),
                Ok(None) => break,
                Err(error) => return (members, Err(error)),
            }
        }
        assert!(input.is_empty());
    }
    (members, reader.finish())
}

fn take(members: &mut Read, event: Event<'_>) {
    match event {
        Event::Member(member) => members.push((member.entry, Vec::new())),
        Event::Data(offset, data) => {
            let (entry, pieces) = members.last_mut().expect("a member before its data");
            let Kind::File { size, .. } = entry.kind else { panic!("data of a {}", entry.kind.name()) };
            let end = offset + data.len() as u64;
            assert!(!data.is_empty() && end <= size);
            match pieces.last_mut() {
                Some((_, last)) if *last == offset => *last = end,
                last => {
                    assert!(last.is_none_or(|(_, last)| *last < offset), "data goes back");
                    pieces.push((offset, end));
                }
            }
        }
        Event::MemberEnd => assert!(!members.is_empty()),
    }
}

/// Gives each block that is not zero the checksum of a header: without it no change would get any further.
fn mend(stream: &mut [u8]) {
    for block in stream.as_chunks_mut::<512>().0.iter_mut().filter(|block| **block != [0; 512]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

// The first byte says how the rest is read.
fuzz_target!(|bytes: &[u8]| {
    let Some((how, stream)) = bytes.split_first() else { return };
    let mut stream = stream.to_vec();
    if how % 2 == 1 {
        mend(&mut stream);
    }
    assert_eq!(read(&stream, usize::MAX), read(&stream, 1 + usize::from(how / 2) * 7));
});
