//! Archives with very many members, within `--memory`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::crafted::Tar;
use crate::unpack::{SITUATIONS, os};
use crate::world::{Scratch, fail, program, require, run, text};

/// Number of members.
const MEMBERS: usize = 200_000;

/// A member with this number, a long name and, if `target` is given, a link to that.
fn member(number: usize, name: &str, target: Option<&str>, typeflag: u8) -> Tar {
    let mut records: Vec<(&str, &[u8])> = vec![("path", name.as_bytes())];
    records.extend(target.map(|target| ("linkpath", target.as_bytes())));
    let fields = isar_tarball::internals::archive::header::Fields {
        name: b"./long",
        linkname: if target.is_some() { b"./long" } else { b"" },
        mode: 0o700,
        mtime: number as u64 % 2,
        typeflag,
        ..Default::default()
    };
    Tar::new().pax(&records).header(fields)
}

/// A compressed archive of many members, each with the tar blocks that `member` makes.
fn many(scratch: &Scratch, name: &str, member: impl Fn(usize) -> Tar) -> PathBuf {
    let path = scratch.join(name);
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-1"])
        .stdin(Stdio::piped())
        .stdout(File::create(&path).unwrap());
    let mut zstd = zstd.spawn().unwrap();
    let mut pipe = zstd.stdin.take().unwrap();
    pipe.write_all(&Tar::new().directory("./", 0o755).0)
        .unwrap();
    for number in 0..MEMBERS {
        pipe.write_all(&member(number).0).unwrap();
    }
    pipe.write_all(&Tar::new().end().0).unwrap();
    drop(pipe);
    assert!(zstd.wait().unwrap().success());
    path
}

/// Runs the program with a limit on its address space, in MiB, and one malloc arena.
fn within(megabytes: usize, args: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={}", megabytes << 20))
        .arg(program())
        .args(os(args, paths))
        .env("MALLOC_ARENA_MAX", "1");
    command
}

#[test]
fn many_members_with_long_names_are_read_within_the_limit_or_refused() {
    let Some(()) = require(&["prlimit", "zstd"]) else {
        return;
    };
    let scratch = Scratch::new();
    let above = format!("./{}", [&*"d".repeat(200); 3].join("/"));
    let long = |number| format!("{above}/{number:07}");
    let first = long(0);
    let archives = [
        many(&scratch, "files", |number| {
            member(number, &long(number), None, b'0')
        }),
        many(&scratch, "links", |number| match number {
            0 => member(0, &first, None, b'0'),
            _ => member(number, &long(number), Some(&first), b'1'),
        }),
        many(&scratch, "directories", |number| {
            member(number, &long(number), None, b'5')
        }),
    ];
    let empty = Tar::new()
        .directory("./", 0o755)
        .end()
        .write(&scratch, "empty");
    for archive in &archives {
        let same = [archive.as_path(), archive];
        // With the memory of the program itself and the stacks of its threads.
        for (limit, args, paths) in [
            (64, &["list", "--memory=16M"][..], &same[..1]),
            (64, &["list", "--json", "--memory=16M"], &same[..1]),
            (64, &["info", "--memory=16M"], &same[..1]),
            (96, &["check", "--memory=48M"], &same[..1]),
            (288, &["diff", "--memory=220M"], &same),
        ] {
            let output = run(within(limit, args, paths).arg("--threads=1"));
            let (code, said) = (output.status.code(), text(&output.stderr));
            // These archives are no chroots.
            let expected = if args[0] == "check" { 1 } else { 0 };
            assert_eq!(code, Some(expected), "{args:?} {archive:?}: {said}");
        }
        for (args, paths) in [
            (&["check", "--memory=8M"], &same[..1]),
            (&["diff", "--memory=16M"], &same),
            // Nothing but differences.
            (&["diff", "--memory=80M"], &[archive, empty.as_path()]),
        ] {
            let said = fail(2, within(128, args, paths).arg("--threads=1"));
            let expected = "remembering its members takes more than";
            assert!(said.contains(expected), "{args:?} {archive:?}: {said}");
            assert!(said.ends_with("; see --memory\n"), "{said}");
        }
    }
}

#[test]
fn an_archive_with_too_many_members_for_the_limit_is_not_unpacked() {
    let Some(()) = require(&["zstd"]) else {
        return;
    };
    let scratch = Scratch::new();
    let above = [&*"d".repeat(200); 3].join("/");
    let long = |number: usize| format!("./{above}/{number:07}");
    let archives = [
        many(&scratch, "devices", |number| {
            member(number, &long(number), None, b'3')
        }),
        many(&scratch, "directories", |number| {
            member(number, &long(number), None, b'5')
        }),
    ];
    let before = scratch.names();
    for (situation, command) in SITUATIONS {
        for archive in &archives {
            let dir = scratch.join("dir");
            let args = ["unpack", "--devices=skip", "--memory=4M"];
            let said = fail(2, &mut command(&os(&args, &[archive, &dir])));
            let expected = "remembering its members takes more than 2097152";
            assert!(said.contains(expected), "{situation} {archive:?}: {said}");
            assert!(said.ends_with("; see --memory\n"), "{said}");
            assert_eq!(scratch.names(), before, "{situation} {archive:?}");
        }
    }
}
