//! Progress on stderr: a bar for people, `NN%` lines for bitbake.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

/// The progress that is on the screen.
pub enum Display {
    /// Nothing.
    None,
    /// `NN%` lines, with the last one that was printed.
    Percent(Option<u64>),
    /// A bar, while there is something to show.
    Bar(Option<ProgressBar>),
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
                if let Some(bar) = shown.take() {
                    bar.finish_and_clear();
                }
            }
            Display::Bar(shown) => {
                let bar = shown.get_or_insert_with(bar);
                bar.set_length(total);
                bar.set_position(done);
            }
        }
    }

    /// Runs `print` while no bar is on the screen.
    pub fn suspend(&self, print: impl FnOnce()) {
        match self {
            Display::Bar(Some(bar)) => bar.suspend(print),
            _ => print(),
        }
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:30} {percent:>3}%  {decimal_bytes} of {decimal_total_bytes}  \
                    {decimal_bytes_per_sec}  {eta} left";
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
