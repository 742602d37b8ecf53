//! `isar-tarball list`.

mod json;
mod line;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::anyhow;
use clap_complete::ArgValueCompleter;
use isar_tarball::{Escaped, List, Member};

use super::completions::members;
use super::report::{self, Status};
use super::session::{ReadingArgs, archive};
use super::values::size;
use super::{Globals, quoting};
use line::Lines;

/// List the members of an archive
///
/// One name per line, as `tar -tf` prints it: what is not printable is escaped. A MEMBER is a path
/// or a pattern (see pack --exclude), with or without ./ in front; a directory includes all below
/// it.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball list -l schroot.tar.zst usr/bin", after_long_help = DETAILS)]
pub struct Args {
    /// The tarball, compressed or not, or - for stdin
    archive: PathBuf,
    /// Only these, with all below them
    #[arg(add = ArgValueCompleter::new(members))]
    member: Vec<OsString>,
    /// Kind, mode, owner, size and time too, as `tar -tv --numeric-owner --full-time` prints them;
    /// --json prints them anyway
    #[arg(short, long)]
    long: bool,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    /// Limit of decompressed data that waits to be processed
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    memory: u64,
    #[command(flatten)]
    reading: ReadingArgs,
}

const DETAILS: &str = "\
Example: isar-tarball list -l schroot.tar.zst usr/bin

The exit status is 2 when a MEMBER is not in the archive; the others are listed all the same.

--json prints {\"members\": [MEMBER, …]}, each on a line of its own, with
  name, path     as stored, and without ./ in front and / behind
  kind           file, directory, symbolic link, hard link, named pipe, character device, block device
  mode           four octal digits, as a string
  uid, gid       numbers
  size           bytes of a file with its holes, else 0
  mtime          seconds since 1970, as a string with nine decimals
  target         of links, else null
  device         [MAJOR, MINOR] of device nodes, else null
  xattrs         names of extended attributes
  acls           \"access\", \"default\", or both
Where a name is not UTF-8, name_hex, path_hex and target_hex have its bytes.";

/// JSON before the first member.
const JSON_BEGIN: &[u8] = b"{\"members\": [\n";

/// How much is printed at once, in bytes.
const BUFFER: usize = 256 << 10;

pub fn run(args: Args, _globals: &Globals) -> anyhow::Result<Status> {
    let list = List {
        members: args.member.clone(),
        reading: args.reading.within(args.memory),
        ..List::new(archive(&args.archive))
    };
    let mut printer = Printer::new(&args);
    let missing = list.run(|member| report::written(printer.print(member)))?;
    report::written(printer.finish())?;
    for member in &missing {
        report::error(&anyhow!(
            "{:?}: {}: no such member",
            args.archive,
            Escaped(member.as_bytes())
        ));
    }
    Ok(match missing.is_empty() {
        true => Status::Done,
        false => Status::Failed,
    })
}

/// Prints members on stdout.
struct Printer {
    out: BufWriter<io::StdoutLock<'static>>,
    form: Form,
    line: Vec<u8>,
}

/// How a member is printed.
enum Form {
    Names {
        is_utf8: bool,
    },
    Lines(Lines),
    /// True for the first one.
    Json(bool),
}

impl Printer {
    fn new(args: &Args) -> Printer {
        let is_utf8 = quoting::is_utf8_locale();
        let form = match (args.json, args.long) {
            (true, _) => Form::Json(true),
            (_, true) => Form::Lines(Lines::new(is_utf8)),
            _ => Form::Names { is_utf8 },
        };
        Printer {
            out: BufWriter::with_capacity(BUFFER, io::stdout().lock()),
            form,
            line: Vec::new(),
        }
    }

    fn print(&mut self, member: &Member) -> io::Result<()> {
        self.line.clear();
        match &mut self.form {
            Form::Names { is_utf8 } => quoting::append(&mut self.line, &member.name, *is_utf8),
            Form::Lines(lines) => lines.append(&mut self.line, member),
            Form::Json(is_first) => {
                self.line.extend_from_slice(if std::mem::take(is_first) {
                    JSON_BEGIN
                } else {
                    b",\n"
                });
                write!(self.line, "{}", json::member(member))?;
            }
        }
        if !matches!(self.form, Form::Json(_)) {
            self.line.push(b'\n');
        }
        self.out.write_all(&self.line)
    }

    fn finish(mut self) -> io::Result<()> {
        if let Form::Json(is_empty) = self.form {
            self.out
                .write_all(if is_empty { JSON_BEGIN } else { b"" })?;
            self.out.write_all(b"\n]}\n")?;
        }
        self.out.flush()
    }
}
