//! One timed run of a whole program, and pairs of them.

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::machine::Machine;
use crate::row::{Row, Side};

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Wall clock, in seconds.
    pub wall: f64,
    /// User and system time of all its processes, in seconds.
    pub cpu: f64,
    /// The largest resident set among its processes, in bytes.
    pub memory: u64,
    /// What it wrote, in bytes, where it writes a file.
    pub size: u64,
}

/// Ours and theirs, one after the other.
pub struct Pairs {
    pub runs: Vec<(Run, Run)>,
    /// What ours took over from an older archive, in words, where the row is about that.
    pub reused: Option<String>,
}

impl Pairs {
    /// The median of a figure over the runs of one side.
    pub fn median(&self, figure: impl Fn(&(Run, Run)) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        }
    }

    /// How many times faster ours is, pair by pair: least, median, most.
    pub fn faster(&self) -> (f64, f64, f64) {
        let ratio = |(ours, theirs): &(Run, Run)| theirs.wall / ours.wall;
        let ratios = self.runs.iter().map(ratio);
        (
            ratios.clone().fold(f64::MAX, f64::min),
            self.median(ratio),
            ratios.fold(0.0, f64::max),
        )
    }
}

/// Runs both sides in turn, each as often as asked, after one warm-up of each. Which goes first
/// changes from pair to pair.
pub fn pairs(machine: &Machine, row: &Row, count: usize) -> Pairs {
    let count = row.most_pairs.map_or(count, |most| count.min(most));
    // What a run that was killed has left.
    clean(machine, row, 2 + 2 * count);
    for words in &row.setup {
        succeed(machine, words);
    }
    let mut number = 0;
    let next = |side: &Side, number: &mut usize| {
        *number += 1;
        if row.is_fresh {
            machine.make_fresh();
        }
        run(machine, side, *number)
    };
    // A warm-up, where that does not take minutes itself. What comes out of it is looked at.
    if row.most_pairs != Some(1) {
        for side in [&row.ours, &row.theirs] {
            next(side, &mut number);
            must_be_equal(machine, side, number);
        }
    }
    let pair = |index: usize| {
        if index.is_multiple_of(2) {
            let ours = next(&row.ours, &mut number);
            (ours, next(&row.theirs, &mut number))
        } else {
            let theirs = next(&row.theirs, &mut number);
            (next(&row.ours, &mut number), theirs)
        }
    };
    let runs = (0..count).map(pair).collect();
    let takes_over = row.ours.command.iter().any(|word| word == "--reuse");
    let pairs = Pairs {
        runs,
        reused: takes_over.then(|| reused(machine, &row.ours)),
    };
    clean(machine, row, number);
    pairs
}

/// Removes what runs up to `last` leave.
fn clean(machine: &Machine, row: &Row, last: usize) {
    for side in [&row.ours, &row.theirs] {
        for number in 1..=last {
            shell(machine, &side.clean, number);
        }
    }
}

/// What one more run of `side` says that it has taken over.
fn reused(machine: &Machine, side: &Side) -> String {
    let words = side
        .command
        .iter()
        .map(|word| if word == "-q" { "--json" } else { word });
    let output = machine
        .as_user("env")
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{:?}: {}",
        side.command,
        output.status
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let megabytes = |value: &serde_json::Value| value.as_f64().unwrap() / 1e6;
    let (reused, frames) = (&said["reused"], &said["frames"]);
    format!(
        "{} of {frames} frames and {:.0} of {:.0} MB taken over",
        reused["frames"],
        megabytes(&reused["bytes"]),
        megabytes(&said["archive_bytes"])
    )
}

/// One run of `side`, with `{n}` in its scripts standing for `number`. It must succeed.
fn run(machine: &Machine, side: &Side, number: usize) -> Run {
    shell(machine, &side.before, number);
    warm(&side.reads);
    let times = machine.disk.join("times");
    let words: Vec<String> = side
        .command
        .iter()
        .map(|word| numbered(word, number))
        .collect();
    let mut command = machine.as_user("/usr/bin/time");
    let begin = Instant::now();
    let status = command
        .args(["-q", "-f", "%U %S %M", "-o"])
        .arg(&times)
        .args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let wall = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{words:?}: {status}");
    let text = fs::read_to_string(&times).unwrap();
    let figures: Vec<f64> = text
        .split_ascii_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let [user, system, kilobytes] = figures[..] else {
        panic!("{text:?}")
    };
    let size = side.writes.as_ref().map_or(0, |path| {
        fs::metadata(numbered(path, number)).unwrap().len()
    });
    Run {
        wall,
        cpu: user + system,
        memory: kilobytes as u64 * 1024,
        size,
    }
}

/// What run `number` of `side` made must be what was asked for.
fn must_be_equal(machine: &Machine, side: &Side, number: usize) {
    let Some(pair) = &side.equal else { return };
    let words = machine.isar(&[
        "diff",
        "-q",
        &numbered(&pair[0], number),
        &numbered(&pair[1], number),
    ]);
    succeed(machine, &words);
}

fn numbered(text: &str, number: usize) -> String {
    text.replace("{n}", &number.to_string())
}

fn shell(machine: &Machine, script: &str, number: usize) {
    if !script.is_empty() {
        succeed(machine, &machine.script(&numbered(script, number)));
    }
}

/// Runs a command as the ordinary user. It must succeed.
fn succeed(machine: &Machine, words: &[String]) {
    let status = machine
        .as_user(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{words:?}: {status}");
}

/// Reads what a run reads into the page cache, then touches memory. A virtual machine may return
/// free pages to its host, and the first process to touch such memory pays for getting it back.
/// Memory comes last because the machine returns it within seconds.
fn warm(reads: &[std::path::PathBuf]) {
    let _ = Command::new("sync").status();
    for path in reads {
        read(path);
    }
    black_box(vec![1u8; 1300 << 20]);
}

fn read(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    if metadata.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.for_each(|entry| read(&entry.unwrap().path()));
    } else if metadata.is_file()
        && let Ok(mut file) = fs::File::open(path)
    {
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
}
