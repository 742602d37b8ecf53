//! The table and the plot.

use std::fmt::Write as _;

use crate::machine::Machine;
use crate::measure::Pairs;
use crate::row::Row;

/// One row in words, for whoever watches.
pub fn line(row: &Row, pairs: &Pairs) -> String {
    let (least, median, most) = pairs.faster();
    format!(
        "  {median:.2} × ({least:.2}–{most:.2}) as fast as {}; the goal is {}",
        row.peer, row.faster
    )
}

/// The whole table in Markdown.
pub fn markdown(machine: &Machine, suite: &str, count: usize, results: &[(Row, Pairs)]) -> String {
    let tree = if machine.tree.ends_with(suite) {
        format!("a buildd chroot of {suite}")
    } else {
        "a tree".to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "{tree}, {cores} processors, page cache warm, medians of {count} interleaved pairs, or of as few as a row that takes minutes allows\n\n\
         | work | against | faster | goal | seconds | CPU seconds | peak MiB | MB |\n|---|---|---|---|---|---|---|---|\n"
    );
    for (row, pairs) in results {
        let (least, median, most) = pairs.faster();
        let both = |figure: &dyn Fn(&crate::measure::Run) -> f64, digits: usize| {
            let (ours, theirs) = (
                pairs.median(|(ours, _)| figure(ours)),
                pairs.median(|(_, theirs)| figure(theirs)),
            );
            format!("{ours:.digits$} / {theirs:.digits$}")
        };
        let size = match pairs.runs.first() {
            Some((ours, theirs)) if ours.size > 0 => {
                let share = ours.size as f64 / theirs.size as f64;
                let goal = row.size.map_or(String::new(), |goal| {
                    format!(" (goal −{:.0} %)", 100.0 * (1.0 - goal))
                });
                let reused = pairs
                    .reused
                    .as_ref()
                    .map_or(String::new(), |reused| format!("; {reused}"));
                format!(
                    "{:.1} / {:.1}: {:+.1} %{goal}{reused}",
                    ours.size as f64 / 1e6,
                    theirs.size as f64 / 1e6,
                    100.0 * (share - 1.0)
                )
            }
            _ => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | **{median:.2} ×** ({least:.2}–{most:.2}) | {} × | {} | {} | {} | {size} |",
            row.name,
            row.peer,
            row.faster,
            both(&|run| run.wall, 2),
            both(&|run| run.cpu, 2),
            both(&|run| run.memory as f64 / 1048576.0, 0),
        );
    }
    text
}

/// A bar a row: how many times as fast as the peer, on a logarithmic scale from half to 64 times.
pub fn svg(results: &[(Row, Pairs)]) -> String {
    let (left, width, height) = (330.0, 480.0, 30.0);
    let x = |times: f64| left + width * (times.clamp(0.5, 64.0).log2() + 1.0) / 7.0;
    let bottom = height * results.len() as f64 + 16.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        left + width + 90.0,
        bottom + 40.0
    );
    for times in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        let at = x(times);
        let stroke = if times == 1.0 { "#555" } else { "#ddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"8\" y2=\"{bottom:.1}\" stroke=\"{stroke}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{times} ×</text>",
            bottom + 18.0
        );
    }
    for (index, (row, pairs)) in results.iter().enumerate() {
        let (least, median, most) = pairs.faster();
        let y = 12.0 + height * index as f64;
        let (from, to) = (x(1.0).min(x(median)), x(1.0).max(x(median)));
        let color = if median >= row.faster {
            "#2a7f62"
        } else {
            "#b5651d"
        };
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{color}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{median:.1} ×</text>",
            left - 8.0,
            y + 14.0,
            row.name,
            (to - from).max(1.0),
            x(least),
            x(most),
            y + 9.0,
            y + 9.0,
            x(most).max(to) + 6.0,
            y + 14.0
        );
    }
    text.push_str("</svg>\n");
    text
}
