//! Any bytes as a sparse map of each form: what is accepted is sorted, disjoint, within the file,
//! few enough and as large as the data.
#![no_main]

use isar_tarball::internals::archive::sparse::decode::{Map, OldGnu, Text, list};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 100;

fn check(map: Map, size: u64, stored: u64) {
    assert!(map.count() <= LIMIT);
    let Ok(extents) = map.finish(size, stored) else {
        return;
    };
    let mut end = 0;
    let mut data = 0;
    for extent in extents {
        assert!(extent.length > 0 && extent.offset >= end);
        end = extent.offset + extent.length;
        data += extent.length;
    }
    assert!(end <= size && data == stored);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((numbers, bytes)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let size = u64::from(u16::from_le_bytes([numbers[0], numbers[1]]));
    let stored = u64::from(u16::from_le_bytes([numbers[2], numbers[3]]));
    let mut records = Map::new(LIMIT);
    if list(&mut records, bytes).is_ok() {
        check(records, size, stored);
    }
    let (mut old, mut text) = (OldGnu::new(LIMIT), Text::new(LIMIT));
    let mut blocks: Vec<[u8; 512]> = bytes.as_chunks().0.to_vec();
    let mut last = [0; 512];
    let rest = bytes.as_chunks::<512>().1;
    last[..rest.len()].copy_from_slice(rest);
    blocks.push(last);
    if blocks
        .iter()
        .map(|block| old.read_block(block))
        .take_while(|more| *more == Ok(true))
        .count()
        < blocks.len()
    {
        check(old.map, size, stored);
    }
    if blocks
        .iter()
        .map(|block| text.read_block(block))
        .take_while(|more| *more == Ok(true))
        .count()
        < blocks.len()
    {
        check(text.map, size, stored);
    }
});
