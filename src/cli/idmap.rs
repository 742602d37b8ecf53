//! `isar-tarball idmap`.

use clap::ValueEnum;
use isar_tarball::{IdExtent, IdKind, IdMap, IdMapping, IdMaps, Idmap, Range};
use serde_json::{Value, json};

use super::Globals;
use super::observer::Terminal;
use super::report::{self, Status};

/// Show the map between the ids of a tree and those on disk
///
/// It is the map that the other commands use with the same --userns and --id-layout.
/// Where they work without a namespace (as root, or with --userns off), every id is itself.
#[derive(clap::Args)]
#[command(after_long_help = DETAILS)]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print it as JSON (the same as --format json)
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

const DETAILS: &str = "\
Formats:
  table      for people
  json       {\"namespace\": BOOL, \"user\": NAME or null, \"uid\": NUMBER or null,
             \"layout\": \"subid\"|\"caller\" or null, \"uids\": MAP, \"gids\": MAP};
             a MAP is [{\"inside\": FIRST, \"outside\": FIRST, \"count\": NUMBER}, …];
             without a namespace \"user\", \"uid\" and \"layout\" are null
  newuidmap  what newuidmap takes after the process id, and on a second line newgidmap
  unshare    options for unshare(1) of util-linux 2.38 or newer; a map of more than one range, as
             with --id-layout caller, needs 2.39
  shell      assignments for eval:
             ISAR_ROOT_UID, ISAR_ROOT_GID          id 0 of the tree on disk
             ISAR_SUBUID_BASE, ISAR_SUBGID_BASE    the first subordinate id that is used
             ISAR_SUBUID_COUNT, ISAR_SUBGID_COUNT  how many ids are mapped
             ISAR_UID_MAP, ISAR_GID_MAP            the lines of newuidmap and newgidmap";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
    Newuidmap,
    Unshare,
    Shell,
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let idmap = Idmap {
        session: globals.session(),
    };
    let mapping = idmap.run(&mut Terminal::new(globals))?;
    let maps = &mapping.maps;
    if mapping.account.is_none() && !globals.quiet {
        report::say("no user namespace is used here: every id is itself");
    }
    let text = match if args.json { Format::Json } else { args.format } {
        Format::Table => table(maps),
        Format::Json => format!("{:#}\n", json(&mapping, globals)),
        Format::Newuidmap => format!("{}\n{}\n", arguments(&maps.uids), arguments(&maps.gids)),
        Format::Unshare => unshare(maps),
        Format::Shell => shell(&mapping),
    };
    report::result(&text)?;
    Ok(Status::Done)
}

fn table(maps: &IdMaps) -> String {
    let span = |first: u32, count: u32| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", u64::from(first) + u64::from(count) - 1),
    };
    let row = |kind: &str, extent: &IdExtent| {
        [
            kind.to_owned(),
            span(extent.inner, extent.count),
            span(extent.outer, extent.count),
            extent.count.to_string(),
        ]
    };
    let mut rows = vec![["ids", "inside", "outside", "count"].map(str::to_owned)];
    for kind in [IdKind::User, IdKind::Group] {
        rows.extend(
            maps.of(kind)
                .extents()
                .iter()
                .map(|extent| row(kind.short(), extent)),
        );
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths = [1, 2, 3].map(width);
    let line = |[kind, inside, outside, count]: &[String; 4]| {
        let [a, b, c] = widths;
        format!("{kind}  {inside:>a$}  {outside:>b$}  {count:>c$}\n")
    };
    rows.iter().map(line).collect()
}

fn json(mapping: &IdMapping, globals: &Globals) -> Value {
    let layout = globals
        .id_layout
        .to_possible_value()
        .map(|value| value.get_name().to_owned());
    let account = mapping.account.as_ref();
    json!({
        "namespace": account.is_some(),
        "user": account.and_then(|account| account.name.clone()),
        "uid": account.map(|account| account.uid),
        "layout": account.and(layout),
        "uids": extents(&mapping.maps.uids),
        "gids": extents(&mapping.maps.gids),
    })
}

fn extents(map: &IdMap) -> Vec<Value> {
    let value = |extent: &IdExtent| json!({"inside": extent.inner, "outside": extent.outer, "count": extent.count});
    map.extents().iter().map(value).collect()
}

fn arguments(map: &IdMap) -> String {
    map.kernel_text().trim_end().replace('\n', " ")
}

fn unshare(maps: &IdMaps) -> String {
    let options = |option: &str, map: &IdMap| {
        let each = |IdExtent {
                        inner,
                        outer,
                        count,
                    }: &IdExtent| match map.extents() {
            // util-linux 2.38 knows only this form, and takes it once.
            [_] => format!(" --map-{option} {outer},{inner},{count}"),
            _ => format!(" --map-{option} {inner}:{outer}:{count}"),
        };
        map.extents().iter().map(each).collect::<String>()
    };
    let (users, groups) = (options("users", &maps.uids), options("groups", &maps.gids));
    format!("--user --mount{users}{groups} --setuid 0 --setgid 0\n")
}

fn shell(mapping: &IdMapping) -> String {
    let users = assignments(IdKind::User, &mapping.uid_ranges, &mapping.maps.uids);
    users + &assignments(IdKind::Group, &mapping.gid_ranges, &mapping.maps.gids)
}

fn assignments(kind: IdKind, ranges: &[Range], map: &IdMap) -> String {
    let name = kind.short().to_uppercase();
    let root = map.to_outer(0).unwrap_or_default();
    let base = ranges.first().map_or(root, |range| range.base);
    format!(
        "ISAR_ROOT_{name}={root}\nISAR_SUB{name}_BASE={base}\nISAR_SUB{name}_COUNT={}\nISAR_{name}_MAP='{}'\n",
        map.count(),
        arguments(map)
    )
}
