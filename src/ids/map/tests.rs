#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::ids::usable::{Unusable, disjoint};

const BASE: u32 = 100_000;
const OWN: u32 = 1000;

/// The map of the initial user namespace.
fn everything() -> IdMap {
    IdMap::parse(b"         0          0 4294967295\n").unwrap()
}

fn range(base: u32, count: u32) -> Range {
    Range { base, count }
}

fn build(layout: Layout, ranges: &[Range]) -> Result<IdMap, MapError> {
    IdMap::build(layout, OWN, ranges, &everything())
}

fn text(map: &IdMap) -> String {
    map.kernel_text().trim_end().replace('\n', ", ")
}

#[test]
fn one_range_is_laid_out_by_its_size() {
    let cases = [
        (Layout::Subid, 1, "0 100000 1"),
        (Layout::Subid, 2, "0 100000 2"),
        (Layout::Subid, 3, "0 100000 1, 65534 100001 1"),
        (Layout::Subid, 1000, "0 100000 998, 65534 100998 1"),
        (Layout::Subid, 65534, "0 100000 65532, 65534 165532 1"),
        (Layout::Subid, 65535, "0 100000 65535"),
        (Layout::Subid, 65536, "0 100000 65536"),
        (Layout::Subid, 65537, "0 100000 65537"),
        (Layout::Caller, 1, "0 1000 1"),
        (Layout::Caller, 2, "0 1000 1, 65534 100001 1"),
        (Layout::Caller, 3, "0 1000 1, 1 100001 1, 65534 100002 1"),
        (
            Layout::Caller,
            1000,
            "0 1000 1, 1 100001 998, 65534 100999 1",
        ),
        (
            Layout::Caller,
            65534,
            "0 1000 1, 1 100001 65532, 65534 165533 1",
        ),
        (Layout::Caller, 65535, "0 1000 1, 1 100001 65534"),
        (Layout::Caller, 65536, "0 1000 1, 1 100001 65535"),
        (Layout::Caller, 65537, "0 1000 1, 1 100001 65536"),
    ];
    for (layout, count, expected) in cases {
        assert_eq!(
            text(&build(layout, &[range(BASE, count)]).unwrap()),
            expected,
            "{layout:?} {count}"
        );
    }
}

#[test]
fn the_last_id_of_all_is_never_mapped() {
    let map = IdMap::build(Layout::Subid, 0, &[range(1, u32::MAX)], &everything()).unwrap();
    assert_eq!(text(&map), "0 1 4294967294");
    assert_eq!(map.to_inner(u32::MAX), None);
    assert_eq!(
        build(Layout::Subid, &[range(u32::MAX, 1)]),
        Err(Unusable::NotOffered {
            last: u64::from(u32::MAX) - 1
        }
        .into())
    );
}

#[test]
fn several_ranges_follow_one_another_in_file_order() {
    let ranges = [range(300_000, 60_000), range(100_000, 5_535)];
    assert_eq!(
        text(&build(Layout::Subid, &ranges).unwrap()),
        "0 300000 60000, 60000 100000 5535"
    );
    assert_eq!(
        text(&build(Layout::Caller, &ranges).unwrap()),
        "0 1000 1, 1 300001 59999, 60000 100000 5535"
    );
    let small = [range(300_000, 10), range(100_000, 1), range(200_000, 1)];
    assert_eq!(
        text(&build(Layout::Subid, &small).unwrap()),
        "0 300000 10, 65534 100000 1"
    );
    assert_eq!(
        text(&build(Layout::Caller, &small).unwrap()),
        "0 1000 1, 1 300001 9, 10 100000 1, 65534 200000 1"
    );
}

#[test]
fn ids_that_the_surrounding_namespace_lacks_are_cut_out() {
    let offered = IdMap::parse(b"0 1000 1\n1 100000 65535\n").unwrap();
    let clipped = |ranges: &[Range]| IdMap::build(Layout::Subid, 0, ranges, &offered);
    assert_eq!(
        text(&clipped(&[range(60_000, 65_536)]).unwrap()),
        "0 60000 5534, 65534 65534 1"
    );
    assert_eq!(
        text(&clipped(&[range(100_000, 65_536), range(5, 2)]).unwrap()),
        "0 5 2"
    );
    let error = clipped(&[range(100_000, 65_536)]).unwrap_err();
    assert_eq!(error, Unusable::NotOffered { last: 65535 }.into());
    let remedy = error.to_string();
    assert!(
        remedy.contains("its last id is 65535: on the host")
            && remedy.contains("podman system migrate"),
        "{remedy}"
    );
    assert_eq!(
        IdMap::build(Layout::Caller, 70_000, &[range(5, 5)], &offered),
        Err(MapError::CallerNotOffered(70_000))
    );
}

#[test]
fn dangerous_and_empty_ranges_are_refused_by_name() {
    let cases = [
        (vec![], Unusable::NoIds),
        (vec![range(0, 65_536)], Unusable::BaseZero(range(0, 65_536))),
        (
            vec![range(1, 1000)],
            Unusable::OverlapsCaller {
                range: range(1, 1000),
                own: OWN,
            },
        ),
        (
            vec![range(OWN, 1)],
            Unusable::OverlapsCaller {
                range: range(OWN, 1),
                own: OWN,
            },
        ),
        (
            vec![range(0, 4_294_967_295), range(OWN, 1)],
            Unusable::BaseZero(range(0, 4_294_967_295)),
        ),
    ];
    // A container whose map ends below the ids that new users get.
    let small = IdMap::parse(b"0 1 65536\n").unwrap();
    for (ranges, expected) in cases {
        for layout in [Layout::Subid, Layout::Caller] {
            let map = IdMap::build(layout, OWN, &ranges, &small);
            assert_eq!(map.unwrap_err(), expected.clone().into());
        }
    }
    for ranges in [
        vec![range(1, 999)],
        vec![range(1001, 10)],
        vec![range(5000, 10), range(5010, 1)],
    ] {
        assert!(build(Layout::Subid, &ranges).is_ok(), "{ranges:?}");
    }
}

#[test]
fn ranges_that_share_ids_are_merged_and_those_of_ordinary_ids_left_out() {
    let cases: &[(&[(u32, u32)], &str)] = &[
        // Equal, nested, overlapping.
        (&[(5000, 10), (5000, 10)], "0 5000 8, 65534 5008 1"),
        (&[(5000, 70_000), (6000, 10)], "0 5000 70000"),
        (&[(6000, 10), (5000, 70_000), (5000, 7)], "0 5000 70000"),
        (
            &[(5000, 70_000), (70_000, 10_000)],
            "0 5000 70000, 70000 75000 5000",
        ),
        (
            &[(70_000, 10_000), (5000, 70_000)],
            "0 70000 10000, 10000 5000 65000",
        ),
        (
            &[(5000, 50_000), (60_000, 50_000), (50_000, 20_000)],
            "0 5000 50000, 50000 60000 50000, 100000 55000 5000",
        ),
        // With the user's own id or with root's.
        (&[(OWN, 1), (5000, 3)], "0 5000 1, 65534 5001 1"),
        (&[(5000, 3), (0, 4_294_967_295)], "0 5000 1, 65534 5001 1"),
        (&[(0, 4_294_967_295)], "0 100000 65536"),
        (&[(OWN - 1, 200_000), (OWN, 1)], "0 100000 65536"),
        (&[(0, 100_003)], "0 100000 1, 65534 100001 1"),
    ];
    for (ranges, expected) in cases {
        let ranges: Vec<Range> = ranges
            .iter()
            .map(|(base, count)| range(*base, *count))
            .collect();
        assert_eq!(
            text(&build(Layout::Subid, &ranges).unwrap()),
            *expected,
            "{ranges:?}"
        );
    }
    let own = IdMap::build(Layout::Subid, 120_000, &[range(0, 200_000)], &everything());
    assert_eq!(own, Err(Unusable::BaseZero(range(0, 200_000)).into()));
}

#[test]
fn a_map_holds_no_more_than_the_kernel_takes() {
    // Short numbers reach the limit of extents, long ones that of a page of text.
    let pieces = |count: u32, base: u32| {
        (0..count)
            .map(move |i| range(base + 2 * i, 1))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        build(Layout::Subid, &pieces(341, 2000))
            .unwrap()
            .extents()
            .len(),
        340
    );
    assert_eq!(
        build(Layout::Subid, &pieces(342, 2000)),
        Err(MapError::TooManyExtents(341))
    );
    assert_eq!(
        build(Layout::Subid, &pieces(300, 4_000_000_000)),
        Err(MapError::TooManyExtents(299))
    );
}

#[test]
fn maps_of_the_kernel_are_read_and_others_are_not() {
    let rejected: &[(&[u8], MapError)] = &[
        (b"", MapError::NoIds),
        (b"\n", MapError::NoIds),
        (b"0 0\n", MapError::Malformed(1)),
        (b"0 0 1 1\n", MapError::Malformed(1)),
        (b"0 0 x\n", MapError::Malformed(1)),
        (b"0 0 0\n", MapError::Malformed(1)),
        (b"0 0 4294967296\n", MapError::Malformed(1)),
        (b"1 0 4294967295\n", MapError::Malformed(1)),
        (b"0 1 4294967295\n", MapError::Malformed(1)),
        (b"0 100 10\n9 200 1\n", MapError::Malformed(2)),
        (b"0 100 10\n20 109 1\n", MapError::Malformed(2)),
    ];
    for (text, expected) in rejected {
        assert_eq!(
            IdMap::parse(text).unwrap_err(),
            *expected,
            "{}",
            text.escape_ascii()
        );
    }
    assert_eq!(
        text(&IdMap::parse(b"  1 100000 65535\n  0 1000 1\n").unwrap()),
        "0 1000 1, 1 100000 65535"
    );
}

#[test]
fn ids_outside_every_extent_have_no_counterpart() {
    let map = build(Layout::Caller, &[range(BASE, 1000)]).unwrap();
    for (inner, outer) in [
        (0, OWN),
        (1, BASE + 1),
        (998, BASE + 998),
        (65534, BASE + 999),
    ] {
        assert_eq!(
            (map.to_outer(inner), map.to_inner(outer)),
            (Some(outer), Some(inner))
        );
    }
    assert_eq!(
        [999, 65533, 65535, u32::MAX].map(|id| map.to_outer(id)),
        [None; 4]
    );
    assert_eq!(
        [0, BASE, BASE + 1000, OWN + 1, u32::MAX].map(|id| map.to_inner(id)),
        [None; 5]
    );
    assert_eq!(map.count(), 1000);
}

/// Disjoint ranges above the user's own id, as gaps and counts.
fn ranges() -> impl Strategy<Value = Vec<Range>> {
    let count = prop_oneof![1..6u32, 1..70_000u32, 65_530..65_540u32];
    proptest::collection::vec((1..50_000u32, count), 1..8).prop_map(|steps| {
        let mut end = OWN;
        let mut ranges = Vec::new();
        for (gap, count) in steps {
            ranges.push(range(end + gap, count));
            end += gap + count;
        }
        ranges
    })
}

fn offers() -> impl Strategy<Value = IdMap> {
    proptest::collection::vec((1..100_000u32, 1..200_000u32), 0..4).prop_map(|steps| {
        let mut extents = vec![Extent {
            inner: 0,
            outer: 0,
            count: OWN + 1,
        }];
        let mut end = OWN + 1;
        for (gap, count) in steps {
            extents.push(Extent {
                inner: end + gap,
                outer: end + gap,
                count,
            });
            end += gap + count;
        }
        IdMap::from_extents(extents).unwrap()
    })
}

/// The ids where something begins or ends, and those beside them.
fn edges(map: &IdMap, ranges: &[Range]) -> Vec<u32> {
    let inner = map
        .extents()
        .iter()
        .flat_map(|extent| [extent.inner, extent.inner + (extent.count - 1)]);
    let outer = map
        .extents()
        .iter()
        .flat_map(|extent| [extent.outer, extent.outer + (extent.count - 1)]);
    let bounds = ranges
        .iter()
        .flat_map(|range| [range.base, range.base + (range.count - 1)]);
    let all = inner
        .chain(outer)
        .chain(bounds)
        .chain([0, OWN, NOBODY, u32::MAX]);
    all.flat_map(|id| [id.saturating_sub(1), id, id.saturating_add(1)])
        .collect()
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Subid), Just(Layout::Caller)]
}

proptest! {
    #[test]
    fn every_map_is_one_to_one_and_stays_within_the_ranges(layout in layouts(), ranges in ranges().prop_shuffle()) {
        let map = build(layout, &ranges).unwrap();
        for id in edges(&map, &ranges) {
            if let Some(outer) = map.to_outer(id) {
                prop_assert_eq!(map.to_inner(outer), Some(id));
                let own = layout == Layout::Caller && outer == OWN && id == 0;
                prop_assert!(own || ranges.iter().any(|range| range.contains(outer)));
            }
            if let Some(inner) = map.to_inner(id) {
                prop_assert_eq!(map.to_outer(inner), Some(id));
            }
        }
        for pair in map.extents().windows(2) {
            prop_assert!(u64::from(pair[0].inner) + u64::from(pair[0].count) <= u64::from(pair[1].inner));
        }
    }

    #[test]
    fn root_is_always_mapped_and_nobody_from_three_ids_on(layout in layouts(), ranges in ranges()) {
        let map = build(layout, &ranges).unwrap();
        let total: u32 = ranges.iter().map(|range| range.count).sum();
        prop_assert!(map.to_outer(0).is_some());
        prop_assert!(total < 3 || map.to_outer(NOBODY).is_some());
        prop_assert!(map.count() <= total);
    }

    #[test]
    fn merged_ranges_have_the_same_ids_once(steps in proptest::collection::vec((2000..2100u32, 1..60u32), 0..8)) {
        let ranges: Vec<Range> = steps.iter().map(|(base, count)| range(*base, *count)).collect();
        let merged = disjoint(&ranges);
        for id in 1990..2170 {
            let times = merged.iter().filter(|range| range.contains(id)).count();
            prop_assert_eq!(times, usize::from(ranges.iter().any(|range| range.contains(id))));
        }
    }

    #[test]
    fn clipping_maps_only_what_is_offered(layout in layouts(), ranges in ranges(), offered in offers()) {
        match IdMap::build(layout, OWN, &ranges, &offered) {
            Ok(map) => for id in edges(&map, &ranges) {
                if map.to_inner(id).is_some() {
                    prop_assert!(offered.to_outer(id).is_some());
                    prop_assert!(id == OWN || ranges.iter().any(|range| range.contains(id)));
                }
            },
            Err(error) => prop_assert!(matches!(error, MapError::Unusable(Unusable::NotOffered { .. })), "{}", error),
        }
    }

    #[test]
    fn the_kernel_text_reads_back_as_the_same_map(layout in layouts(), ranges in ranges()) {
        let map = build(layout, &ranges).unwrap();
        prop_assert_eq!(IdMap::parse(map.kernel_text().as_bytes()), Ok(map));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b':'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..80)) {
        let account = crate::ids::Account { name: Some("1".into()), uid: 2, gid: 2 };
        let parsed = crate::ids::subid::parse(&text, &account);
        prop_assert!(parsed.ranges.iter().all(|range| range.count > 0 && range.end() <= 1 << 32));
        crate::ids::subid::parse_getsubids(&text);
        crate::ids::subid::service(&text);
        let _ = IdMap::parse(&text);
    }
}

#[test]
fn the_whole_map_has_all_subordinate_ids_and_the_own_one_behind_them() {
    let whole = |ranges: &[Range]| IdMap::whole(OWN, ranges, &everything()).map(|map| text(&map));
    assert_eq!(
        whole(&[range(BASE, 1000)]).unwrap(),
        "0 100000 1000, 1000 1000 1"
    );
    assert_eq!(
        whole(&[range(BASE, 65536), range(5000, 2)]).unwrap(),
        "0 100000 65536, 65536 5000 2, 65538 1000 1"
    );
    assert_eq!(
        whole(&[range(0, 5)]),
        Err(Unusable::BaseZero(range(0, 5)).into())
    );
    assert_eq!(
        whole(&[range(OWN, 5), range(BASE, 2)]).unwrap(),
        "0 100000 2, 2 1000 1"
    );
    let container = IdMap::parse(b"0 100000 65536\n").unwrap();
    assert_eq!(
        text(&IdMap::whole(OWN, &[range(60000, 10000)], &container).unwrap()),
        "0 60000 5536, 5536 1000 1"
    );
}
