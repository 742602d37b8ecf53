//! Any text as a pattern, any bytes as a path. The first line is the pattern, the rest the path.
#![no_main]

use isar_tarball::internals::tree::exclude::Patterns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (pattern, path) = (&bytes[..end], &bytes[end + 1..]);
    let Ok(pattern) = str::from_utf8(pattern) else {
        return;
    };
    let Ok(patterns) = Patterns::new([pattern]) else {
        return;
    };
    let anchored =
        Patterns::new([format!("/{pattern}").as_str()]).expect("a slash in front changes nothing");
    assert_eq!(patterns.matches(path), anchored.matches(path));
});
