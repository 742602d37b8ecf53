//! Progress on stderr: a bar for people, `NN%` lines for bitbake.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isar_tarball::progress::Progress;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A bar on a terminal, nothing elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line `NN%` whenever the number changes, which a bitbake task with `[progress] = "percent"`
    /// reads.
    Percent,
    /// Nothing.
    None,
}

/// How often the numbers are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Shows progress from a thread of its own until it is dropped.
pub struct Shown {
    finished: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    /// Begins to show `progress` as `mode` says.
    pub fn begin(mode: Mode, quiet: bool, progress: Arc<Progress>) -> Shown {
        let finished = Arc::new(AtomicBool::new(false));
        let mode = match mode {
            Mode::Auto if quiet || !stderr().is_terminal() => Mode::None,
            Mode::Auto => Mode::Bar,
            mode => mode,
        };
        let seen = Arc::clone(&finished);
        let thread = match mode {
            Mode::Percent => Some(thread::spawn(move || percent(&progress, &seen))),
            Mode::Bar => Some(thread::spawn(move || bar(&progress, &seen))),
            Mode::Auto | Mode::None => None,
        };
        Shown { finished, thread }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only ever writes to stderr; nothing is lost with it.
            let _ = thread.join();
        }
    }
}

fn percent(progress: &Progress, finished: &AtomicBool) {
    let mut shown = None;
    loop {
        let is_last = finished.load(Ordering::Acquire);
        let (done, total) = (
            progress.done.load(Ordering::Relaxed),
            progress.total.load(Ordering::Relaxed),
        );
        let percent = done
            .saturating_mul(100)
            .checked_div(total)
            .map(|percent| percent.min(100));
        if percent.is_some() && percent != shown {
            // Whoever closed stderr does not want to know.
            let _ = writeln!(stderr(), "{}%", percent.unwrap_or_default());
            shown = percent;
        }
        if is_last {
            return;
        }
        thread::park_timeout(TICK);
    }
}

fn bar(progress: &Progress, finished: &AtomicBool) {
    let template = "{bar:30} {percent:>3}%  {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    while !finished.load(Ordering::Acquire) {
        let total = progress.total.load(Ordering::Relaxed);
        if total > 0 {
            bar.set_length(total);
            bar.set_position(progress.done.load(Ordering::Relaxed));
        }
        thread::park_timeout(TICK);
    }
    bar.finish_and_clear();
}
