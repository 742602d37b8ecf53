//! `check`: what it says of an archive, and whether sbuild's loaders agree.

#[path = "check/blocks.rs"]
mod blocks;
#[path = "check/cases.rs"]
pub mod cases;
#[path = "check/loaders.rs"]
mod loaders;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isar_tarball::internals::archive::outline::Outline;
use isar_tarball::internals::sbuild::check::{self, StreamingCheck};
use isar_tarball::internals::sbuild::rules::{self, Loader};
use serde_json::Value;

use crate::world::{Scratch, as_namespace_root, chroot, isar, require, run, text};
use blocks::*;
use cases::Case;

/// What `check --json` says, and its exit status.
fn check(archive: &Path) -> (Value, i32) {
    let output = run(isar(["check", "--json"]).arg(archive));
    (
        serde_json::from_slice(&output.stdout).expect("JSON on stdout"),
        output.status.code().unwrap(),
    )
}

/// The rules in a report, each once, sorted.
fn rules_of(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap();
    let mut rules: Vec<&str> = findings
        .iter()
        .map(|finding| finding["rule"].as_str().unwrap())
        .collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

fn loads(report: &Value) -> (bool, bool) {
    (
        report["loads"]["sbuild-0.85"].as_bool().unwrap(),
        report["loads"]["sbuild-0.89"].as_bool().unwrap(),
    )
}

/// Plain tars, and the same compressed in every way that a rule is about.
pub fn all_cases(scratch: &Scratch) -> Vec<Case> {
    let mut cases = cases::plain();
    cases.extend(compressed(scratch));
    cases
}

#[test]
fn an_archive_is_judged_by_its_outline_as_it_is_when_all_of_it_is_read() {
    let scratch = Scratch::new();
    let options = check::Options {
        threads: 1,
        memory: 64 << 20,
        refuses: |_| None,
    };
    // What the filter makes of data is known only where there is data.
    let needs_data = [
        "a whole member after it",
        "whole members after it",
        "as data",
        "of zeros",
        "at the end",
        "taken for data",
    ];
    let mut judged = 0;
    for (
        index,
        Case {
            name,
            suffix,
            bytes,
            ..
        },
    ) in cases::plain().into_iter().enumerate()
    {
        let Ok(outline) = Outline::of(&bytes) else {
            continue;
        };
        if needs_data.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let file_name = format!("{index}{suffix}");
        let path = scratch.join(&file_name);
        fs::write(&path, &bytes).unwrap();
        let file = fs::File::open(&path).unwrap();
        let whole = check::check(&file, Some(file_name.as_bytes()), &options).unwrap();
        // Nobody makes the outline of what is no archive.
        if whole
            .findings
            .iter()
            .any(|finding| *finding.rule == rules::NOT_AN_ARCHIVE)
        {
            continue;
        }
        let mut making = StreamingCheck::default();
        making.add(&outline);
        let outlined = making.end(&file, file_name.as_bytes()).unwrap();
        let shown = |report: &check::Report| {
            let mut findings: Vec<String> =
                report.findings.iter().map(ToString::to_string).collect();
            // What is said of the file comes first here and last there.
            findings.sort();
            (
                findings,
                report.loads_0_85,
                report.loads_0_89,
                report.intact,
                report.safe,
            )
        };
        assert_eq!(shown(&whole), shown(&outlined), "{name}");
        judged += 1;
    }
    assert!(judged > 40, "{judged}");
}

#[test]
fn an_outline_whose_gaps_are_not_data_is_no_archive() {
    let scratch = Scratch::new();
    let bytes = [root(), file("./a", b"hi"), END.to_vec()].concat();
    let path = scratch.join("a.tar");
    fs::write(&path, &bytes).unwrap();
    let mut outline = Outline::of(&bytes).unwrap();
    outline.gaps[0].length += 1;
    let mut making = StreamingCheck::default();
    making.add(&outline);
    let report = making
        .end(&fs::File::open(&path).unwrap(), b"a.tar")
        .unwrap();
    assert!(
        !report.intact
            && report
                .findings
                .iter()
                .any(|finding| *finding.rule == rules::MALFORMED),
        "{report:?}"
    );
}

/// Name, suffix, what loads it, rules, the file.
type Row = (
    &'static str,
    &'static str,
    (bool, bool),
    &'static [&'static str],
    Vec<u8>,
);

/// Archives about whose file something is to be said.
fn compressed(scratch: &Scratch) -> Vec<Case> {
    let noise: Vec<u8> = (0..4096_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let tar = [root(), shell(), file("./noise", &noise), END.to_vec()].concat();
    let short = [root(), shell(), END.to_vec()].concat();
    let through = |program: &str, args: &[&str], bytes: &[u8]| {
        let (from, to) = (scratch.join("from"), scratch.join("to"));
        fs::write(&from, bytes).unwrap();
        let (input, output) = (
            fs::File::open(&from).unwrap(),
            fs::File::create(&to).unwrap(),
        );
        let status = Command::new(program)
            .args(args)
            .stdin(Stdio::from(input))
            .stdout(output)
            .status()
            .unwrap();
        assert!(status.success(), "{program} {args:?}");
        fs::read(&to).unwrap()
    };
    let zstd = |bytes: &[u8]| through("zstd", &["-q"], bytes);
    let (first, last) = tar.split_at(5000);
    let skippable = [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..]].concat();
    let frame = zstd(&tar);
    let damaged = {
        let mut damaged = frame.clone();
        *damaged.last_mut().unwrap() ^= 1;
        damaged
    };
    let wide = |log: &str| through("zstd", &["-q", log, "--ultra", "-1"], &tar);
    let table: Vec<Row> = vec![
        ("zstd", "tar.zst", (true, true), &[], frame.clone()),
        (
            "zstd without checksum",
            "tar.zst",
            (true, true),
            &[],
            through("zstd", &["-q", "--no-check"], &tar),
        ),
        (
            "several frames",
            "tar.zst",
            (true, true),
            &[],
            [zstd(first), zstd(last)].concat(),
        ),
        (
            "empty first frame",
            "tar.zst",
            (true, true),
            &[],
            [zstd(b""), frame.clone()].concat(),
        ),
        (
            "skippable frame first",
            "tar.zst",
            (true, false),
            &["skippable-frame-first"],
            [skippable.clone(), frame.clone()].concat(),
        ),
        (
            "skippable frames later",
            "tar.zst",
            (true, true),
            &[],
            [zstd(first), skippable.clone(), zstd(last), skippable].concat(),
        ),
        (
            "less than 512 bytes",
            "tar.zst",
            (true, false),
            &["too-short"],
            zstd(&short),
        ),
        (
            "suffix zstd",
            "tar.zstd",
            (false, true),
            &["suffix"],
            frame.clone(),
        ),
        (
            "suffix tzst",
            "tzst",
            (false, true),
            &["suffix"],
            frame.clone(),
        ),
        (
            "suffix in capitals",
            "tar.ZST",
            (false, true),
            &["suffix"],
            frame.clone(),
        ),
        (
            "suffix of a plain tar",
            "tar",
            (false, true),
            &["suffix"],
            frame.clone(),
        ),
        (
            "suffix of gzip",
            "tar.gz",
            (false, true),
            &["suffix"],
            frame.clone(),
        ),
        (
            "plain tar with suffix zst",
            "tar.zst",
            (false, true),
            &["suffix"],
            tar.clone(),
        ),
        (
            "plain tar with any suffix",
            "img",
            (true, true),
            &[],
            tar.clone(),
        ),
        (
            "gzip",
            "tar.gz",
            (true, true),
            &[],
            through("gzip", &["-c"], &tar),
        ),
        (
            "gzip with suffix zst",
            "tar.zst",
            (true, true),
            &[],
            through("gzip", &["-c"], &tar),
        ),
        (
            "gzip with suffix xz",
            "tar.xz",
            (false, true),
            &["suffix"],
            through("gzip", &["-c"], &tar),
        ),
        (
            "gzip with suffix tar",
            "tar",
            (false, true),
            &["suffix"],
            through("gzip", &["-c"], &tar),
        ),
        ("xz", "txz", (true, true), &[], through("xz", &["-c"], &tar)),
        (
            "xz with suffix zst",
            "tar.zst",
            (true, true),
            &[],
            through("xz", &["-c"], &tar),
        ),
        (
            "gzip with zeros behind it",
            "tar.gz",
            (true, true),
            &[],
            [through("gzip", &["-c"], &tar), vec![0; 1000]].concat(),
        ),
        (
            "gzip with more behind zeros",
            "tar.gz",
            (false, false),
            &["damaged"],
            [through("gzip", &["-c"], &tar), vec![0; 1000], b"x".to_vec()].concat(),
        ),
        (
            "xz with padding",
            "tar.xz",
            (true, true),
            &[],
            [through("xz", &["-c"], &tar), vec![0; 1000]].concat(),
        ),
        (
            "xz with a wide dictionary",
            "tar.xz",
            (true, true),
            &["xz-dictionary"],
            with_dictionary(through("xz", &["-c"], &tar)),
        ),
        (
            "zstd with zeros behind it",
            "tar.zst",
            (false, false),
            &["damaged"],
            [zstd(&tar), vec![0; 1000]].concat(),
        ),
        (
            "nothing, compressed",
            "tar.zst",
            (false, false),
            &["not-an-archive", "too-short"],
            zstd(b""),
        ),
        (
            "window log 27",
            "tar.zst",
            (true, true),
            &[],
            wide("--long=27"),
        ),
        (
            "window log 28",
            "tar.zst",
            (false, false),
            &["window"],
            wide("--long=28"),
        ),
        (
            "window log 31",
            "tar.zst",
            (false, false),
            &["wide-window"],
            wide("--long=31"),
        ),
        (
            "wrong frame checksum",
            "tar.zst",
            (false, false),
            &["damaged"],
            damaged,
        ),
        (
            "cut off frame",
            "tar.zst",
            (false, false),
            &["damaged"],
            frame[..frame.len() - 5].to_vec(),
        ),
        (
            "bytes after the last frame",
            "tar.zst",
            (false, false),
            &["damaged"],
            [&frame[..], b"more"].concat(),
        ),
        (
            "v7 root first, compressed",
            "tar.zst",
            (true, false),
            &["no-ustar-magic"],
            {
                zstd(
                    &[
                        patched(root(), &[(257, &[0; 8])]),
                        shell(),
                        file("./noise", &noise),
                        END.to_vec(),
                    ]
                    .concat(),
                )
            },
        ),
    ];
    table
        .into_iter()
        .map(
            |(name, suffix, (loads_0_85, loads_0_89), rules, bytes)| Case {
                name,
                suffix,
                bytes,
                rules,
                loads_0_85,
                loads_0_89,
                is_unclear: rules == ["damaged"] || rules.contains(&"not-an-archive"),
            },
        )
        .collect()
}

/// An xz archive whose first block says that it needs a dictionary of 256 MiB.
fn with_dictionary(mut xz: Vec<u8>) -> Vec<u8> {
    // After the stream header of 12 bytes: size of the block header, flags, filter LZMA2 (0x21),
    // size of its properties, dictionary; the CRC32 ends it.
    let header = &mut xz[12..][..12];
    assert_eq!(header[..4], [2, 0, 0x21, 1]);
    header[4] = 32;
    let sum = crc32(&header[..8]);
    header[8..].copy_from_slice(&sum.to_le_bytes());
    xz
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(sum & 1));
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), step)
    })
}

fn write(case: &Case, directory: &Path) -> PathBuf {
    let path = directory.join(format!(
        "{}.{}",
        case.name.replace([' ', '/'], "-"),
        case.suffix
    ));
    fs::write(&path, &case.bytes).unwrap();
    path
}

#[test]
fn each_rule_is_found_where_it_is_broken_and_nowhere_else() {
    require(&["zstd", "gzip", "xz"]);
    let scratch = Scratch::new();
    let cases = all_cases(&scratch);
    for case in &cases {
        let (report, status) = check(&write(case, scratch.path()));
        assert_eq!(rules_of(&report), case.rules, "{}: rules", case.name);
        assert_eq!(
            loads(&report),
            (case.loads_0_85, case.loads_0_89),
            "{}: loads",
            case.name
        );
        let known = |name: &str| *rules::ALL.iter().find(|rule| rule.name == name).unwrap();
        let intact = case.rules.iter().all(|rule| known(rule).is_intact);
        let safe = case.rules.iter().all(|rule| known(rule).is_safe);
        assert_eq!(
            (report["intact"].as_bool(), report["safe"].as_bool()),
            (Some(intact), Some(safe)),
            "{}",
            case.name
        );
        let is_good = case.loads_0_85 && case.loads_0_89 && intact && safe;
        assert_eq!(status, if is_good { 0 } else { 1 }, "{}: status", case.name);
    }
    for rule in rules::ALL
        .iter()
        .filter(|rule| rule.name != "too-many-members")
    {
        assert!(
            cases.iter().any(|case| case.rules.contains(&rule.name)),
            "no archive breaks {rule}"
        );
    }
}

/// The loaders are given the archives, and what they unpack is compared with what the archives say.
fn compare(loader: Loader) -> Option<()> {
    require(&["zstd", "gzip", "xz"])?;
    let scratch = Scratch::new();
    let cases = all_cases(&scratch);
    let archives: Vec<PathBuf> = cases
        .iter()
        .map(|case| write(case, scratch.path()))
        .collect();
    let loaded = loaders::load(loader, &archives, &scratch)?;
    // Whether these go wrong depends on whether the file system uses an inode number again at once.
    let is_chance = |case: &Case| {
        case.rules
            .iter()
            .any(|rule| rule.ends_with("over-late-link"))
    };
    let mut wrong = Vec::new();
    for (case, loaded) in cases
        .iter()
        .zip(loaded)
        .filter(|(case, _)| !case.is_unclear && !is_chance(case))
    {
        let expected = if loader == Loader::V0_85 {
            case.loads_0_85
        } else {
            case.loads_0_89
        };
        // What it says is read from the tar itself.
        let said = match case.suffix {
            _ if case.bytes.get(257..262) == Some(b"ustar") || case.bytes.starts_with(b"./") => {
                case.bytes.clone()
            }
            _ => decompressed(&case.bytes, &scratch),
        };
        let said = loaders::read(&said);
        let is_loaded = loaded
            .is_some_and(|loaded| said.is_none_or(|said| loaders::is_as_said(&said, &loaded)));
        if is_loaded != expected {
            wrong.push((case.name, is_loaded));
        }
    }
    assert!(wrong.is_empty(), "{} disagrees: {wrong:#?}", loader.name());
    Some(())
}

fn decompressed(bytes: &[u8], scratch: &Scratch) -> Vec<u8> {
    let path = scratch.join("compressed");
    fs::write(&path, bytes).unwrap();
    let (program, args): (&str, &[&str]) = match bytes {
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"]),
        [0xfd, ..] => ("xz", &["-dc"]),
        _ => ("zstd", &["-dcq", "--memory=2048MB"]),
    };
    Command::new(program)
        .args(args)
        .arg(&path)
        .output()
        .unwrap()
        .stdout
}

#[test]
fn sbuild_0_85_does_with_each_archive_what_check_says() {
    compare(Loader::V0_85);
}

#[test]
fn sbuild_0_89_does_with_each_archive_what_check_says() {
    compare(Loader::V0_89);
}

#[test]
fn the_loader_option_decides_the_status() {
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar");
    fs::write(
        &archive,
        [root(), device("./dev/loop0"), END.to_vec()].concat(),
    )
    .unwrap();
    for (loader, status) in [("0.85", 1), ("0.89", 0), ("all", 1)] {
        let output = run(isar(["check", "--loader", loader]).arg(&archive));
        assert_eq!(output.status.code(), Some(status), "{loader}");
    }
}

#[test]
fn a_finding_is_one_line_with_rule_member_and_effect() {
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar");
    fs::write(
        &archive,
        [root(), shell(), device("./dev/a\nb"), END.to_vec()].concat(),
    )
    .unwrap();
    let output = run(isar(["check"]).arg(&archive));
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("device-node: ./dev/a\\nb: sbuild 0.85 hands it to tar")
            && lines[0].ends_with("[sbuild 0.85]")
    );
    assert!(lines[1].contains(
        "sbuild 0.85 does not load it, sbuild 0.89 loads it; it is intact and safe to unpack"
    ));
    assert_eq!(
        text(&run(isar(["check", "-q"]).arg(&archive)).stdout)
            .lines()
            .count(),
        1,
        "the findings alone"
    );
}

#[test]
fn many_findings_of_a_rule_are_some_and_a_count() {
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar");
    let devices: Vec<u8> = (0..1000)
        .flat_map(|number| device(&format!("./dev/loop{number}")))
        .collect();
    fs::write(&archive, [root(), shell(), devices, END.to_vec()].concat()).unwrap();
    let (report, _) = check(&archive);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 21);
    assert_eq!(findings[0]["member"], "./dev/loop0");
    assert_eq!(
        (&findings[20]["member"], findings[20]["effect"].as_str()),
        (&Value::Null, Some("and 980 more"))
    );
    assert!(
        text(&run(isar(["check"]).arg(&archive)).stdout).contains("\ndevice-node: and 980 more\n")
    );
}

#[test]
fn stdin_is_checked_like_a_file_without_a_name() {
    let scratch = Scratch::new();
    let archive = scratch.join("a.bin");
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0skip";
    let frame = zstd::stream::encode_all(
        &[root(), file("./bin/sh", &[7; 3000]), END.to_vec()].concat()[..],
        1,
    )
    .unwrap();
    fs::write(
        &archive,
        [
            &skippable[..],
            &frame,
            &skippable[..],
            &[0x50, 0x2a, 0x4d, 0x18, 0, 2, 0, 0],
            &[0; 512],
        ]
        .concat(),
    )
    .unwrap();
    for pipe in [true, false] {
        let script = if pipe {
            "cat \"$1\" | \"$0\" check --json -"
        } else {
            "\"$0\" check --json - < \"$1\""
        };
        let output = run(Command::new("sh")
            .args(["-c", script])
            .arg(crate::world::program())
            .arg(&archive));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rules_of(&report), ["skippable-frame-first"], "pipe: {pipe}");
        assert_eq!(
            (loads(&report), output.status.code()),
            ((true, false), Some(1))
        );
    }
}

#[test]
fn what_cannot_be_checked_is_a_failure_and_no_answer() {
    let scratch = Scratch::new();
    let bzip2 = scratch.join("a.tar.bz2");
    fs::write(&bzip2, b"BZh91AY&SY and so on, for more than a few bytes").unwrap();
    for (archive, word) in [
        (scratch.join("missing.tar.zst"), "No such file"),
        (scratch.path().to_owned(), "directory"),
        (bzip2, "bzip2"),
    ] {
        let output = run(isar(["check", "--json"]).arg(&archive));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let said = text(&output.stderr);
        assert!(
            said.starts_with(&format!("isar-tarball: cannot check {archive:?}: "))
                && said.contains(word),
            "{said}"
        );
    }
}

#[test]
fn a_link_to_an_archive_has_the_suffix_of_the_archive() {
    let scratch = Scratch::new();
    let tar = [root(), shell(), END.to_vec()].concat();
    let frame = zstd::stream::encode_all(&tar[..], 1).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 2, 0, 0][..], &[0; 512]].concat();
    fs::write(scratch.join("a.tar.zst"), [frame, skippable].concat()).unwrap();
    let link = scratch.join("current");
    std::os::unix::fs::symlink("a.tar.zst", &link).unwrap();
    assert_eq!(rules_of(&check(&link).0), [""; 0]);
}

/// What other programs make of a chroot, with the options that sbuild's and mmdebstrap's manuals
/// have.
#[test]
fn chroots_of_other_programs_load_or_not_for_known_reasons() {
    let Some(chroot) = chroot("bookworm") else {
        return;
    };
    if require(&["zstd", "pzstd", "bsdtar"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let pack = |script: &str, name: &str| {
        let archive = scratch.join(name);
        // The archive is opened by the shell outside, the tree read inside.
        let inner = format!("cd \"$0\" && {script}");
        let mut command = as_namespace_root("sh");
        command
            .args(["-c", &inner])
            .arg(&chroot)
            .stdout(fs::File::create(&archive).unwrap())
            .stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{script}");
        archive
    };
    for (script, name, expected, rules) in [
        (
            "tar --numeric-owner --one-file-system -c .",
            "gnu.tar",
            (true, true),
            &[][..],
        ),
        (
            "tar --numeric-owner --one-file-system --format=posix -c . | zstd -q -1 -T2",
            "posix.tar.zst",
            (true, true),
            &[],
        ),
        (
            "tar --one-file-system -c .",
            "names.tar",
            (false, false),
            &["owner-name"],
        ),
        (
            "tar --numeric-owner --one-file-system -c . | pzstd -q -1 -p 2",
            "pzstd.tar.zst",
            (true, false),
            &["skippable-frame-first"],
        ),
        (
            "bsdtar --numeric-owner --one-file-system -c .",
            "bsd.tar",
            (true, true),
            &[],
        ),
    ] {
        let archive = pack(script, name);
        let (report, _) = check(&archive);
        assert_eq!(
            (loads(&report), &rules_of(&report)[..]),
            (expected, rules),
            "{script}: {report:#}"
        );
        assert_eq!(report["intact"], true, "{script}");
        fs::remove_file(archive).unwrap();
    }
}
