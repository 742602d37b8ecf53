//! The options of exclude patterns.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Patterns of what is left out.
#[derive(clap::Args, Clone)]
pub struct ExcludeArgs {
    /// Leave out what matches, with all below it; anchored at the root of the tree, * stays within
    /// a path component, ** crosses (repeatable). With -v each path that is left out is printed
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern in FILE, one per line, or - for stdin (repeatable). Empty
    /// lines and those that begin with # are ignored
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
}

impl ExcludeArgs {
    /// All patterns, those of files last.
    pub fn patterns(&self) -> anyhow::Result<Vec<String>> {
        let mut patterns = self.exclude.clone();
        for file in &self.exclude_from {
            let text = read(file).with_context(|| format!("cannot read {file:?}"))?;
            for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.is_empty() || line.starts_with(b"#") {
                    continue;
                }
                let Ok(pattern) = std::str::from_utf8(line) else {
                    bail!("{file:?}: line {number}: a pattern must be UTF-8");
                };
                patterns.push(pattern.to_owned());
            }
        }
        Ok(patterns)
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file.as_os_str() != "-" {
        return fs::read(file);
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}
