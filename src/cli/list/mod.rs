//! `isar-tarball list`.

mod json;
mod line;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use isar_tarball::archive::reader::{Event, Limits, Member};
use isar_tarball::error::Escaped;
use isar_tarball::input::Input;
use isar_tarball::member_stream;
use isar_tarball::tree::selection::{Selection, clean};

use super::report::{self, Status};
use super::source::{self, Reading};
use super::{Globals, quoting};
use line::Lines;

/// List the members of an archive
///
/// One name a line, as `tar -tf` prints it: what is not printable is escaped. A MEMBER is a path or
/// a pattern (see pack --exclude), with or without ./ in front; a directory stands for all below
/// it.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball list -l schroot.tar.zst usr/bin", after_long_help = DETAILS)]
pub struct Args {
    /// The tarball, compressed or not, or - for stdin
    archive: PathBuf,
    /// Only these, with all below them
    member: Vec<String>,
    /// Kind, mode, owner, size and time too, as `tar -tv --numeric-owner --full-time` prints them
    #[arg(short, long, conflicts_with = "json")]
    long: bool,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: Reading,
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

/// What stands in front of the first member.
const JSON_BEGIN: &[u8] = b"{\"members\": [\n";

/// How much is printed at once, in bytes.
const BUFFER: usize = 256 << 10;

pub fn run(args: Args, _globals: &Globals) -> anyhow::Result<Status> {
    let mut selection = Selection::new(args.member.iter().map(String::as_str))?;
    list(&args, &mut selection).with_context(|| format!("cannot list {:?}", args.archive))?;
    let missing = selection.missing();
    for member in &missing {
        report::error(&anyhow!(
            "{:?}: {}: no such member",
            args.archive,
            Escaped(member)
        ));
    }
    Ok(if missing.is_empty() {
        Status::Done
    } else {
        Status::Failed
    })
}

fn list(args: &Args, selection: &mut Selection) -> anyhow::Result<()> {
    let mut input = Input::open(source::open(&args.archive)?, &args.reading.options())?;
    let mut printer = Printer::new(args);
    let is_everything = selection.is_everything();
    member_stream::read(&mut input, Limits::default(), |event| match event {
        Event::Member(member) if is_everything || selection.takes(&clean(&member.entry.path)) => {
            report::written(printer.print(&member))
        }
        _ => Ok(()),
    })?;
    report::written(printer.finish())
}

/// Puts members on stdout.
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
        let form = match (args.long, args.json) {
            (true, _) => Form::Lines(Lines::new(is_utf8)),
            (_, true) => Form::Json(true),
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
