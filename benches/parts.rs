//! The parts alone, in memory: how many members or bytes a second each of them handles on one
//! processor.
//!
//! ```sh
//! cargo bench --bench parts
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::os::fd::AsFd;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use isar_tarball::internals::archive::header::{self, Fields};
use isar_tarball::internals::archive::reader::{Limits, Reader};
use isar_tarball::internals::archive::{header::decode::Header, pax, writer};
use isar_tarball::internals::entry::{Entry, Timestamp};
use isar_tarball::internals::ids::{IdMap, Layout, Range};
use isar_tarball::internals::input::{self, Input};
use isar_tarball::internals::pack::plan;
use isar_tarball::internals::tree::walk;
use isar_tarball::internals::zst::compress::{Compressor, Level};
use isar_tarball::internals::zst::frames;

/// Members of a made-up tree.
const MEMBERS: u64 = 10_000;

fn entry(number: u64, size: u64) -> Entry {
    Entry {
        mtime: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: (number * 997) as u32,
        },
        ..Entry::file(
            format!("usr/share/doc/package-{}/file-{number}.html", number / 20),
            size,
        )
    }
}

/// A tar stream of `MEMBERS` files of `size` bytes each.
fn stream(size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0..MEMBERS {
        writer::append_header(&mut out, &entry(number, size), None).unwrap();
        let end = out.len() + size as usize;
        out.resize(end, number as u8);
        out.resize(end + header::padding(size), 0);
    }
    out.extend_from_slice(&writer::END);
    out
}

fn headers(bench: &mut Criterion) {
    let fields = || Fields {
        name: b"./usr/bin/ping",
        mode: 0o755,
        size: 90_568,
        mtime: 1,
        ..Fields::default()
    };
    let block = header::block(&Fields {
        typeflag: b'0',
        ..fields()
    });
    let mut group = bench.benchmark_group("header");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bench| {
        bench.iter(|| header::block(black_box(&fields())))
    });
    group.bench_function("decode", |bench| {
        bench.iter(|| {
            let header = Header(black_box(&block));
            assert!(header.has_valid_checksum());
            (
                header.name(),
                header.mode().unwrap(),
                header.size().unwrap(),
                header.mtime().unwrap(),
            )
        })
    });
    group.finish();
}

fn records(bench: &mut Criterion) {
    let mut text = Vec::new();
    pax::record(&mut text, b"mtime", b"1700000000.123456789");
    pax::record(&mut text, b"path", &[b'p'; 200]);
    pax::record(&mut text, b"SCHILY.xattr.user.comment", &[7; 64]);
    let mut group = bench.benchmark_group("pax");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |bench| {
        let mut out = Vec::new();
        bench.iter(|| {
            out.clear();
            pax::record(&mut out, b"mtime", b"1700000000.123456789");
            pax::record(&mut out, b"path", &[b'p'; 200]);
            pax::record(&mut out, b"SCHILY.xattr.user.comment", &[7; 64]);
            out.len()
        })
    });
    group.bench_function("decode", |bench| {
        bench.iter(|| pax::decode::records(black_box(&text)).count())
    });
    group.finish();
}

fn streams(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("tar");
    for size in [0, 4096, 65536] {
        let bytes = stream(size);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("read", size), |bench| {
            bench.iter(|| {
                let (mut reader, mut input) = (Reader::new(Limits::default()), bytes.as_slice());
                let mut events = 0u64;
                while reader.next(&mut input).unwrap().is_some() {
                    events += 1;
                }
                reader.finish().unwrap();
                events
            })
        });
    }
    group.throughput(Throughput::Elements(MEMBERS));
    group.bench_function("write headers", |bench| {
        let mut out = Vec::new();
        let entries: Vec<Entry> = (0..MEMBERS).map(|number| entry(number, 4096)).collect();
        bench.iter(|| {
            out.clear();
            entries
                .iter()
                .for_each(|entry| writer::append_header(&mut out, entry, None).unwrap());
            out.len()
        })
    });
    group.finish();
}

fn archives(bench: &mut Criterion) {
    let (content, mut archive, mut frame) = (stream(4096), Vec::new(), Vec::new());
    let mut compressor = Compressor::new(Level::DEFAULT).unwrap();
    for piece in content.chunks(1 << 20) {
        compressor.frame(piece, false, &mut frame).unwrap();
        archive.extend_from_slice(&frame);
    }
    let mut group = bench.benchmark_group("zstd");
    group.throughput(Throughput::Bytes(archive.len() as u64));
    group.bench_function("scan frames", |bench| {
        bench.iter(|| {
            let read = |offset: u64, buffer: &mut [u8]| {
                let rest = &archive[offset as usize..];
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            };
            frames::scan_with(archive.len() as u64, read).unwrap().len()
        })
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &archive).unwrap();
    group.throughput(Throughput::Bytes(content.len() as u64));
    for threads in [1, 2, 4] {
        let options = input::Options {
            threads,
            memory: 256 << 20,
            window_log: 27,
            eager: true,
        };
        group.bench_function(BenchmarkId::new("decode", threads), |bench| {
            bench.iter(|| {
                let mut input =
                    Input::open(std::fs::File::open(file.path()).unwrap(), &options).unwrap();
                let mut bytes = 0;
                while let Some(chunk) = input.next().unwrap() {
                    bytes += chunk.len();
                }
                bytes
            })
        });
    }
    group.finish();
}

fn trees(bench: &mut Criterion) {
    let scratch = tempfile::tempdir().unwrap();
    for number in 0..MEMBERS {
        let dir = scratch.path().join(format!("package-{}", number / 20));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("file-{number}.html")), b"x").unwrap();
    }
    let root = std::fs::File::open(scratch.path()).unwrap();
    let options = walk::Options::default();
    let tree = walk::walk(root.as_fd(), &options, 1).unwrap();
    let mut group = bench.benchmark_group("tree");
    group.throughput(Throughput::Elements(tree.nodes.len() as u64));
    group.bench_function("walk", |bench| {
        bench.iter(|| walk::walk(root.as_fd(), &options, 1).unwrap().nodes.len())
    });
    group.bench_function("plan", |bench| {
        bench.iter(|| {
            plan::plan(black_box(&tree), &plan::FrameSizing::default())
                .frames
                .len()
        })
    });
    group.finish();
}

fn ids(bench: &mut Criterion) {
    let offered = IdMap::parse(b"0 0 4294967295\n").unwrap();
    let map = IdMap::build(
        Layout::Subid,
        1000,
        &[Range {
            base: 100_000,
            count: 60_000,
        }],
        &offered,
    )
    .unwrap();
    let mut group = bench.benchmark_group("ids");
    group.throughput(Throughput::Elements(1));
    group.bench_function("to outer", |bench| {
        bench.iter(|| map.to_outer(black_box(999)))
    });
    group.bench_function("to inner", |bench| {
        bench.iter(|| map.to_inner(black_box(100_999)))
    });
    group.finish();
}

criterion_group!(parts, headers, records, streams, archives, trees, ids);
criterion_main!(parts);
