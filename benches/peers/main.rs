//! isar-tarball beside what a user could pick instead: paired and interleaved runs of whole
//! programs, on a real buildd chroot.
//!
//! ```sh
//! cargo bench --bench peers                       # every row, 9 pairs each
//! cargo bench --bench peers -- --quick            # the main rows, 3 pairs each, in about two minutes
//! cargo bench --bench peers -- --only unpack      # the rows whose name begins so; may be said again
//! cargo bench --bench peers -- --skip 19          # all rows but those whose name contains the word; may be said again
//! cargo bench --bench peers -- --scaling          # isar-tarball with 1 to 16 threads, beside a thread a processor, instead
//! cargo bench --bench peers -- --tree DIR         # another tree, one that belongs to the user's subordinate ids
//! cargo bench --bench peers -- --write DIR        # peers.md and peers.svg as well
//! ```
//!
//! If root starts it, it works as the ordinary user of the tests; otherwise as the user who starts
//! it. It needs mmdebstrap, GNU tar, zstd and GNU time. Only root can run the rows on clean ext4:
//! each run creates a new file system, which needs mkfs.ext4 and a loop device. Both sides run in
//! the same namespace of subordinate ids. The peers enter it through `isar-tarball unshare`, so
//! that neither has an advantage.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod large;
mod machine;
mod measure;
mod repack;
mod report;
mod row;
mod rows;
mod scaling;

use machine::Machine;
use measure::Pairs;
use row::Row;

/// What was asked for.
struct Asked {
    pairs: usize,
    quick: bool,
    scaling: bool,
    only: Vec<String>,
    skip: Vec<String>,
    suite: String,
    tree: Option<std::path::PathBuf>,
    write: Option<std::path::PathBuf>,
}

impl Asked {
    fn parse() -> Asked {
        let (only, skip, tree, write) = (Vec::new(), Vec::new(), None, None);
        let mut asked = Asked {
            pairs: 0,
            quick: false,
            scaling: false,
            only,
            skip,
            suite: "bookworm".into(),
            tree,
            write,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .unwrap_or_else(|| panic!("{word} takes a value"))
            };
            match word.as_str() {
                "--quick" => asked.quick = true,
                "--scaling" => asked.scaling = true,
                "--pairs" => asked.pairs = value().parse().expect("a number of pairs"),
                "--only" => asked.only.push(value()),
                "--skip" => asked.skip.push(value()),
                "--suite" => asked.suite = value(),
                "--tree" => asked.tree = Some(value().into()),
                "--write" => asked.write = Some(value().into()),
                // cargo says this to every bench.
                "--bench" => {}
                other => panic!("{other}: not an option; see the head of benches/peers/main.rs"),
            }
        }
        if asked.pairs == 0 {
            asked.pairs = if asked.quick { 3 } else { 9 };
        }
        asked
    }
}

fn main() {
    let asked = Asked::parse();
    let machine = Machine::prepare(&asked.suite, asked.tree.as_deref());
    let wanted = |name: &str| {
        (asked.only.is_empty() || asked.only.iter().any(|word| name.starts_with(word)))
            && !asked.skip.iter().any(|word| name.contains(word))
    };
    let mut results: Vec<(Row, Pairs)> = Vec::new();
    let rows = if asked.scaling {
        scaling::rows(&machine)
    } else {
        rows::rows(&machine)
    };
    for row in rows {
        if !wanted(&row.name) || asked.quick && !row.is_quick {
            continue;
        }
        eprintln!("{} …", row.name);
        let pairs = measure::pairs(&machine, &row, asked.pairs);
        eprintln!("{}", report::line(&row, &pairs));
        results.push((row, pairs));
        // After each row, because the next one may take minutes, and may fail.
        if let Some(dir) = &asked.write {
            let table = report::markdown(&machine, &asked.suite, asked.pairs, &results);
            std::fs::write(dir.join("peers.md"), table).unwrap();
            std::fs::write(dir.join("peers.svg"), report::svg(&results)).unwrap();
        }
    }
    machine.unmount_fresh();
    print!(
        "{}",
        report::markdown(&machine, &asked.suite, asked.pairs, &results)
    );
}
