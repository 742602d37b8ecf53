//! Notices and progress of an operation, shown on stderr.

use isar_tarball::{Notice, Observer, Severity};

use super::Globals;
use super::progress::Display;
use super::report;

/// Shows what an operation tells.
pub struct Terminal {
    quiet: bool,
    verbose: bool,
    display: Display,
}

impl Terminal {
    /// As the global options say.
    pub fn new(globals: &Globals) -> Terminal {
        Terminal {
            quiet: globals.quiet,
            verbose: globals.verbose,
            display: Display::new(globals.progress, globals.quiet),
        }
    }
}

impl Observer for Terminal {
    fn notice(&mut self, notice: &Notice) {
        let text = notice.to_string();
        self.display.suspend(|| match notice.severity() {
            Severity::Warning if !self.quiet => report::warning(&text),
            Severity::Detail if self.verbose => report::note(&format!("{text}\n")),
            _ => {}
        });
    }

    fn progress(&mut self, done: u64, total: u64) {
        self.display.update(done, total);
    }
}
