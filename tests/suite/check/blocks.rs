//! Archives made by hand, block by block.

use isar_tarball::internals::archive::header::{Fields, block, padding};
use isar_tarball::internals::archive::pax;

/// The two zero blocks.
pub const END: [u8; 1024] = [0; 1024];

/// The time of all members.
const TIME: u64 = 1_000_000_000;

/// A header with mode 0644 (0755 for a directory), owned by root.
pub fn header(name: &str, typeflag: u8) -> Vec<u8> {
    sized(name, typeflag, 0)
}

pub fn sized(name: &str, typeflag: u8, size: u64) -> Vec<u8> {
    let mode = if typeflag == b'5' { 0o755 } else { 0o644 };
    block(&Fields {
        name: name.as_bytes(),
        mode,
        size,
        mtime: TIME,
        typeflag,
        ..Fields::default()
    })
    .to_vec()
}

/// The entry of the root directory.
pub fn root() -> Vec<u8> {
    header("./", b'5')
}

pub fn dir(name: &str) -> Vec<u8> {
    header(name, b'5')
}

/// A file with its content.
pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [sized(name, b'0', content.len() as u64), padded(content)].concat()
}

/// The shell, without which no build can start.
pub fn shell() -> Vec<u8> {
    file("./bin/sh", b"")
}

/// A sparse file of format 1.0, called ./s.
pub fn sparse(size: u64, map: &str, data: &[u8]) -> Vec<u8> {
    let size = size.to_string();
    [
        records(
            b'x',
            &[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "./s"),
                ("GNU.sparse.realsize", &size),
            ],
        ),
        sized("./GNUSparseFile.0/s", b'0', 512 + data.len() as u64),
        padded(map.as_bytes()),
        padded(data),
    ]
    .concat()
}

/// A hard link (`1`) or symbolic link (`2`).
pub fn link(name: &str, typeflag: u8, target: &str) -> Vec<u8> {
    patched(header(name, typeflag), &[(157, target.as_bytes())])
}

/// A character device.
pub fn device(name: &str) -> Vec<u8> {
    patched(
        header(name, b'3'),
        &[(329, b"0000001\0"), (337, b"0000003\0")],
    )
}

/// An `x` or `g` header with these records.
pub fn records(typeflag: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        pax::record(&mut data, key.as_bytes(), value.as_bytes());
    }
    [
        sized("././@PaxHeader", typeflag, data.len() as u64),
        padded(&data),
    ]
    .concat()
}

/// A GNU long name.
pub fn long_name(name: &str) -> Vec<u8> {
    let name = [name.as_bytes(), b"\0"].concat();
    let header = sized("././@LongLink", b'L', name.len() as u64);
    [patched(header, &[(257, b"ustar  \0")]), padded(&name)].concat()
}

/// With zeros behind it to whole blocks.
pub fn padded(data: &[u8]) -> Vec<u8> {
    [data, &vec![0; padding(data.len() as u64)]].concat()
}

/// A header with bytes changed, the first block of `header`, and the checksum made right.
pub fn patched(mut header: Vec<u8>, changes: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, bytes) in changes {
        header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    let sum = checksum(&header[..512]);
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A header with the checksum written in seven digits, as the tar crate of Rust does.
pub fn with_odd_checksum(mut header: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&header[..512]);
    header[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    header
}

fn checksum(block: &[u8]) -> u32 {
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}
