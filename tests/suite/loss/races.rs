//! Pairs of commands at once in one directory, while a neighbour exchanges what they work on.
//!
//! Each round starts two or four processes. In every other one a neighbour exchanges the tree and
//! names in it until all have ended. By default each pair has one round, and every other pair a
//! neighbour. `ISAR_TARBALL_ROUNDS=300` runs that many rounds per pair.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Bench, assert_none, clear, outcome, start};
use crate::imager::BORROWED;
use crate::kill::State;
use crate::random::wanted;
use crate::world::succeed;

const ROUNDS: usize = 1;

/// What a tree and an archive of it are called, and what a whole round may leave.
const NAMES: [&str; 6] = ["a.tar", "cache", "decoy", "out.tar", "precious", "rootfs"];

const COMMANDS: [&[&str]; 8] = [
    &["unpack", "a.tar", "rootfs"],
    &["unpack", "--replace", "a.tar", "rootfs"],
    &["unpack", "--merge", "a.tar", "rootfs"],
    &["pack", "rootfs", "out.tar"],
    &["pack", "--remove-source", "rootfs", "out.tar"],
    &["remove", "rootfs", "cache"],
    &["imager", "--root", "rootfs"],
    &["imager", "--cache", "cache"],
];

/// The states that a round compares with.
struct Whole {
    tree: State,
    packed: Vec<u8>,
    precious: State,
}

fn command(bench: &Bench, args: &[&str]) -> Child {
    if args[0] != "imager" {
        return start(&mut bench.isar(args.iter().copied()));
    }
    let script = bench.sees_all();
    let imager = args.iter().chain(&BORROWED);
    let imager = imager.chain(&["a.tar", "--", "sh", "-ec"]).copied();
    start(&mut bench.isar(imager.chain([script.as_str()])))
}

/// Exchanges the tree and its parts with other things until `stop`.
fn exchange(bench: &Bench, stop: &AtomicBool) {
    let names = [
        ("rootfs", "decoy"),
        ("rootfs/data", "rootfs/etc"),
        ("rootfs/data", "link"),
        ("rootfs/data/1", "rootfs/data/link"),
        ("out.tar", "link"),
    ];
    let paths = names.map(|(a, b)| (bench.join(a), bench.join(b)));
    // Errors are as likely as not: the commands create and remove the names meanwhile.
    let swap = |(a, b): &(PathBuf, PathBuf)| {
        let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
    };
    while !stop.load(Ordering::Relaxed) {
        let _ = std::os::unix::fs::symlink(bench.join("precious"), bench.join("link"));
        let _ =
            std::os::unix::fs::symlink(bench.join("precious/1"), bench.join("rootfs/data/link"));
        paths.iter().for_each(swap);
        thread::sleep(std::time::Duration::from_micros(300));
        paths.iter().rev().for_each(swap);
    }
}

/// What a round without a neighbour must not show.
fn strict(bench: &Bench, pair: [&[&str]; 2], whole: &Whole, fault: &mut impl FnMut(String)) {
    let tree = bench.state("rootfs");
    if tree.is_some() && tree != whole.tree {
        let has = tree.as_ref().map_or(0, |files| files.len());
        fault(format!("the tree is neither whole nor gone: {has} files"));
    }
    let packed = fs::read(bench.join("out.tar")).ok();
    if packed
        .as_ref()
        .is_some_and(|packed| *packed != whole.packed)
    {
        fault("the archive is not whole".to_owned());
    }
    let removes = |args: &&[&str]| args[0] == "remove" || args[1] == "--root";
    if tree.is_none() && packed.is_none() && !pair.iter().any(removes) {
        fault("the tree is lost".to_owned());
    }
}

#[test]
fn commands_at_once_in_one_directory_lose_nothing() {
    let bench = Bench::new(6);
    let tree = bench.unpacked("rootfs");
    succeed(&mut bench.isar(["pack", "rootfs", "out.tar"]));
    let packed = fs::read(bench.join("out.tar")).unwrap();
    for command in [
        &["unpack", "a.tar", "decoy"][..],
        &["unpack", "a.tar", "precious"],
        &["remove", "rootfs"],
    ] {
        succeed(&mut bench.isar(command.iter().copied()));
    }
    let whole = Whole {
        tree,
        packed,
        precious: bench.state("precious"),
    };
    let rounds = wanted("ISAR_TARBALL_ROUNDS").unwrap_or(ROUNDS);
    let (mut faults, mut runs, mut pairs) = (Vec::new(), 0, 0);
    for (index, first) in COMMANDS.iter().enumerate() {
        for second in &COMMANDS[index..] {
            for round in 0..rounds {
                runs += at_once(&bench, [first, second], pairs + round, &whole, &mut faults);
            }
            pairs += 1;
        }
    }
    eprintln!("{runs} runs in {rounds} rounds per pair");
    assert_none(&faults);
}

/// One round. Gives how many processes it had.
fn at_once(
    bench: &Bench,
    pair: [&[&str]; 2],
    round: usize,
    whole: &Whole,
    faults: &mut Vec<String>,
) -> usize {
    let (has_neighbour, is_four) = (round % 2 == 1, round % 4 % 3 == 1);
    // Each round begins with a tree, so that there is something to lose.
    if bench.state("rootfs").is_none() && pair.iter().all(|args| args[0] != "unpack") {
        bench.unpacked("rootfs");
    }
    let mut fault = |fault: String| faults.push(format!("{pair:?}, round {round}: {fault}"));
    let stop = AtomicBool::new(false);
    let said = thread::scope(|scope| {
        if has_neighbour {
            scope.spawn(|| exchange(bench, &stop));
        }
        let count = if is_four { 4 } else { 2 };
        let runs: Vec<Child> = (0..count)
            .map(|number| command(bench, pair[number % 2]))
            .collect();
        let ends = runs
            .into_iter()
            .map(|run| outcome(&run.wait_with_output().unwrap()));
        let said: Vec<_> = ends.collect();
        stop.store(true, Ordering::Relaxed);
        said
    });
    for (status, said) in &said {
        let is_sane = matches!(status, Some(0 | 2 | 125)) || (has_neighbour && status.is_some());
        if !is_sane || said.contains("panicked") {
            fault(format!("{status:?}: {said}"));
        }
    }
    if !has_neighbour {
        strict(bench, pair, whole, &mut fault);
    }
    if bench.state("precious") != whole.precious {
        fault("a tree outside has changed".to_owned());
    }
    // What a killed or refused run left is cleared by the next one.
    for args in [
        &["remove", "rootfs", "cache"],
        &["unpack", "a.tar", "rootfs"],
    ] {
        let next = bench.isar(args.iter().copied()).output().unwrap();
        if !next.status.success() {
            fault(format!("the next {args:?}: {:?}", outcome(&next)));
        }
    }
    if bench.state("rootfs") != whole.tree {
        fault("the next unpack makes another tree".to_owned());
    }
    for name in bench.scratch.names() {
        if !NAMES.contains(&name.as_str()) && name != "link" {
            fault(format!("left: {name}"));
        }
    }
    clear_all(bench, whole);
    said.len()
}

/// Makes the directory as it was at first.
fn clear_all(bench: &Bench, whole: &Whole) {
    for name in bench.scratch.names() {
        let is_kept = ["a.tar", "precious"].contains(&name.as_str());
        let is_whole_decoy = name == "decoy" && bench.state("decoy") == whole.tree;
        if !is_kept && !is_whole_decoy {
            clear(&bench.join(&name));
        }
    }
    if bench.state("decoy").is_none() {
        bench.unpacked("decoy");
    }
}
