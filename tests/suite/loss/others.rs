//! Directories that another user can exchange.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{Bench, assert_none, clear, outcome};
use crate::imager::BORROWED;
use crate::world::{names, run, succeed, user};

/// An ordinary user that is neither the test user nor one of its subordinate ids.
const OTHER: u32 = 54321;
/// The group `users`.
const USERS: u32 = 100;

/// A directory in the scratch directory, and the one below it that a command uses.
struct Above {
    what: &'static str,
    owner: u32,
    group: u32,
    mode: u32,
    /// Owner of the directory below.
    below: u32,
    /// What a refusal must name of the directory at fault: its owner or its mode.
    named: &'static [&'static str],
}

/// The directories that are refused. The caller can use each of them.
fn refused(caller: u32) -> [Above; 5] {
    let above = |what, owner, mode, below, named| Above {
        what,
        owner,
        group: USERS,
        mode,
        below,
        named,
    };
    [
        above("another user's", OTHER, 0o755, caller, &["54321"]),
        above("writable to all", caller, 0o777, caller, &["777"]),
        above("writable to a group", caller, 0o775, caller, &["775"]),
        above("another user's, sticky", OTHER, 0o1777, caller, &["54321"]),
        above(
            "sticky, with an entry of another user",
            0,
            0o1777,
            OTHER,
            &["54321"],
        ),
    ]
}

impl Above {
    /// Makes `above`, and `above/below` in it.
    fn make(&self, bench: &Bench) {
        let above = bench.join("above");
        clear(&above);
        make(&above, self.owner, self.group, 0o755);
        // The caller can work in it.
        let mode = if self.below == OTHER { 0o777 } else { 0o755 };
        make(&above.join("below"), self.below, self.group, mode);
        fs::set_permissions(&above, fs::Permissions::from_mode(self.mode)).unwrap();
    }
}

fn make(path: &Path, owner: u32, group: u32, mode: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(owner), Some(group)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command with each of the directories. It must be refused with the status, name the
/// directory at fault, and leave the directory as it was.
fn is_refused(bench: &Bench, status: i32, args: &[&str]) {
    let mut faults = Vec::new();
    for above in refused(user().uid) {
        above.make(bench);
        let before = bench.state("above");
        let (found, said) = outcome(&run(&mut bench.isar(args.iter().copied())));
        let names_it = said.contains("above") && above.named.iter().all(|word| said.contains(word));
        if found != Some(status) || !names_it {
            faults.push(format!("{}: {found:?} {said}", above.what));
        }
        if bench.state("above") != before {
            faults.push(format!("{}: something was written", above.what));
        }
    }
    assert_none(&faults);
}

#[test]
fn a_cache_that_another_user_can_exchange_is_refused() {
    let bench = Bench::new(3);
    for cache in ["above/below", "above/below/new"] {
        let imager = [&["imager", "--cache", cache], &BORROWED[..]].concat();
        is_refused(
            &bench,
            125,
            &[&imager[..], &["a.tar", "--", "true"]].concat(),
        );
    }
}

#[test]
fn a_download_directory_that_another_user_can_exchange_is_refused() {
    let bench = Bench::new(3);
    let imager = ["imager", "--root", "rootfs", "--install", "hello"];
    let rest = ["--download-dir", "above/below", "a.tar", "--", "true"];
    is_refused(&bench, 125, &[&imager[..], &rest[..]].concat());
}

#[test]
fn a_directory_of_states_that_another_user_can_exchange_is_refused() {
    let bench = Bench::new(3);
    bench.unpacked("tree");
    let pack = ["pack", "--state", "above/below", "tree", "packed.tar.zst"];
    is_refused(&bench, 2, &pack);
    assert!(!bench.join("packed.tar.zst").exists());
}

#[test]
fn a_cache_of_the_caller_in_a_sticky_directory_is_used() {
    let bench = Bench::new(3);
    let sticky = bench.join("sticky");
    make(&sticky, 0, 0, 0o1777);
    make(&sticky.join("mine"), user().uid, user().gid, 0o755);
    for cache in ["sticky/mine", "sticky/new", "sticky/mine/below"] {
        for _ in 0..2 {
            succeed(&mut bench.imager(&["--cache", cache], "true"));
        }
    }
    assert_eq!(names(&sticky), ["mine", "new"]);
}

#[test]
fn a_directory_of_another_user_is_not_unpacked_into() {
    let bench = Bench::new(3);
    let rootfs = bench.join("rootfs");
    make(&rootfs, OTHER, USERS, 0o777);
    let before = bench.state("rootfs");
    let imager = [&["imager", "--root", "rootfs"], &BORROWED[..]].concat();
    let mut faults = Vec::new();
    for (status, args) in [
        (2, vec!["unpack", "a.tar", "rootfs"]),
        (2, vec!["unpack", "--replace", "a.tar", "rootfs"]),
        (2, vec!["unpack", "--merge", "a.tar", "rootfs"]),
        (125, [&imager[..], &["a.tar", "--", "true"]].concat()),
    ] {
        let (found, said) = outcome(&run(&mut bench.isar(args.iter().copied())));
        let names_owner = said.contains("\"rootfs\"") && said.contains("54321");
        if found != Some(status) || !names_owner {
            faults.push(format!("{args:?}: {found:?} {said}"));
        }
        if bench.state("rootfs") != before {
            faults.push(format!("{args:?}: the directory has changed"));
            clear(&rootfs);
            make(&rootfs, OTHER, USERS, 0o777);
        }
    }
    assert_none(&faults);
}
