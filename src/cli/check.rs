//! `isar-tarball check`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::pack::Progress;
use isar_tarball::sbuild::check::{self, Options, Report};
use isar_tarball::sbuild::rules::{self, Loader};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Value, json};

use super::report::{self, Status};
use super::values::{size, threads};
use super::{Globals, progress};

/// Say whether sbuild loads a tarball
///
/// Would sbuild 0.85 (bookworm) and 0.89 (trixie and newer) make of the tarball the tree that it
/// holds? Is it whole, and is there nothing in it that `unpack` refuses? Prints one line for
/// everything that is found: the rule, the member, and what would happen.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball check schroot.tar.zst", after_long_help = details())]
pub struct Args {
    /// The tarball, or - for stdin; plain, or compressed with zstd, gzip or xz
    archive: PathBuf,
    /// Whose word decides the exit status
    #[arg(long, value_enum, value_name = "0.85|0.89|all", default_value = "all")]
    loader: Which,
    /// Threads that decompress: one a processor (0), or fewer
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Decompress in this much memory
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "512M")]
    memory: u64,
    /// Print the answers and findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    #[value(name = "0.85")]
    V0_85,
    #[value(name = "0.89")]
    V0_89,
    All,
}

impl Which {
    fn loaders(self) -> &'static [Loader] {
        match self {
            Which::V0_85 => &[Loader::V0_85],
            Which::V0_89 => &[Loader::V0_89],
            Which::All => &[Loader::V0_85, Loader::V0_89],
        }
    }
}

/// The rules, for those who want to know what is looked for.
fn details() -> String {
    let mut text = String::from(
        "\
Example: isar-tarball check schroot.tar.zst

Exit status: 0 when the loaders of --loader load it, it is whole and safe to unpack; 1 when not; 2 when it cannot be checked.

JSON: {\"loads\": {\"sbuild-0.85\": BOOL, \"sbuild-0.89\": BOOL}, \"intact\": BOOL, \"safe\": BOOL,
       \"findings\": [{\"rule\": NAME, \"member\": NAME or null, \"loaders\": [NAME, …], \"effect\": TEXT}, …]}
A rule that is broken very often is listed 20 times, and once more with member null and the number of the others as effect.

Rules (and the loaders that the archive fails with):
",
    );
    for rule in rules::ALL {
        let loaders: Vec<_> = rule.loaders.iter().map(|loader| number(*loader)).collect();
        let loaders = if loaders.is_empty() {
            String::from("none")
        } else {
            loaders.join(", ")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} ({loaders})\n      {}", rule.name, rule.cause);
    }
    text
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let report =
        check(&args, globals).with_context(|| format!("cannot check {:?}", args.archive))?;
    let text = if args.json {
        format!("{:#}\n", as_json(&report))
    } else {
        for_people(&report, &args, globals)
    };
    report::result(&text)?;
    let loads = args
        .loader
        .loaders()
        .iter()
        .all(|loader| report.loads(*loader));
    Ok(if loads && report.intact && report.safe {
        Status::Done
    } else {
        Status::No
    })
}

fn check(args: &Args, globals: &Globals) -> anyhow::Result<Report> {
    let (file, name) = if is_stdin(args) {
        (stdin()?, None)
    } else {
        open(&args.archive)?
    };
    let progress = Arc::new(Progress::default());
    let _shown = progress::Shown::begin(globals.progress, globals.quiet, Arc::clone(&progress));
    let options = Options {
        threads: threads(args.threads),
        memory: args.memory,
    };
    Ok(check::check_watched(
        &file,
        name.as_deref(),
        &options,
        |done, total| {
            progress.total.store(total, Ordering::Relaxed);
            progress.done.store(done, Ordering::Relaxed);
        },
    )?)
}

fn is_stdin(args: &Args) -> bool {
    args.archive.as_os_str() == "-"
}

/// The archive, and the name that sbuild sees: it follows symbolic links first.
fn open(path: &Path) -> anyhow::Result<(File, Option<Vec<u8>>)> {
    let failed = |error: io::Error| anyhow!("open: {}", describe(&error));
    let file = File::open(path).map_err(failed)?;
    let name = fs::canonicalize(path).map_err(failed)?;
    let name = name.file_name().map(|name| name.as_bytes().to_vec());
    if file.metadata().map_err(failed)?.is_file() {
        Ok((file, name))
    } else {
        Ok((spooled(file)?, name))
    }
}

fn stdin() -> anyhow::Result<File> {
    let file = File::from(
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("open stdin once more")?,
    );
    let mut position = &file;
    // What a shell has read of a file is no part of the archive.
    let is_whole = file.metadata().context("read")?.is_file()
        && position.stream_position().is_ok_and(|at| at == 0);
    if is_whole { Ok(file) } else { spooled(file) }
}

/// What comes out of a pipe, in a file without a name: the frames of an archive are found by its
/// end as well as by its beginning.
fn spooled(mut pipe: File) -> anyhow::Result<File> {
    if pipe.metadata().is_ok_and(|about| about.is_dir()) {
        return Err(anyhow!("it is a directory, not an archive"));
    }
    let place = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(CWD, &place, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.map_err(|error| {
        anyhow!(
            "make a temporary file in {place:?}: {}; set TMPDIR to another directory",
            describe(&error.into())
        )
    })?);
    io::copy(&mut pipe, &mut file)
        .map_err(|error| anyhow!("copy it to {place:?}: {}", describe(&error)))?;
    Ok(file)
}

fn for_people(report: &Report, args: &Args, globals: &Globals) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let loaders: Vec<_> = finding
            .rule
            .loaders
            .iter()
            .map(|loader| number(*loader))
            .collect();
        let loaders = if loaders.is_empty() {
            String::new()
        } else {
            format!(" [sbuild {}]", loaders.join(", "))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{finding}{loaders}");
    }
    for (rule, more) in &report.left_out {
        let _ = writeln!(text, "{rule}: and {more} more");
    }
    if globals.quiet {
        return text;
    }
    let name = if is_stdin(args) {
        String::from("stdin")
    } else {
        format!("{:?}", args.archive)
    };
    let loads = |loader| {
        if report.loads(loader) {
            "loads it"
        } else {
            "does not load it"
        }
    };
    let not = |yes: bool| if yes { "" } else { "not " };
    let _ = writeln!(
        text,
        "{name}: sbuild 0.85 {}, sbuild 0.89 {}; it is {}intact and {}safe to unpack",
        loads(Loader::V0_85),
        loads(Loader::V0_89),
        not(report.intact),
        not(report.safe),
    );
    text
}

fn number(loader: Loader) -> &'static str {
    match loader {
        Loader::V0_85 => "0.85",
        Loader::V0_89 => "0.89",
    }
}

fn as_json(report: &Report) -> Value {
    let finding = |rule: &'static rules::Rule, member: Option<String>, effect: String| {
        let loaders: Vec<_> = rule.loaders.iter().map(|loader| loader.name()).collect();
        json!({"rule": rule.name, "member": member, "loaders": loaders, "effect": effect})
    };
    let kept = report.findings.iter().map(|found| {
        finding(
            found.rule,
            found
                .member
                .as_ref()
                .map(|member| Escaped(member).to_string()),
            found.effect(),
        )
    });
    let left_out = report
        .left_out
        .iter()
        .map(|(rule, more)| finding(rule, None, format!("and {more} more")));
    json!({
        "loads": {
            Loader::V0_85.name(): report.loads_0_85,
            Loader::V0_89.name(): report.loads_0_89,
        },
        "intact": report.intact,
        "safe": report.safe,
        "findings": kept.chain(left_out).collect::<Vec<_>>(),
    })
}
