//! `isar-tarball check`.

use std::fmt::Write as _;
use std::path::PathBuf;

use isar_tarball::{Check, CheckReport, Escaped, Loader, Rule};
use serde_json::{Value, json};

use super::Globals;
use super::observer::Terminal;
use super::progress;
use super::report::{self, Status};
use super::session::archive;
use super::values::size;

/// Check whether sbuild loads an archive
///
/// Would sbuild 0.85 (bookworm) and 0.89 (trixie and newer) make of the tarball the tree that it
/// holds? Is it whole, and is there nothing in it that `unpack` refuses? Prints one line for
/// everything that is found: the rule, the member, and what would happen.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball check schroot.tar.zst", after_long_help = details())]
pub struct Args {
    /// The tarball, or - for stdin; plain, or compressed with zstd, gzip or xz
    archive: PathBuf,
    /// Loader that decides the exit status
    #[arg(long, value_enum, value_name = "0.85|0.89|all", default_value = "all")]
    loader: Which,
    /// Threads that decompress: 0 = one per CPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Limit of memory. Half of it is for decompressed data, the other half for the names of members;
    /// the default is enough for four million members
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

\"Safe to unpack\" means that unpack accepts it without options, with 65536 subordinate ids.

Exit status: 0 when the loaders of --loader load it, it is whole and safe to unpack; 1 when not; 2 when it cannot be checked.

JSON: {\"loads\": {\"sbuild-0.85\": BOOL, \"sbuild-0.89\": BOOL}, \"intact\": BOOL, \"safe\": BOOL,
       \"findings\": [{\"rule\": NAME, \"member\": NAME or null, \"loaders\": [NAME, …], \"effect\": TEXT}, …]}
A rule that is broken very often is listed 20 times, and once more with member null and the number of the others as effect.

Rules (and the loaders that the archive fails with):
",
    );
    for rule in Rule::ALL {
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
    let check = Check {
        threads: args.threads,
        memory: args.memory,
        ..Check::new(archive(&args.archive))
    };
    isar_tarball::report_stop(|error| {
        progress::end_line();
        report::say(&error.to_string());
    })?;
    let report = check.run(&mut Terminal::new(globals))?;
    let text = match args.json {
        true => format!("{:#}\n", as_json(&report)),
        false => for_people(&report, &args, globals),
    };
    report::result(&text)?;
    let loads = args
        .loader
        .loaders()
        .iter()
        .all(|loader| report.loads(*loader));
    Ok(match loads && report.intact && report.safe {
        true => Status::Done,
        false => Status::No,
    })
}

fn for_people(report: &CheckReport, args: &Args, globals: &Globals) -> String {
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
    let name = if args.archive.as_os_str() == "-" {
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

fn as_json(report: &CheckReport) -> Value {
    let finding = |rule: &'static Rule, member: Option<String>, effect: String| {
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
