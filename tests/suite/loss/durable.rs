//! What is on the disk when a name appears, so that it survives a loss of power.

use std::process::Command;

use super::Bench;
use crate::kill::trace::{Call, trace};
use crate::world::succeed;

/// The calls that sync or rename.
fn order(command: Command) -> Vec<String> {
    let traced = trace(command, None);
    assert!(traced.status.success(), "{}", traced.said);
    let counts = |call: &&Call| call.name.contains("sync") || call.name.starts_with("rename");
    traced
        .calls
        .iter()
        .filter(counts)
        .map(Call::to_string)
        .collect()
}

/// Fails unless the calls that contain the words come in this order.
fn assert_order(calls: &[String], words: &[&str]) {
    let mut rest = calls.iter();
    for word in words {
        assert!(
            rest.any(|call| call.contains(word)),
            "{word:?} of {words:?} in {calls:#?}"
        );
    }
}

#[test]
fn unpack_syncs_a_tree_before_it_gets_its_name_if_that_is_asked_for() {
    let bench = Bench::new(3);
    let unpack = |options: &[&'static str]| {
        let words = ["unpack"].iter().chain(options).chain(&["a.tar", "tree"]);
        order(bench.isar(words.copied()))
    };
    assert_order(&unpack(&["--sync"]), &["syncfs", "rename", "syncfs"]);
    succeed(&mut bench.isar(["remove", "tree"]));
    let calls = unpack(&[]);
    assert!(!calls.iter().any(|call| call.contains("sync")), "{calls:?}");
    assert_order(
        &unpack(&["--replace", "--sync"]),
        &["syncfs", "rename", "syncfs"],
    );
}

#[test]
fn unpack_removes_an_old_tree_only_after_the_new_one_is_on_the_disk() {
    let bench = Bench::new(3);
    bench.unpacked("tree");
    let replace = ["unpack", "--replace", "a.tar", "tree"];
    assert_order(&order(bench.isar(replace)), &["syncfs", "rename"]);
}

#[test]
fn pack_removes_a_source_only_after_its_archive_is_on_the_disk() {
    let bench = Bench::new(3);
    bench.unpacked("tree");
    let pack = ["pack", "--remove-source", "tree", "new.tar.zst"];
    let calls = order(bench.isar(pack));
    assert_order(&calls, &["fsync", "-> new.tar.zst", "fsync", "rename"]);
}

#[test]
fn a_copy_in_the_cache_is_on_the_disk_before_it_has_its_name() {
    let bench = Bench::new(3);
    let calls = order(bench.imager(&["--cache", "cache"], "true"));
    assert_order(&calls, &["syncfs", "renameat \"copy"]);
}
