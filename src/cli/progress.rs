//! Progress on stderr: a bar for people, `NN%` lines for bitbake.

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A bar on a terminal, nothing elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line `NN%` whenever the number changes.
    Percent,
    /// Nothing.
    None,
}
