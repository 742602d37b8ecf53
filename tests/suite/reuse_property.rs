//! `pack --reuse`, the library: whatever the older archive is, the new one is byte for byte that of
//! a full pack.

use std::fs::{self, File, FileTimes};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isar_tarball::internals::entry::Timestamp;
use isar_tarball::internals::pack::plan::FrameSizing;
use isar_tarball::internals::pack::reuse::{self, Old, Record, Reuse, State, Unusable};
use isar_tarball::internals::pack::{Format, Memory, Options, Progress, Summary, Unmapped, pack};
use isar_tarball::internals::tree::walk;
use isar_tarball::internals::zst::compress::Level;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::world::Scratch;

/// A change of a tree. Paths that lead through something else than a directory make it one.
#[derive(Clone, Debug)]
enum Act {
    Write(&'static str, u32, u8),
    /// Other content under the same size and mtime.
    Alter(&'static str, u8),
    /// The same content in a file of its own.
    Part(&'static str),
    Sparse(&'static str, u8),
    Directory(&'static str),
    Symlink(&'static str, &'static str),
    Fifo(&'static str),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Mode(&'static str, u32),
    Owner(&'static str, u32),
    Mtime(&'static str, u32),
    Xattr(&'static str, u8),
}

const PATHS: [&str; 20] = [
    "a", "b", "c.x", "d", "d/a", "d/b.x", "d/c", "d/s", "d/s/a", "d/s/b", "d/s/t/a", "e", "e/a",
    "e/b.y", "e/c.x", "e/f/a", "e/f/b", "e/f/c", "g", "g/a",
];

fn act() -> impl Strategy<Value = Act> {
    let path = || prop::sample::select(&PATHS[..]);
    prop_oneof![
        8 => (path(), 0u32..40_000, any::<u8>()).prop_map(|(path, length, seed)| Act::Write(path, length, seed)),
        3 => (path(), any::<u8>()).prop_map(|(path, seed)| Act::Alter(path, seed)),
        1 => path().prop_map(Act::Part),
        1 => (path(), any::<u8>()).prop_map(|(path, seed)| Act::Sparse(path, seed)),
        1 => path().prop_map(Act::Directory),
        1 => (path(), path()).prop_map(|(path, target)| Act::Symlink(path, target)),
        1 => path().prop_map(Act::Fifo),
        1 => path().prop_map(Act::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Act::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Act::Link(from, to)),
        1 => (path(), 0u32..0o10000).prop_map(|(path, mode)| Act::Mode(path, mode)),
        1 => (path(), 0u32..65536).prop_map(|(path, id)| Act::Owner(path, id)),
        1 => (path(), any::<u32>()).prop_map(|(path, seconds)| Act::Mtime(path, seconds)),
        2 => (path(), any::<u8>()).prop_map(|(path, value)| Act::Xattr(path, value)),
    ]
}

/// Bytes that compress somewhat.
fn content(length: u32, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 27) as u8).wrapping_add(seed)
    };
    (0..length).map(step).collect()
}

/// Makes room for a file at `path`.
fn clear(root: &Path, path: &str) -> PathBuf {
    let mut above = root.to_owned();
    for component in Path::new(path).parent().unwrap() {
        above.push(component);
        if !above
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir())
        {
            let _ = fs::remove_file(&above);
            fs::create_dir(&above).unwrap();
        }
    }
    let path = root.join(path);
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path).unwrap(),
        Ok(_) => fs::remove_file(&path).unwrap(),
        Err(_) => {}
    }
    path
}

fn apply(root: &Path, act: &Act) {
    let regular = |path: &str| -> Option<PathBuf> {
        let path = root.join(path);
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
            .then_some(path)
    };
    let there = |path: &str| Some(root.join(path)).filter(|path| path.symlink_metadata().is_ok());
    let plain = |path: &str| there(path).filter(|path| !path.is_symlink());
    match *act {
        Act::Write(path, length, seed) => {
            fs::write(clear(root, path), content(length, seed)).unwrap()
        }
        Act::Alter(path, seed) => {
            let Some(path) = regular(path) else { return };
            let file = File::options().read(true).write(true).open(path).unwrap();
            let metadata = file.metadata().unwrap();
            if metadata.len() > 0 {
                file.write_all_at(&[seed], metadata.len() / 2).unwrap();
                file.set_times(FileTimes::new().set_modified(metadata.modified().unwrap()))
                    .unwrap();
            }
        }
        Act::Part(path) => {
            let Some(path) = regular(path) else { return };
            fs::copy(&path, root.join("copy")).unwrap();
            fs::rename(root.join("copy"), path).unwrap();
        }
        Act::Sparse(path, seed) => {
            let file = File::create(clear(root, path)).unwrap();
            file.set_len(200_000).unwrap();
            file.write_all_at(&content(5000, seed), u64::from(seed) * 512)
                .unwrap();
        }
        Act::Directory(path) => fs::create_dir(clear(root, path)).unwrap(),
        Act::Symlink(path, target) => symlink(target, clear(root, path)).unwrap(),
        Act::Fifo(path) => {
            let path = clear(root, path);
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        }
        Act::Remove(path) => drop(clear(root, path)),
        // From where nothing is, or into itself: nothing happens.
        Act::Rename(from, to)
            if there(from).is_some() && !to.starts_with(from) && !from.starts_with(to) =>
        {
            let to = clear(root, to);
            let _ = fs::rename(root.join(from), to);
        }
        Act::Link(from, to)
            if plain(from).is_some_and(|from| !from.is_dir())
                && !from.starts_with(to)
                && !to.starts_with(from) =>
        {
            let to = clear(root, to);
            let _ = fs::hard_link(root.join(from), to);
        }
        Act::Rename(..) | Act::Link(..) => {}
        Act::Mode(path, mode) => {
            plain(path).into_iter().for_each(|path| {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
            });
        }
        Act::Owner(path, id) => there(path)
            .into_iter()
            .for_each(|path| lchown(path, Some(id), Some(id / 2)).unwrap()),
        Act::Mtime(path, seconds) => {
            let Some(path) = regular(path) else { return };
            let time = UNIX_EPOCH + Duration::new(seconds.into(), seconds % 1_000_000_000);
            File::open(path)
                .unwrap()
                .set_times(FileTimes::new().set_modified(time))
                .unwrap();
        }
        Act::Xattr(path, value) => {
            let Some(path) = regular(path)
                .or_else(|| there(path).filter(|path| path.is_dir() && !path.is_symlink()))
            else {
                return;
            };
            let name = ["user.a", "user.b", "trusted.skipped"][usize::from(value % 3)];
            xattr::set(path, name, &[value]).unwrap();
        }
    }
}

/// Small frames, so that small trees have many.
const CUTS: FrameSizing = FrameSizing {
    least: 3000,
    longest: 20_000,
    boundaries: 3,
    large: 15_000,
    usual: 25_000,
    most: 30_000,
};

/// How the library packs here: small trees, by the default level.
pub fn options(threads: usize) -> Options {
    Options {
        walk: walk::Options::default(),
        format: Format::Zstd(Level::DEFAULT),
        threads,
        memory: Memory::DEFAULT,
        xattrs: true,
        unmapped: Unmapped::Error,
        clamp_mtime: None,
        whole_seconds: false,
        sha256: true,
        cuts: CUTS,
    }
}

fn open(tree: &Path) -> OwnedFd {
    rustix::fs::open(tree, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// The archive of a tree, made by the library.
pub fn full(tree: &Path, options: &Options) -> (Vec<u8>, Summary) {
    let mut out = Vec::new();
    let summary = pack(open(tree), options, &Progress::default(), None, &mut out)
        .unwrap()
        .summary;
    (out, summary)
}

const CONTEXT: [u8; 32] = [7; 32];

/// Now, and `seconds` later.
fn time(seconds: u64) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(seconds);
    Timestamp {
        seconds: now.as_secs().cast_signed(),
        nanoseconds: now.subsec_nanos(),
    }
}

/// Packs with what `old` and `state` have, an hour from now: no change is too young to be trusted.
fn reusing(
    tree: &Path,
    options: &Options,
    old: Option<Old>,
    trust_metadata: bool,
) -> (Vec<u8>, Summary, State) {
    let reuse = Reuse {
        context: CONTEXT,
        old,
        trust_metadata,
        started: time(3600),
    };
    let (mut out, progress) = (Vec::new(), Progress::default());
    let packed = pack(open(tree), options, &progress, Some(&reuse), &mut out).unwrap();
    let (summary, state) = (packed.summary, packed.state.unwrap());
    assert_eq!(
        progress.done().load(Ordering::Relaxed),
        progress.total().load(Ordering::Relaxed)
    );
    (out, summary, state)
}

fn old(file: &Path, state: &State) -> Old {
    Old::new(File::open(file).unwrap(), &state.encode(), &CONTEXT).unwrap()
}

/// The summary but for what is said of reuse.
fn plain(summary: &Summary) -> String {
    format!(
        "{:?}",
        Summary {
            reused_frames: 0,
            reused_bytes: 0,
            damaged_frames: 0,
            ..summary.clone()
        }
    )
}

/// A state but for the metadata, which nobody sees in an archive.
fn unseen(state: &State) -> Vec<Record> {
    state
        .frames
        .iter()
        .map(|frame| Record {
            metadata: None,
            ..frame.clone()
        })
        .collect()
}

#[test]
fn random_trees_after_random_edits_become_what_a_full_pack_makes_of_them() {
    let scratch = Scratch::new();
    let (rounds, frames, reused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let acts = |count| prop::collection::vec(act(), count);
    let cases = (acts(10..60), prop::collection::vec(acts(0..5), 3));
    let config = Config {
        cases: 80,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let check = |(first, edits): (Vec<Act>, Vec<Vec<Act>>)| {
        let place = tempfile::tempdir_in(scratch.path()).unwrap();
        let (tree, archive) = (place.path().join("tree"), place.path().join("old.tar.zst"));
        fs::create_dir(&tree).unwrap();
        first.iter().for_each(|act| apply(&tree, act));
        let (bytes, _, mut state) = reusing(&tree, &options(1), None, false);
        fs::write(&archive, bytes).unwrap();
        for edit in edits {
            // Long enough for the clock of any file system here to tick.
            sleep(Duration::from_millis(12));
            edit.iter().for_each(|act| apply(&tree, act));
            let (expected, summary) = full(&tree, &options(2));
            let mut last = None;
            for (trust, threads) in [false, true]
                .into_iter()
                .flat_map(|trust| [1, 2, 8].map(|threads| (trust, threads)))
            {
                let (bytes, said, now) =
                    reusing(&tree, &options(threads), Some(old(&archive, &state)), trust);
                prop_assert!(bytes == expected, "trust {}, {} threads", trust, threads);
                prop_assert_eq!(plain(&said), plain(&summary));
                prop_assert_eq!(said.damaged_frames, 0);
                let is_whole = now.archive_bytes() == Some(bytes.len() as u64)
                    && now.frames.len() as u64 == said.frames;
                prop_assert!(is_whole);
                frames.fetch_add(said.frames, Ordering::Relaxed);
                reused.fetch_add(said.reused_frames, Ordering::Relaxed);
                if let Some(last) = &last {
                    prop_assert_eq!(unseen(last), unseen(&now));
                }
                last = Some(now);
            }
            // The next round goes on from what a pack with all its shortcuts has left.
            fs::write(&archive, expected).unwrap();
            state = last.unwrap();
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    TestRunner::new(config).run(&cases, check).unwrap();
    let [rounds, frames, reused] = [rounds, frames, reused].map(AtomicU64::into_inner);
    eprintln!("{rounds} rounds, {reused} of {frames} frames reused");
    assert!(
        rounds >= 240 && reused * 3 > frames && reused * 20 < frames * 19,
        "the cases show little"
    );
}

/// A tree of some twenty frames with its archive.
struct Packed {
    scratch: Scratch,
    tree: PathBuf,
    archive: PathBuf,
    bytes: Vec<u8>,
    state: State,
}

impl Packed {
    fn new() -> Packed {
        let scratch = Scratch::new();
        let (tree, archive) = (scratch.join("tree"), scratch.join("old.tar.zst"));
        fs::create_dir(&tree).unwrap();
        for number in 0..60u8 {
            apply(
                &tree,
                &Act::Write(
                    PATHS[usize::from(number) % PATHS.len()],
                    3000 + 400 * u32::from(number),
                    number,
                ),
            );
            fs::write(tree.join(format!("file-{number}")), content(2000, number)).unwrap();
        }
        let (bytes, summary, state) = reusing(&tree, &options(2), None, false);
        assert!(summary.frames > 15, "{} frames", summary.frames);
        fs::write(&archive, &bytes).unwrap();
        Packed {
            scratch,
            tree,
            archive,
            bytes,
            state,
        }
    }

    fn old(&self) -> Old {
        old(&self.archive, &self.state)
    }
}

#[test]
fn an_unchanged_tree_is_taken_over_whole_and_a_changed_file_costs_its_frame() {
    let packed = Packed::new();
    for trust in [false, true] {
        let (bytes, summary, state) = reusing(&packed.tree, &options(2), Some(packed.old()), trust);
        assert!(bytes == packed.bytes);
        assert_eq!(
            (summary.reused_frames, summary.reused_bytes),
            (summary.frames, summary.archive_bytes)
        );
        assert_eq!(state, packed.state);
    }
    apply(&packed.tree, &Act::Alter("file-30", 1));
    for trust in [false, true] {
        let (_, summary, _) = reusing(&packed.tree, &options(2), Some(packed.old()), trust);
        assert_eq!(summary.reused_frames, summary.frames - 1);
    }
}

#[test]
fn trusted_frames_are_not_read_and_others_are() {
    let Packed {
        tree,
        archive,
        state,
        bytes,
        ..
    } = &Packed::new();
    // A content that no file has: only the metadata can lead to it.
    let unknown = State {
        frames: state
            .frames
            .iter()
            .map(|frame| Record {
                content: [0; 32],
                ..frame.clone()
            })
            .collect(),
        ..state.clone()
    };
    for (trust, reused) in [(false, 0), (true, state.frames.len() as u64)] {
        let (out, summary, _) = reusing(tree, &options(2), Some(old(archive, &unknown)), trust);
        assert!(out == *bytes);
        assert_eq!(summary.reused_frames, reused);
    }
}

#[test]
fn what_changed_shortly_before_it_was_packed_is_not_trusted() {
    let Packed { tree, .. } = &Packed::new();
    for (later, trusted) in [(0, false), (1, false), (10, true)] {
        let reuse = Reuse {
            context: CONTEXT,
            old: None,
            trust_metadata: true,
            started: time(later),
        };
        let packed = pack(
            open(tree),
            &options(1),
            &Progress::default(),
            Some(&reuse),
            &mut Vec::new(),
        )
        .unwrap();
        let state = packed.state.unwrap();
        assert!(
            state
                .frames
                .iter()
                .all(|frame| frame.metadata.is_some() == trusted),
            "{later} s later"
        );
    }
}

#[test]
fn options_that_change_members_are_part_of_what_is_trusted() {
    let Packed {
        tree,
        archive,
        state,
        ..
    } = &Packed::new();
    xattr::set(tree.join("a"), "user.a", b"x").unwrap();
    type Change = fn(&mut Options);
    let cases: [(&str, Change); 5] = [
        ("xattrs", |options| options.xattrs = false),
        ("clamp", |options| options.clamp_mtime = Some(1_000_000_000)),
        ("seconds", |options| options.whole_seconds = true),
        ("level", |options| {
            options.format = Format::Zstd(Level::new(1).unwrap())
        }),
        ("format", |options| options.format = Format::Tar),
    ];
    for (name, change) in cases {
        let mut options = options(2);
        change(&mut options);
        let (expected, _) = full(tree, &options);
        for trust in [false, true] {
            let (bytes, ..) = reusing(tree, &options, Some(old(archive, state)), trust);
            assert!(bytes == expected, "{name}, trust {trust}");
        }
    }
}

#[test]
fn a_bit_flipped_in_a_frame_costs_that_frame_alone() {
    let packed = Packed::new();
    let Packed {
        tree,
        archive,
        bytes,
        state,
        ..
    } = &packed;
    for number in 0..40 {
        let at = number * (bytes.len() - 1) / 39;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (number % 8);
        fs::write(archive, &damaged).unwrap();
        let (out, summary, now) = reusing(
            tree,
            &options(2),
            Some(old(archive, state)),
            number % 2 == 0,
        );
        assert!(out == *bytes, "byte {at}");
        assert_eq!(
            (summary.damaged_frames, summary.reused_frames),
            (1, summary.frames - 1),
            "byte {at}"
        );
        assert_eq!(unseen(&now), unseen(state));
    }
}

#[test]
fn an_archive_of_another_length_or_context_gives_nothing() {
    let Packed {
        archive,
        bytes,
        state,
        ..
    } = &Packed::new();
    let new = |context| Old::new(File::open(archive).unwrap(), &state.encode(), context).map(drop);
    assert_eq!(new(&CONTEXT), Ok(()));
    assert_eq!(new(&[8; 32]), Err(Unusable::Context));
    for length in [0, 1, bytes.len() - 1, bytes.len() + 1] {
        let mut other = bytes.clone();
        other.resize(length, 0);
        fs::write(archive, other).unwrap();
        assert_eq!(new(&CONTEXT), Err(Unusable::Archive), "{length} bytes");
    }
    fs::write(archive, bytes).unwrap();
    let mut endless = state.clone();
    endless.frames[0].compressed_bytes = u64::MAX;
    let made = Old::new(File::open(archive).unwrap(), &endless.encode(), &CONTEXT);
    assert_eq!(made.map(drop), Err(Unusable::Archive));
}

#[test]
fn an_archive_that_changes_after_it_was_opened_does_no_harm() {
    let packed = Packed::new();
    let Packed {
        tree,
        archive,
        bytes,
        ..
    } = &packed;
    let changes: [(&str, &dyn Fn()); 4] = [
        ("truncated", &|| {
            File::options()
                .write(true)
                .open(archive)
                .unwrap()
                .set_len(bytes.len() as u64 / 2)
                .unwrap()
        }),
        ("emptied", &|| {
            File::options()
                .write(true)
                .open(archive)
                .unwrap()
                .set_len(0)
                .unwrap()
        }),
        ("overwritten", &|| {
            File::options()
                .write(true)
                .open(archive)
                .unwrap()
                .write_all_at(&vec![1; bytes.len() / 2], 0)
                .unwrap();
        }),
        ("replaced", &|| {
            fs::write(packed.scratch.join("other"), "other").unwrap();
            fs::rename(packed.scratch.join("other"), archive).unwrap();
        }),
    ];
    for (name, change) in changes {
        for trust in [false, true] {
            fs::write(archive, bytes).unwrap();
            let old = packed.old();
            change();
            let (out, summary, _) = reusing(tree, &options(2), Some(old), trust);
            assert!(out == *bytes, "{name}");
            assert_eq!(summary.damaged_frames > 0, name != "replaced", "{name}");
        }
    }
}

#[test]
fn another_program_library_or_namespace_is_another_context() {
    let context =
        |program: &str, maps: &str| reuse::context(program.as_bytes(), maps.as_bytes()).unwrap();
    assert_eq!(context("program", "maps"), context("program", "maps"));
    for (program, maps) in [("programm", "aps"), ("program", ""), ("", "maps")] {
        assert_ne!(context("program", "maps"), context(program, maps));
    }
}
