//! Any bytes as the data of a PAX header: what is taken for records is what the encoder writes, up
//! to zeros in front of a length.
#![no_main]

use isar_tarball::internals::archive::{number, pax};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let records: Result<Vec<_>, _> = pax::decode::records(data).collect();
    let Ok(records) = records else { return };
    let mut written = Vec::new();
    for (key, value) in &records {
        assert!(!key.is_empty() && !key.contains(&b'=') && !key.contains(&0));
        pax::record(&mut written, key, value);
        let _ = pax::decode::schily_xattr_name(key);
        let _ = pax::decode::libarchive_xattr_name(key);
        let _ = pax::decode::base64(value);
        let _ = number::decimal(value);
        if let Ok(time) = number::timestamp(value) {
            assert_eq!(number::timestamp(pax::time(time).as_bytes()), Ok(time));
        }
    }
    let again: Result<Vec<_>, _> = pax::decode::records(&written).collect();
    assert_eq!(again, Ok(records));
});
