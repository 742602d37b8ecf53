//! The subordinate ids of the user: enough of them, and mapped here.

use super::{Finding, Machine, State};
use crate::ids::map::NOBODY;
use crate::ids::subid_files::Ranges;
use crate::ids::usable::HOST_RANGE;
use crate::ids::{Account, IdKind, IdMaps, Range, SourceError};

/// Number of ids that a Debian system uses: up to 65535, the one after nobody.
const ENOUGH: u64 = 65536;

/// A kind of ids with what was found about it.
struct Found<'a> {
    account: &'a Account,
    kind: IdKind,
    configured: &'a [Range],
    /// The ids that are used.
    usable: Vec<Range>,
    /// 65536 ids that the user could get; `None` in a container that has none.
    free: Option<Range>,
}

pub fn check(machine: &Machine, account: &Account) -> Vec<Finding> {
    match look_up(machine, account) {
        Ok(findings) => findings,
        Err(error) => vec![Finding::of_message(
            "subordinate-ids",
            &error.to_string(),
            "see subuid(5)",
        )],
    }
}

fn look_up(machine: &Machine, account: &Account) -> Result<Vec<Finding>, SourceError> {
    let source = &machine.source;
    let ranges = source.ranges(account)?;
    let maps = source.maps(machine.layout, account, &ranges)?;
    let mut findings = Vec::new();
    for (name, kind) in [
        ("subordinate-uids", IdKind::User),
        ("subordinate-gids", IdKind::Group),
    ] {
        let found = Found {
            account,
            kind,
            configured: ranges.of(kind),
            usable: source.usable(kind, account, &ranges)?,
            free: source.free(),
        };
        findings.push(found.finding(name, ranges.service.as_deref()));
    }
    findings.extend(skipped_lines(&ranges));
    findings.extend(nobody(account, &maps));
    Ok(findings)
}

impl Found<'_> {
    fn finding(&self, name: &'static str, service: Option<&str>) -> Finding {
        let account = self.account;
        let origin = service.map_or_else(String::new, |name| format!(" from the service {name}"));
        let has = format!("{account} has {}{origin}", list(self.configured));
        let is_mapped_partly = count(&self.usable) < count(self.configured);
        let found = match is_mapped_partly {
            false => has,
            true => format!("{has}, of which {} can be used here", list(&self.usable)),
        };
        if count(&self.usable) < ENOUGH {
            let found = format!(
                "{found}: fewer than {ENOUGH}, so sbuild and mmdebstrap have no nobody and nogroup"
            );
            return Finding::bad(name, State::Fault, found, self.more(service));
        }
        let own = account.own_id(self.kind);
        let spans_ordinary =
            |range: &&Range| range.contains(0) || range.contains(own) && range.count > 1;
        match self.configured.iter().find(spans_ordinary) {
            None => Finding::good(name, found),
            Some(range) => Finding::bad(
                name,
                State::Worse,
                format!(
                    "{found}: {}:{} has the ids of people and services, which sbuild and mmdebstrap use nonetheless",
                    range.base, range.count
                ),
                format!(
                    "write {account}:100000:65536 in its place; where the entrypoint of a container writes it at each start, as kas's does, after that"
                ),
            ),
        }
    }

    /// How the user gets enough ids.
    fn more(&self, service: Option<&str>) -> String {
        let (account, kind) = (self.account, self.kind);
        match (service, self.free) {
            (Some(service), _) => {
                format!("give {account} {ENOUGH} {kind} ids in the service {service}")
            }
            (None, None) => HOST_RANGE.to_owned(),
            (None, Some(free)) => format!(
                "as root, give {account} {ENOUGH} {kind} ids: `usermod --add-sub{}s {}-{} {account}`",
                kind.short(),
                free.base,
                free.end() - 1
            ),
        }
    }
}

fn skipped_lines(ranges: &Ranges) -> impl Iterator<Item = Finding> {
    ranges.passed_over.iter().map(|line| {
        Finding::bad(
            "subordinate-ids",
            State::Worse,
            line.to_string(),
            "correct the line",
        )
    })
}

fn nobody(account: &Account, maps: &IdMaps) -> Vec<Finding> {
    let lacking = [IdKind::User, IdKind::Group]
        .into_iter()
        .filter(|kind| maps.of(*kind).to_outer(NOBODY).is_none());
    let mut findings: Vec<Finding> = lacking
        .map(|kind| {
            Finding::bad(
                "nobody",
                State::Fault,
                format!("the map of {kind} ids has no {NOBODY}"),
                format!("give {account} at least 3 subordinate {kind} ids that are offered here"),
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::good("nobody", format!("{NOBODY} is mapped")));
    }
    findings
}

fn list(ranges: &[Range]) -> String {
    let each = ranges
        .iter()
        .map(|Range { base, count }| format!("{base}:{count}"));
    each.collect::<Vec<_>>().join(", ")
}

fn count(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}
