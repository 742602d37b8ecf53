//! Any bytes as `/etc/subuid`: ranges that are given are not empty and end by 2^32.
#![no_main]

use isar_tarball::internals::ids::{Account, subid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let account = Account {
        name: Some(String::from("u")),
        uid: 1,
        gid: 1,
    };
    // Any bytes as nsswitch.conf, too.
    let _ = subid::service(text);
    let ranges = subid::parse(text, &account)
        .ranges
        .into_iter()
        .chain(subid::parse_getsubids(text));
    for range in ranges {
        assert!(range.count > 0 && range.end() <= 1 << 32);
    }
});
