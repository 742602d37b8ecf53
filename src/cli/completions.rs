//! `isar-tarball completions`, and the answers to the shells that complete a command line.
//!
//! The script of a shell asks the program itself, so that members of an archive can be completed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{ArgMatches, CommandFactory};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};
use isar_tarball::List;

use super::Cli;
use super::report::{self, Status};

/// The environment variable in which a completion script passes the name of its shell.
const VARIABLE: &str = "ISAR_TARBALL_COMPLETE";

/// The program in the scripts. The search path leads to it.
const NAME: &str = "isar-tarball";

/// How long an archive is read for the names of its members.
const PATIENCE: Duration = Duration::from_secs(2);

/// Print the completion script of a shell
///
/// The script completes options, values, paths and the members of archives.
///
/// Example: isar-tarball completions bash > /etc/bash_completion.d/isar-tarball
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<Status> {
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).context("unknown shell")?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    let mut script = String::from_utf8(script)?;
    match args.shell {
        // bash quotes what it inserts only if it takes it for the name of a file.
        clap_complete::Shell::Bash => {
            script = script.replace("complete -o nospace", "complete -o filenames -o nospace");
        }
        clap_complete::Shell::Zsh => script.push_str(ZSH_AUTOLOAD),
        _ => {}
    }
    report::result(&script)?;
    Ok(Status::Done)
}

/// zsh takes the file for the body of the function `_isar-tarball` and runs it at the first
/// completion, which must complete as well.
const ZSH_AUTOLOAD: &str = "\
if [[ \"${funcstack[1]-}\" == _isar-tarball ]]; then
    _clap_dynamic_completer_isar_tarball \"$@\"
fi
";

/// Answers a shell that asks for completions. False if this is an ordinary run.
pub fn answer() -> Result<bool, clap::Error> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(false);
    }
    let directory = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), directory.as_deref())
}

/// The words of a line that is completed; the first one is the program.
fn line() -> Option<ArgMatches> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let line = Cli::command().ignore_errors(true);
    let (_, matches) = line.try_get_matches_from(words).ok()?.remove_subcommand()?;
    Some(matches)
}

/// The members that begin with `current`, of the archive or tree that the line names as `source`.
fn members_of(source: &str, current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(matches) = line() else {
        return Vec::new();
    };
    match matches.try_get_one::<PathBuf>(source) {
        Ok(Some(path)) if path.is_dir() => PathCompleter::any().current_dir(path).complete(current),
        Ok(Some(path)) if path.is_file() => names(path, current.as_bytes())
            .into_iter()
            .map(|name| CompletionCandidate::new(OsString::from_vec(name)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Completes the value of --userns; the names of users are not listed.
pub fn user_namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = ["auto", "off"].into_iter();
    names
        .filter(|name| name.as_bytes().starts_with(current.as_bytes()))
        .map(CompletionCandidate::new)
        .collect()
}

/// Completes MEMBER, of ARCHIVE.
pub fn members(current: &OsStr) -> Vec<CompletionCandidate> {
    members_of("archive", current)
}

/// Completes MEMBER, of ROOTFS, and DEST.
pub fn members_and_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = members_of("rootfs", current);
    found.extend(PathCompleter::any().complete(current));
    found
}

/// Stops the reading of an archive.
struct Stop;

impl From<isar_tarball::Error> for Stop {
    fn from(_: isar_tarball::Error) -> Stop {
        Stop
    }
}

/// True for a byte that no shell treats specially: bash puts a completed name on the command line as
/// it is, and the archive may be anyone's.
fn is_harmless(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-+,@%:=~".contains(byte) || !byte.is_ascii()
}

/// Names in an archive that begin with `current`, up to the next `/`.
fn names(archive: &Path, current: &[u8]) -> BTreeSet<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let dot: &[u8] = match current.starts_with(b"./") {
        true => b"./",
        false => b"",
    };
    let mut found = BTreeSet::new();
    // What was found before an error is right as well.
    let _ = List::new(archive.to_owned()).run(|member| -> Result<(), Stop> {
        let directory: &[u8] = match member.entry.kind {
            isar_tarball::Kind::Directory => b"/",
            _ => b"",
        };
        let name = [dot, &member.clean_path(), directory].concat();
        if let Some(rest) = name.strip_prefix(current)
            && name.iter().all(is_harmless)
        {
            let more = rest.iter().position(|byte| *byte == b'/');
            let length = more.map_or(name.len(), |at| current.len() + at + 1);
            found.insert(name.get(..length).unwrap_or_default().to_owned());
        }
        match Instant::now() < end {
            true => Ok(()),
            false => Err(Stop),
        }
    });
    found.remove(dot);
    found.remove(&b"/"[..]);
    found.remove(&b".//"[..]);
    found
}
