//! Any bytes unpacked into a directory: what lies beside it stays as it is, what fails leaves
//! nothing, and what was made can be removed.
//!
//! To be run as root of a user namespace (see README.md): a defect could reach whatever the process
//! may write to.
#![no_main]

#[path = "unpack/arena.rs"]
mod arena;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use arena::Arena;
use isar_tarball::internals::ids::{Extent, IdMap, IdMaps};
use isar_tarball::internals::input::{self, Input};
use isar_tarball::internals::progress::Progress;
use isar_tarball::internals::tree::exclude::Patterns;
use isar_tarball::internals::tree::selection::Selection;
use isar_tarball::internals::unpack::names::Rules;
use isar_tarball::internals::unpack::{
    Devices, Error, Options, OriginalAttributes, Summary, TargetState, UndoJournal, Unpacking, Xattrs,
    undo,
};
use isar_tarball_fuzz::members;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

static ARENA: LazyLock<Arena> = LazyLock::new(Arena::new);

// The first byte says what the rest is (1: a tar stream whose checksums are mended, 2: members, see
// there; else a tar stream) and how it is unpacked.
fuzz_target!(|bytes: &[u8]| {
    let Some((how, rest)) = bytes.split_first() else {
        return;
    };
    let is = |bit: u8| how & bit != 0;
    let mut stream = if is(2) {
        members::stream(rest, ARENA.place())
    } else {
        rest.to_vec()
    };
    if is(1) && !is(2) {
        isar_tarball_fuzz::mend(&mut stream);
    }
    let options = Options {
        selection: Selection::default(),
        exclude: Patterns::default(),
        names: Rules {
            strip_components: usize::from(is(32)),
            strip_leading_slash: is(64),
        },
        devices: Devices::Skip,
        keep_directory_symlink: is(128),
        xattrs: if is(8) { Xattrs::None } else { Xattrs::All },
        threads: if is(16) { 2 } else { 1 },
        memory: 1 << 20,
        allowance: Default::default(),
        limit_size: is(128).then_some(8 << 10),
        limit_members: Some(100),
        maps: identity(),
        found: if is(4) {
            TargetState::Tree
        } else {
            TargetState::New
        },
    };
    let tree = ARENA.tree(options.found);
    let before = OriginalAttributes::of(tree.as_fd()).expect("its attributes");
    let made = UndoJournal::new().expect("a list");
    if run(&stream, &tree, &made, &options).is_err() {
        undo(tree.as_fd(), Some(&made).filter(|_| is(4)), before, 1)
            .unwrap_or_else(|error| panic!("undo: {error}"));
        if !is(4) {
            ARENA.assert_empty();
        }
    }
    ARENA.assert_unchanged();
    ARENA.remove(&tree);
});

fn run(
    stream: &[u8],
    tree: &File,
    made: &UndoJournal,
    options: &Options,
) -> Result<Summary, Error> {
    let file = File::from(memfd_create("archive", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all_at(stream, 0).expect("written");
    let mut input = Input::open(
        file,
        &input::Options {
            threads: 1,
            memory: 1 << 20,
            window_log: 20,
            eager: false,
        },
    )?;
    Unpacking::prepare::<Error>(tree.as_fd(), None, || Ok(0), options)?.run(
        &mut input,
        Some(made),
        &Progress::default(),
    )
}

fn identity() -> IdMaps {
    let ids = || {
        IdMap::from_extents(vec![Extent {
            inner: 0,
            outer: 0,
            count: 65536,
        }])
        .expect("a map")
    };
    IdMaps {
        uids: ids(),
        gids: ids(),
    }
}
