//! `isar-tarball man`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use super::report::Status;

/// Write the manual pages into a directory
///
/// Example: isar-tarball man /usr/local/share/man/man1
#[derive(clap::Args)]
pub struct Args {
    /// Where the pages go; made when missing
    dir: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    let dir = args.dir;
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    fs::create_dir_all(&dir)
        .and_then(|()| write_pages(&program, &dir))
        .map_err(|error| anyhow!("cannot write the manual pages to {dir:?}: {}", error))?;
    Ok(Status::Done)
}

fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    let program = concat!("isar-tarball ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .source(program)
        .manual("User Commands");
    let mut page = BufWriter::new(File::create(dir.join(man.get_filename()))?);
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        // Tables and scripts, whose lines stay as they are.
        writeln!(page, ".SH NOTES\n.nf")?;
        for line in notes.to_string().lines() {
            writeln!(page, "{}", verbatim(line))?;
        }
        writeln!(page, ".fi")?;
    }
    page.flush()?;
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .try_for_each(|command| write_pages(command, dir))
}

/// A line of text for troff, which would take a dot or an apostrophe at its beginning for a
/// request.
fn verbatim(line: &str) -> String {
    let escaped = line
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    if escaped.starts_with('.') {
        format!("\\&{escaped}")
    } else {
        escaped
    }
}
