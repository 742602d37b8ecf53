//! The arithmetic of id maps (see user_namespaces(7)).
//!
//! With N subordinate ids `s[0]..s[N-1]` (those that [`usable`](super::usable::usable) gives, in order):
//!
//! | layout | N ≥ 65535 | 3 ≤ N < 65535 | N = 2 | N = 1 |
//! |---|---|---|---|---|
//! | subid | 0..N ↔ `s[0..N]` | 0..N-2 ↔ `s[0..N-2]`, 65534 ↔ `s[N-2]` (`s[N-1]` stays unused) | 0..2 ↔ `s[0..2]` | 0 ↔ `s[0]` |
//! | caller | 0 ↔ caller, 1..N ↔ `s[1..N]` | 0 ↔ caller, 1..N-1 ↔ `s[1..N-1]`, 65534 ↔ `s[N-1]` | 0 ↔ caller, 65534 ↔ `s[1]` | 0 ↔ caller |
//!
//! Ends are exclusive. N = 0 is an error in both. In layout `caller`, `s[0]` is unused, so that 1..
//! are the same ids on disk in both layouts.

use super::usable::{Unusable, clip, usable};
use super::{IdKind, Range, subid};

/// nobody and nogroup of Debian.
pub const NOBODY: u32 = 65534;
/// (uid_t)-1 means "no change" in chown(2) and is not an id.
const NO_ID: u32 = u32::MAX;
/// The kernel's `UID_GID_MAP_MAX_EXTENTS` since Linux 4.15.
const MAX_EXTENTS: usize = 340;
/// A map must be written in one write of less than a page; this is the smallest page size of Linux.
const MAX_TEXT: usize = 4095;

/// The id layout of a tree: how its ids are stored on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Id 0 is the first subordinate id.
    Subid,
    /// Id 0 is the user itself.
    Caller,
}

/// Consecutive ids inside and outside: `inner + i` ↔ `outer + i` for `i` in `0..count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first id inside the namespace.
    pub inner: u32,
    /// The first id outside.
    pub outer: u32,
    /// Number of ids, never 0.
    pub count: u32,
}

/// A map that the kernel accepts: 1 to 340 extents, ascending and disjoint inside, disjoint
/// outside, without the id 2^32-1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    extents: Vec<Extent>,
}

/// The maps of one user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// The map of uids.
    pub uids: IdMap,
    /// The map of gids.
    pub gids: IdMap,
}

/// A reason why a map cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The map is empty.
    #[error("there are none")]
    NoIds,
    /// The user has no ranges, or none that can be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The surrounding user namespace does not map the user's own id, which layout `caller` needs.
    #[error("this process runs in a user namespace that does not map {0}, the user's own id")]
    CallerNotOffered(u32),
    /// More extents than the kernel accepts.
    #[error(
        "they lie in so many pieces ({0}) that the kernel takes no map of them: join neighbouring ranges"
    )]
    TooManyExtents(usize),
    /// The map is malformed: out of order, overlapping, empty, or with the id 2^32-1.
    #[error("line {0} of the id map is malformed")]
    Malformed(usize),
}

impl IdMap {
    /// Checks the invariants of the type and returns the map of `extents`. `Malformed` counts the
    /// extents from 1.
    pub fn from_extents(mut extents: Vec<Extent>) -> Result<IdMap, MapError> {
        extents.sort_by_key(|extent| extent.inner);
        if extents.is_empty() {
            return Err(MapError::NoIds);
        }
        for (index, extent) in extents.iter().enumerate() {
            let in_bounds =
                |first: u32| u64::from(first) + u64::from(extent.count) <= u64::from(NO_ID);
            let meets_earlier = |earlier: &Extent| {
                extent.inner_range().overlaps(earlier.inner_range())
                    || extent.outer_range().overlaps(earlier.outer_range())
            };
            let earlier = extents.get(..index).unwrap_or_default();
            if extent.count == 0
                || !in_bounds(extent.inner)
                || !in_bounds(extent.outer)
                || earlier.iter().any(meets_earlier)
            {
                return Err(MapError::Malformed(index + 1));
            }
        }
        let map = IdMap { extents };
        if map.extents.len() > MAX_EXTENTS || map.kernel_text().len() > MAX_TEXT {
            return Err(MapError::TooManyExtents(map.extents.len()));
        }
        Ok(map)
    }

    /// Parses `/proc/PID/uid_map` or `gid_map`: lines of first id inside, first id outside, count.
    /// The file is empty before a map is set: `NoIds`.
    pub fn parse(text: &[u8]) -> Result<IdMap, MapError> {
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty());
        let extents = lines
            .enumerate()
            .map(|(index, line)| parse_extent(line).ok_or(MapError::Malformed(index + 1)));
        IdMap::from_extents(extents.collect::<Result<_, _>>()?)
    }

    /// Computes the map for a user with the id `own` and the subordinate `ranges`, in a process
    /// whose own namespace maps the inner ids of `offered`.
    pub fn build(
        layout: Layout,
        own: u32,
        ranges: &[Range],
        offered: &IdMap,
    ) -> Result<IdMap, MapError> {
        let available = usable(own, ranges, &offered.inner_ranges())?;
        let count: u64 = available.iter().map(|range| u64::from(range.count)).sum();
        let whole = count > u64::from(NOBODY);
        let mut extents = Vec::new();
        match layout {
            Layout::Subid if whole || count < 3 => lay(&available, 0, count, 0, &mut extents),
            Layout::Subid => {
                lay(&available, 0, count - 2, 0, &mut extents);
                lay(&available, count - 2, count - 1, NOBODY, &mut extents);
            }
            Layout::Caller => {
                if offered.to_outer(own).is_none() {
                    return Err(MapError::CallerNotOffered(own));
                }
                extents.push(Extent {
                    inner: 0,
                    outer: own,
                    count: 1,
                });
                let linear = if whole { count } else { count - 1 };
                lay(&available, 1, linear, 1, &mut extents);
                lay(&available, linear.max(1), count, NOBODY, &mut extents);
            }
        }
        IdMap::from_extents(extents)
    }

    /// Computes the map of all ids of a user: all subordinate ids in order from 0, then the user's
    /// own id. Namespace root with this map may remove files of every layout.
    pub fn whole(own: u32, ranges: &[Range], offered: &IdMap) -> Result<IdMap, MapError> {
        let available = usable(own, ranges, &offered.inner_ranges())?;
        let count: u64 = available.iter().map(|range| u64::from(range.count)).sum();
        let mut extents = Vec::new();
        lay(&available, 0, count, 0, &mut extents);
        if let (Ok(inner), Some(_)) = (u32::try_from(count), offered.to_outer(own)) {
            extents.push(Extent {
                inner,
                outer: own,
                count: 1,
            });
        }
        IdMap::from_extents(extents)
    }

    /// Maps every id of the namespace that `self` describes to itself, for working without a
    /// further namespace.
    pub fn identity(&self) -> IdMap {
        let same = |extent: &Extent| Extent {
            outer: extent.inner,
            ..*extent
        };
        IdMap {
            extents: self.extents.iter().map(same).collect(),
        }
    }

    /// The outer id of `inner`; `None` if it is not mapped.
    pub fn to_outer(&self, inner: u32) -> Option<u32> {
        let after = self.extents.partition_point(|extent| extent.inner <= inner);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let offset = inner - extent.inner;
        (offset < extent.count).then(|| extent.outer + offset)
    }

    /// The inner id of `outer`; `None` if it is not mapped.
    pub fn to_inner(&self, outer: u32) -> Option<u32> {
        let extent = self
            .extents
            .iter()
            .find(|extent| extent.outer_range().contains(outer))?;
        Some(extent.inner + (outer - extent.outer))
    }

    /// The ids inside.
    pub fn inner_ranges(&self) -> Vec<Range> {
        let each = self.extents.iter().map(|extent| extent.inner_range());
        each.collect()
    }

    /// True if every id of the range is mapped.
    pub fn maps_whole(&self, range: Range) -> bool {
        let mapped = clip(&[range], &self.inner_ranges());
        mapped.iter().map(|part| u64::from(part.count)).sum::<u64>() == u64::from(range.count)
    }

    /// True if this is the map of the initial user namespace, whose ids are those of the machine's
    /// accounts.
    pub fn is_of_machine(&self) -> bool {
        let all = Extent {
            inner: 0,
            outer: 0,
            count: NO_ID,
        };
        self.extents == [all]
    }

    /// The extents, ascending by inner id.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Number of mapped ids.
    pub fn count(&self) -> u32 {
        self.extents.iter().map(|extent| extent.count).sum()
    }

    /// The map in the form of `/proc/PID/uid_map`, one line per extent: first id inside, first id
    /// outside, count.
    pub fn kernel_text(&self) -> String {
        self.extents
            .iter()
            .map(|extent| format!("{} {} {}\n", extent.inner, extent.outer, extent.count))
            .collect()
    }
}

impl Extent {
    fn inner_range(self) -> Range {
        Range {
            base: self.inner,
            count: self.count,
        }
    }

    fn outer_range(self) -> Range {
        Range {
            base: self.outer,
            count: self.count,
        }
    }
}

impl IdMaps {
    /// The map of this kind.
    pub fn of(&self, kind: IdKind) -> &IdMap {
        match kind {
            IdKind::User => &self.uids,
            IdKind::Group => &self.gids,
        }
    }
}

fn parse_extent(line: &[u8]) -> Option<Extent> {
    let mut fields = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|field| !field.is_empty());
    let mut number = || subid::decimal(fields.next()?);
    let extent = Extent {
        inner: number()?,
        outer: number()?,
        count: number()?,
    };
    fields.next().is_none().then_some(extent)
}

/// Maps the ids at the positions `from..to` of the ranges one after the other to `inner`, `inner +
/// 1`, ….
fn lay(ranges: &[Range], from: u64, to: u64, inner: u32, extents: &mut Vec<Extent>) {
    let mut position = 0;
    for range in ranges {
        let wanted = (
            from.max(position),
            to.min(position + u64::from(range.count)),
        );
        if let Some(count) = wanted.1.checked_sub(wanted.0).filter(|count| *count > 0) {
            // All three are below 2^32, because ranges without overlap have fewer ids than that.
            extents.push(Extent {
                inner: inner + (wanted.0 - from) as u32,
                outer: range.base + (wanted.0 - position) as u32,
                count: count as u32,
            });
        }
        position += u64::from(range.count);
    }
}

#[cfg(test)]
mod tests;
