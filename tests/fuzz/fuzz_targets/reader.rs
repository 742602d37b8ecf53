//! Any bytes as a tar stream: no panic, data within the file it belongs to, the same events in
//! whatever pieces the stream comes, and the same members in its outline.
#![no_main]

use isar_tarball::internals::archive::outline::Outline;
use isar_tarball::internals::archive::reader::{End, Error, Event, Limits, Reader};
use isar_tarball::internals::entry::{Entry, Kind};
use libfuzzer_sys::fuzz_target;

/// A member, and where each piece of data lies that it has: first byte and the one behind the last,
/// touching pieces joined.
type Read = Vec<(Entry, Vec<(u64, u64)>)>;

fn read(stream: &[u8], piece: usize) -> (Read, Result<End, Error>) {
    let mut reader = Reader::new(Limits {
        extents: 1000,
        ..Limits::default()
    });
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
            let Kind::File { size, .. } = entry.kind else {
                panic!("data of a {}", entry.kind.name())
            };
            let end = offset + data.len() as u64;
            assert!(!data.is_empty() && end <= size);
            match pieces.last_mut() {
                Some((_, last)) if *last == offset => *last = end,
                last => {
                    assert!(
                        last.is_none_or(|(_, last)| *last < offset),
                        "data goes back"
                    );
                    pieces.push((offset, end));
                }
            }
        }
        Event::MemberEnd => assert!(!members.is_empty()),
    }
}

fn read_outline(outline: &Outline) -> (Vec<Entry>, End) {
    let (mut reader, mut members) = (
        Reader::new(Limits {
            extents: 1000,
            ..Limits::default()
        }),
        Vec::new(),
    );
    outline
        .read(&mut reader, |member| members.push(member.entry.clone()))
        .expect("an outline fits its stream");
    (
        members,
        reader.finish().expect("an outline ends as its stream does"),
    )
}

// The first byte says how the rest is read.
fuzz_target!(|bytes: &[u8]| {
    let Some((how, stream)) = isar_tarball_fuzz::stream(bytes) else {
        return;
    };
    let whole = read(&stream, usize::MAX);
    assert_eq!(whole, read(&stream, 1 + usize::from(how) * 7));
    if let (members, Ok(end)) = whole {
        let entries = members.into_iter().map(|(entry, _)| entry).collect();
        assert_eq!(
            (entries, end),
            read_outline(&Outline::of(&stream).expect("what was read before"))
        );
    }
});
