//! Progress on stderr: a bar for people, `NN%` lines for bitbake.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::tcgetwinsize;

use super::values::human;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A bar on a terminal, nothing elsewhere
    Auto,
    /// A bar
    Bar,
    /// A line `NN%` whenever the number changes, which a bitbake task with `[progress] = "percent"`
    /// reads
    Percent,
    /// Nothing
    None,
}

/// A bar is on the screen, and the cursor behind it.
static IS_BAR_SHOWN: AtomicBool = AtomicBool::new(false);

/// Ends the line of a bar that will not be removed any more, from any thread.
pub fn end_line() {
    if IS_BAR_SHOWN.swap(false, Ordering::Relaxed) {
        let _ = writeln!(stderr());
    }
}

/// The progress that is on the screen.
pub enum Display {
    /// Nothing.
    None,
    /// `NN%` lines, with the last one that was printed.
    Percent(Option<u64>),
    /// A bar, while there is something to show.
    Bar(Option<(ProgressBar, Pace)>),
}

impl Display {
    /// Shows nothing until the first update.
    pub fn new(mode: Mode, quiet: bool) -> Display {
        match mode {
            Mode::Auto if quiet || !stderr().is_terminal() => Display::None,
            Mode::Auto | Mode::Bar => Display::Bar(None),
            Mode::Percent => Display::Percent(None),
            Mode::None => Display::None,
        }
    }

    /// Shows that `done` of `total` bytes are processed; a total of 0 removes the bar.
    pub fn update(&mut self, done: u64, total: u64) {
        match self {
            Display::None => {}
            Display::Percent(shown) => {
                let percent = done.saturating_mul(100).checked_div(total);
                let percent = percent.map(|percent| percent.min(100));
                if percent.is_some() && percent != *shown {
                    // A closed stderr is no reason to stop.
                    let _ = writeln!(stderr(), "{}%", percent.unwrap_or_default());
                    *shown = percent;
                }
            }
            Display::Bar(shown) if total == 0 => {
                if let Some((bar, _)) = shown.take() {
                    bar.finish_and_clear();
                    IS_BAR_SHOWN.store(false, Ordering::Relaxed);
                }
            }
            Display::Bar(shown) => {
                let (bar, pace) = shown.get_or_insert_with(|| (bar(), Pace::new()));
                pace.update(done);
                let left = pace.left(total);
                bar.set_message(line(width(), done, total, pace.rate(), left));
                IS_BAR_SHOWN.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Runs `print` while no bar is on the screen.
    pub fn suspend(&self, print: impl FnOnce()) {
        match self {
            Display::Bar(Some((bar, _))) => bar.suspend(print),
            _ => print(),
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Columns of the terminal.
fn width() -> usize {
    const USUAL: usize = 80;
    match tcgetwinsize(stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => USUAL,
    }
}

/// How fast the work goes on, measured from its beginning: work is done in large pieces, so what
/// happens between two moments says little.
pub struct Pace {
    begin: Instant,
    done: u64,
    /// When the last piece was done.
    changed: Duration,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            begin: Instant::now(),
            done: 0,
            changed: Duration::ZERO,
        }
    }

    fn update(&mut self, done: u64) {
        self.update_at(done, self.begin.elapsed());
    }

    fn update_at(&mut self, done: u64, now: Duration) {
        if done != self.done {
            (self.done, self.changed) = (done, now);
        }
    }

    /// Bytes per second.
    fn rate(&self) -> u64 {
        let seconds = self.changed.as_secs_f64();
        if seconds > 0.0 {
            (self.done as f64 / seconds) as u64
        } else {
            0
        }
    }

    fn left(&self, total: u64) -> Option<Duration> {
        self.left_at(total, self.begin.elapsed())
    }

    /// The time that the rest takes; `None` as long as too little is done to tell.
    fn left_at(&self, total: u64, now: Duration) -> Option<Duration> {
        if self.done == 0 || self.done < total / 10 || self.changed.is_zero() {
            return None;
        }
        let whole = self.changed.as_secs_f64() * total as f64 / self.done as f64;
        let whole = Duration::try_from_secs_f64(whole).ok()?;
        Some(whole.saturating_sub(now))
    }
}

/// The line for a terminal of this width, which it fits: what matters least is left out first.
fn line(width: usize, done: u64, total: u64, rate: u64, left: Option<Duration>) -> String {
    /// Columns of the bar: fewer tell nothing, more add nothing.
    const BAR: std::ops::RangeInclusive<usize> = 10..=30;
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
    let percent = format!("{:>3}%", percent.min(100));
    let sizes = format!("  {} of {}", human(done), human(total));
    let rate = match rate {
        0 => String::new(),
        rate => format!("  {}/s", human(rate)),
    };
    let left = left.map_or_else(String::new, |left| format!("  {} left", time(left)));
    // A line that fills the last column may wrap.
    let room = width.saturating_sub(1);
    for text in [
        format!("{percent}{sizes}{rate}{left}"),
        format!("{percent}{sizes}{left}"),
        format!("{percent}{left}"),
    ] {
        if let Some(columns) = room.checked_sub(text.len() + 1)
            && columns >= *BAR.start()
        {
            let columns = columns.min(*BAR.end());
            let full = (columns as u64)
                .saturating_mul(done)
                .checked_div(total)
                .unwrap_or(0);
            let full = usize::try_from(full).unwrap_or(0).min(columns);
            return format!("{}{} {text}", "█".repeat(full), "░".repeat(columns - full));
        }
    }
    let texts = [format!("{percent}{left}"), percent];
    let fitting = texts.into_iter().find(|text| text.len() <= room);
    fitting.unwrap_or_default()
}

/// `5 s`, `2 min 05 s`, `1 h 02 min`
fn time(left: Duration) -> String {
    // Rounded up: work that goes on takes some time.
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{} s", seconds.max(1)),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn the_line_fits_every_width() {
        let left = Some(Duration::from_secs(4000));
        for width in 0..200 {
            for (done, total) in [(0, 0), (0, MB), (999 * MB, 1000 * MB), (7, 5)] {
                let line = line(width, done, total, 123 * MB, left);
                let columns = line.chars().count();
                assert!(columns < width.max(1), "{width}: {line}");
            }
        }
        assert_eq!(
            line(60, 30 * MB, 120 * MB, 8 * MB, Some(Duration::from_secs(12))),
            "███░░░░░░░░░  25%  30.0 MB of 120.0 MB  8.0 MB/s  12 s left"
        );
        assert_eq!(
            line(40, 30 * MB, 120 * MB, 8 * MB, Some(Duration::from_secs(12))),
            "█████░░░░░░░░░░░░░░░░░░  25%  12 s left"
        );
        assert_eq!(line(12, 30 * MB, 120 * MB, 0, None), " 25%");
    }

    #[test]
    fn the_time_left_is_that_of_the_work_so_far() {
        // Pieces of 12 MB of 300 MB, two at a time, in 36 s: from the first tenth on it is right
        // within 30 %, also between two pieces.
        let mut pace = Pace::new();
        for tick in 0..360 {
            let now = Duration::from_millis(tick * 100);
            let pieces = now.as_millis() / 2880 * 2;
            let done = (pieces as u64 * 12 * MB).min(300 * MB);
            pace.update_at(done, now);
            let left = pace.left_at(300 * MB, now);
            assert_eq!(left.is_some(), done >= 30 * MB, "{now:?}");
            let right = 36.0 - now.as_secs_f64();
            if let Some(left) = left {
                let left = left.as_secs_f64();
                assert!((left - right).abs() <= 0.3 * right + 0.5, "{now:?}: {left}");
            }
        }
    }

    #[test]
    fn times_are_shown_in_two_units() {
        for (seconds, text) in [
            (0.0, "1 s"),
            (4.2, "5 s"),
            (125.0, "2 min 05 s"),
            (3599.5, "1 h 00 min"),
            (3725.0, "1 h 02 min"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text);
        }
    }
}
