//! The same work with fewer and with more threads, beside a thread a processor.

use std::thread::available_parallelism;

use crate::machine::{Machine, shown};
use crate::row::{Row, Side};

/// Fewer threads may take longer by their share; more than there are processors must not take
/// longer.
pub fn rows(machine: &Machine) -> Vec<Row> {
    let processors = available_parallelism().unwrap().get();
    let (tree, archive) = (shown(&machine.tree), shown(&machine.ours));
    let packed = shown(&machine.disk.join("scaling.tar.zst"));
    let unpacked = shown(&machine.memory.join("scaling"));
    let row = |threads: usize, verb: &str, words: &[&str], made: &str| {
        let side = |threads: usize| Side {
            command: machine.isar(&[&[verb, "--threads", &threads.to_string()], words].concat()),
            before: format!("rm -rf {made}"),
            clean: format!("rm -rf {made}"),
            reads: vec![machine.tree.clone(), machine.ours.clone()],
            ..Side::default()
        };
        Row {
            name: format!("{verb} --threads {threads}"),
            peer: "a thread a processor",
            faster: threads.min(processors) as f64 / processors as f64,
            ours: side(threads),
            theirs: side(processors),
            ..Row::default()
        }
    };
    let of_all = |threads| {
        let mut rows = vec![
            row(threads, "pack", &["-q", &tree, &packed], &packed),
            row(threads, "unpack", &["-q", &archive, &unpacked], &unpacked),
        ];
        rows.extend(["list", "info", "check"].map(|verb| row(threads, verb, &[&archive], "")));
        rows
    };
    [1, 2, 4, 8, 16].into_iter().flat_map(of_all).collect()
}
