//! Writes what the targets begin with into `corpus/TARGET/`: `cargo run --example corpus`. The same
//! files each time.

use std::fs;
use std::io::Write;
use std::path::Path;

use isar_tarball::internals::zst::compress::{Compressor, Level};
use isar_tarball_fuzz::archives;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let place = corpus.join(target);
        fs::create_dir_all(&place).expect("a directory");
        fs::write(place.join(name.replace(' ', "-")), bytes).expect("written");
    };
    for (name, archives::Stream(tar)) in archives::all() {
        for target in ["reader", "differential", "unpack"] {
            // As it is, and with checksums that hold after a change.
            put(target, name, &[&[0x10], tar.as_slice()].concat());
            put(
                target,
                &format!("{name} mended"),
                &[&[0x11], tar.as_slice()].concat(),
            );
        }
        let pieces = tar.chunks(tar.len() / 3 + 1);
        put("input", name, &[&[0x4b], tar.as_slice()].concat());
        put(
            "input",
            &format!("{name} zst"),
            &[&[0x4b], frames(pieces.clone()).as_slice()].concat(),
        );
        put(
            "frames",
            name,
            &[&[0x01], frames(pieces).as_slice()].concat(),
        );
        // What stands in PAX headers.
        for at in (0..tar.len())
            .step_by(512)
            .filter(|at| matches!(tar.get(at + 156), Some(b'x' | b'g')))
        {
            let size = usize::from_str_radix(
                str::from_utf8(&tar[at + 124..at + 135]).unwrap_or_default(),
                8,
            )
            .unwrap_or(0);
            put(
                "pax",
                name,
                tar.get(at + 512..at + 512 + size).unwrap_or_default(),
            );
        }
    }
    let tar = &archives::all()[1].1.0;
    put(
        "frames",
        "skippable",
        &[
            b"\0",
            skippable(b"").as_slice(),
            &frames([&tar[..]]),
            &skippable(b"seek"),
        ]
        .concat(),
    );
    put(
        "input",
        "skippable",
        &[
            b"\x4b",
            skippable(b"").as_slice(),
            &frames([&tar[..]]),
            &skippable(b"seek"),
        ]
        .concat(),
    );
    put(
        "input",
        "gz",
        &[b"\x4b", gzip(tar).as_slice(), &gzip(tar)].concat(),
    );
    put(
        "input",
        "xz",
        &[b"\x4b", xz(tar).as_slice(), &xz(tar)].concat(),
    );
    // A block that stands for 128 KiB of one byte, and blocks of nothing.
    put(
        "frames",
        "repeated",
        b"\0\x28\xb5\x2f\xfd\0\x58\x02\0\x10x\x03\0\x10x",
    );
    put(
        "input",
        "repeated",
        b"\x4b\x28\xb5\x2f\xfd\0\x58\x02\0\x10x\x03\0\x10x",
    );
    put(
        "frames",
        "blocks of nothing",
        b"\0\x28\xb5\x2f\xfd\0\x58\0\0\0\0\0\0\x01\0\0",
    );
    for (number, map) in [&b"0,1,5,2"[..], b"2\n0\n512\n1024\n3\n", b"1\n0\n0\n"]
        .iter()
        .enumerate()
    {
        put(
            "sparse",
            &number.to_string(),
            &[b"\xa0\x0f\x03\0", *map].concat(),
        );
    }
    for (name, tar) in archives::all()
        .into_iter()
        .filter(|(name, _)| name.starts_with("sparse old"))
    {
        put(
            "sparse",
            name,
            &[b"\xa0\x0f\x03\x02", &tar.0[386..512], &tar.0[512..1024]].concat(),
        );
    }
    put(
        "subid",
        "file",
        b"u:100000:65536\n1:200000:1\n# u\nother:300000:65536\nu:4294967295:1\n0: u 100000 65536\n",
    );
    for (number, pattern) in [
        "var/cache/*\nvar/cache/apt",
        "**/*.pyc\na/b.pyc",
        "[a-c]?\nab",
        "/./{a,b}\nb",
    ]
    .iter()
    .enumerate()
    {
        put("exclude", &number.to_string(), pattern.as_bytes());
    }
    // What the unpack target makes members of: see there.
    for number in 0u8..8 {
        let bytes: Vec<u8> = (0..96u8)
            .map(|place| {
                place
                    .wrapping_mul(37)
                    .wrapping_add(number.wrapping_mul(101))
            })
            .collect();
        put(
            "unpack",
            &format!("members {number}"),
            &[&[0x02], bytes.as_slice()].concat(),
        );
    }
}

fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut compressor = Compressor::new(Level::DEFAULT).expect("memory");
    let (mut archive, mut frame) = (Vec::new(), Vec::new());
    for piece in pieces {
        compressor
            .frame(piece, false, &mut frame)
            .expect("compressed");
        archive.extend_from_slice(&frame);
    }
    archive
}

fn skippable(content: &[u8]) -> Vec<u8> {
    [
        b"\x5a\x2a\x4d\x18",
        (content.len() as u32).to_le_bytes().as_slice(),
        content,
    ]
    .concat()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("compressed");
    encoder.finish().expect("compressed")
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(content).expect("compressed");
    encoder.finish().expect("compressed")
}
