//! Which of a user's ranges a namespace uses. Pure.

use super::Range;

/// How the user of a container gets more ids.
pub const HOST_RANGE: &str = "on the host, give the user who starts the container a range of 131072 ids (at least 65536 more than the uid inside), run `podman system migrate` and start the container again";

/// A reason why no ids can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no range.
    #[error("there are none")]
    NoIds,
    /// The only range has root's own id, and no part that can be used.
    #[error(
        "the range {base}:{count} begins with 0, the id of root: give the user a range above all ordinary ids, such as 100000:65536; \
         where the entrypoint of a container writes this range at each start, as kas's does, change it after that",
        base = .0.base, count = .0.count
    )]
    BaseZero(Range),
    /// The only range has the user's own id, and no part that can be used.
    #[error("the range {base}:{count} contains {own}, the user's own id: give the user a range above all ordinary ids, such as 100000:65536", base = .range.base, count = .range.count)]
    OverlapsCaller {
        /// The range.
        range: Range,
        /// The id.
        own: u32,
    },
    /// The surrounding user namespace maps none of the ids.
    #[error(
        "this process runs in a user namespace, as containers have one, that maps none of them; its last id is {last}: {HOST_RANGE}"
    )]
    NotOffered {
        /// The last id that the surrounding namespace maps.
        last: u64,
    },
}

/// The first subordinate ids that useradd(8) assigns: `SUB_UID_MIN` and `SUB_UID_COUNT` of
/// login.defs(5).
const NEW_USER: Range = Range {
    base: 100_000,
    count: 65536,
};

/// The ids that a namespace of the user uses, disjoint: those of `ranges` that the surrounding
/// namespace maps, which are `offered`.
///
/// A range that contains 0 or the user's own id spans the ids of people and services, and is left
/// out. If there is no other, its part in [`NEW_USER`] is used, unless the user's own id is there.
pub fn usable(own: u32, ranges: &[Range], offered: &[Range]) -> Result<Vec<Range>, Unusable> {
    let is_ordinary = |range: &Range| range.contains(0) || range.contains(own);
    let (ordinary, apart): (Vec<Range>, Vec<Range>) =
        ranges.iter().partition(|range| is_ordinary(range));
    let above: Vec<Range> = ordinary
        .iter()
        .filter_map(|range| intersection(*range, NEW_USER))
        .filter(|part| !part.contains(own))
        .collect();
    for candidates in [apart, above] {
        let available = clip(&disjoint(&candidates), offered);
        if !available.is_empty() {
            return Ok(available);
        }
    }
    Err(match ordinary.first() {
        Some(range) if range.contains(0) => Unusable::BaseZero(*range),
        Some(range) => Unusable::OverlapsCaller { range: *range, own },
        None if ranges.is_empty() => Unusable::NoIds,
        None => Unusable::NotOffered {
            last: offered
                .iter()
                .map(|range| range.end() - 1)
                .max()
                .unwrap_or(0),
        },
    })
}

/// The same ids without repetition, in order: a range within another one goes, and of two that
/// overlap the second loses the common part. newuidmap allows all ids of the union.
pub(super) fn disjoint(ranges: &[Range]) -> Vec<Range> {
    let is_nested = |index: usize, range: &Range| {
        ranges.iter().enumerate().any(|(other_index, other)| {
            let is_within = other.base <= range.base && range.end() <= other.end();
            is_within && (other != range || other_index < index)
        })
    };
    let outer: Vec<Range> = (ranges.iter().enumerate())
        .filter(|(index, range)| !is_nested(*index, range))
        .map(|(_, range)| *range)
        .collect();
    let without_earlier = |(index, range): (usize, &Range)| {
        let earlier = outer.get(..index).unwrap_or_default();
        // None of them lies within this one, so each takes an end of it.
        let overlapping = || earlier.iter().filter(|other| other.overlaps(*range));
        let base = overlapping()
            .filter(|other| other.base <= range.base)
            .map(|other| other.end())
            .fold(range.base.into(), u64::max);
        let end = overlapping()
            .filter(|other| other.base > range.base)
            .map(|other| other.base.into())
            .fold(range.end(), u64::min);
        let count = end.checked_sub(base).filter(|count| *count > 0)?;
        Some(Range {
            base: u32::try_from(base).ok()?,
            count: u32::try_from(count).ok()?,
        })
    };
    outer
        .iter()
        .enumerate()
        .filter_map(without_earlier)
        .collect()
}

/// The intersection of `ranges` and `offered`, in the order of the ranges.
pub(super) fn clip(ranges: &[Range], offered: &[Range]) -> Vec<Range> {
    let of_one = |range: &Range| {
        let range = *range;
        let parts = offered
            .iter()
            .filter_map(move |offer| intersection(range, *offer));
        parts.collect::<Vec<_>>()
    };
    ranges.iter().flat_map(of_one).collect()
}

fn intersection(one: Range, other: Range) -> Option<Range> {
    let base = one.base.max(other.base);
    let end = one.end().min(other.end());
    let count = end
        .checked_sub(u64::from(base))
        .filter(|count| *count > 0)?;
    Some(Range {
        base,
        count: u32::try_from(count).ok()?,
    })
}
