#![allow(clippy::unwrap_used)]
use super::*;
use crate::diff::content::{Digest, Hasher};

fn facts(kind: Kind) -> Facts {
    Facts {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: 5,
            nanoseconds: 7,
        },
        xattrs: vec![(b"user.x".to_vec(), b"1".to_vec())],
        access_acl: None,
        default_acl: None,
        digest: Digest::default(),
    }
}

fn file() -> Facts {
    facts(Kind::File {
        size: 4,
        extents: None,
    })
}

/// Adds a name of the next file.
fn name(side: &mut Files, path: &str) {
    let (path, file) = (path.as_bytes(), side.files.len());
    side.names
        .insert(path, file, &Allowance::default())
        .unwrap();
}

fn files(files: &[(&str, Facts)]) -> Files {
    let mut side = Files::default();
    for (path, facts) in files {
        name(&mut side, path);
        side.files.push(facts.clone());
    }
    side
}

/// `path what a -> b` of each difference.
fn found(a: &Files, b: &Files, rules: Rules) -> Vec<String> {
    let text = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
    let line = |difference: Difference| {
        let Difference { path, what, a, b } = difference;
        format!(
            "{} {} {} -> {}",
            Escaped(&path),
            what.word(),
            text(a),
            text(b)
        )
    };
    compare(a, b, rules, &Allowance::default())
        .unwrap()
        .differences
        .into_iter()
        .map(line)
        .collect()
}

const STRICT: Rules = Rules {
    mtime: Mtime::Nanoseconds,
    devices: true,
};

#[test]
fn each_attribute_that_differs_is_named_with_both_values() {
    let hash = |data: &[u8]| {
        let mut hasher = Hasher::default();
        hasher.update(0, data);
        hasher.finish()
    };
    let link = |target: &str| {
        facts(Kind::Symlink {
            target: target.into(),
        })
    };
    let device = |minor| facts(Kind::CharDevice { major: 1, minor });
    let acl = |text: &str| Some(text.as_bytes().to_vec());
    let value = |value: &[u8]| Facts {
        xattrs: vec![(b"user.x".to_vec(), value.to_vec())],
        ..file()
    };
    let content = format!(
        "content {} -> {}",
        hash(b"abcd").short(),
        hash(b"abce").short()
    );
    for (a, b, expected) in [
        (file(), file(), ""),
        (file(), facts(Kind::Directory), "kind file -> directory"),
        (
            file(),
            Facts {
                mode: 0o4755,
                ..file()
            },
            "mode 0755 -> 4755",
        ),
        (file(), Facts { uid: 1, ..file() }, "owner 0:0 -> 1:0"),
        (file(), Facts { gid: 1, ..file() }, "owner 0:0 -> 0:1"),
        (
            file(),
            facts(Kind::File {
                size: 5,
                extents: None,
            }),
            "size 4 -> 5",
        ),
        (
            Facts {
                digest: hash(b"abcd"),
                ..file()
            },
            Facts {
                digest: hash(b"abce"),
                ..file()
            },
            &content,
        ),
        (link("a"), link("b\n"), "target a -> b\\n"),
        (
            Facts {
                mode: 0o777,
                ..link("a")
            },
            link("a"),
            "",
        ),
        (device(3), device(5), "device 1,3 -> 1,5"),
        (
            file(),
            Facts {
                mtime: Timestamp {
                    seconds: 5,
                    nanoseconds: 8,
                },
                ..file()
            },
            "mtime 5.000000007 -> 5.000000008",
        ),
        (file(), value(b"2"), "xattr \"1\" -> \"2\""),
        (
            file(),
            Facts {
                xattrs: vec![],
                ..file()
            },
            "xattr \"1\" -> nothing",
        ),
        (
            file(),
            Facts {
                access_acl: acl("u::rwx"),
                ..file()
            },
            "access ACL nothing -> u::rwx",
        ),
        (
            Facts {
                default_acl: acl("u::rwx"),
                ..file()
            },
            file(),
            "default ACL u::rwx -> nothing",
        ),
    ] {
        let expected: Vec<String> = Some(expected)
            .filter(|text| !text.is_empty())
            .map(|text| format!("x {text}"))
            .into_iter()
            .collect();
        assert_eq!(
            found(&files(&[("x", a)]), &files(&[("x", b)]), STRICT),
            expected
        );
    }
}

#[test]
fn the_mode_of_a_file_with_an_acl_may_differ_in_what_the_acl_says() {
    let acl = |mode, text: &str| {
        files(&[(
            "x",
            Facts {
                mode,
                access_acl: Some(text.into()),
                ..file()
            },
        )])
    };
    let ours = acl(
        0o770,
        "user::rwx,user:5:rwx,group::---,mask::rwx,other::---",
    );
    // In another order, and with the owning group's permissions in the mode.
    let theirs = acl(0o700, "u::rwx,g::---,o::---,m::rwx,u:5:rwx");
    assert_eq!(found(&ours, &theirs, STRICT), Vec::<String>::new());
    let theirs = acl(0o700, "u::rwx,g::---,o::---,m::r-x,u:5:rwx");
    assert_eq!(found(&ours, &theirs, STRICT).len(), 1);
    let theirs = acl(
        0o707,
        "user::rwx,user:5:rwx,group::---,mask::rwx,other::---",
    );
    assert_eq!(found(&ours, &theirs, STRICT), ["x mode 0770 -> 0707"]);
}

#[test]
fn names_that_one_side_lacks_are_found_on_either() {
    let (a, b) = (
        files(&[("", file()), ("a", file()), ("c", file())]),
        files(&[("", file()), ("b", file())]),
    );
    let expected = [
        "a presence file -> nothing",
        "b presence nothing -> file",
        "c presence file -> nothing",
    ];
    assert_eq!(found(&a, &b, STRICT), expected);
    assert_eq!(
        found(&Files::default(), &Files::default(), STRICT),
        Vec::<String>::new()
    );
}

#[test]
fn device_nodes_of_a_directory_count_only_when_asked() {
    let mut directory = files(&[("null", facts(Kind::CharDevice { major: 1, minor: 3 }))]);
    directory.is_directory = true;
    let archive = Files::default();
    let compare =
        |a: &Files, b: &Files| compare(a, b, Rules::default(), &Allowance::default()).unwrap();
    let outcome = compare(&archive, &directory);
    assert_eq!((outcome.differences.len(), outcome.devices), (0, 1));
    assert_eq!(
        found(&archive, &directory, STRICT),
        ["null presence nothing -> character device"]
    );
    let archive = files(&[("null", facts(Kind::CharDevice { major: 1, minor: 3 }))]);
    assert_eq!(compare(&archive, &Files::default()).differences.len(), 1);
}

/// A side of files `f` with these groups of names.
fn linked(groups: &[&[&str]]) -> Files {
    let mut side = Files::default();
    for group in groups {
        for name in *group {
            self::name(&mut side, name);
        }
        side.files.push(file());
    }
    side
}

#[test]
fn groups_of_hard_links_are_compared_whatever_name_comes_first() {
    for (a, b, expected) in [
        (
            linked(&[&["x", "y", "z"]]),
            linked(&[&["z", "x", "y"]]),
            &[][..],
        ),
        (
            linked(&[&["x", "y"]]),
            linked(&[&["x"], &["y"]]),
            &["y hard link x -> nothing"],
        ),
        (
            linked(&[&["x"], &["y", "z"]]),
            linked(&[&["x", "z"], &["y"]]),
            &["z hard link y -> x"],
        ),
        (
            linked(&[&["x", "y", "z"]]),
            linked(&[&["y", "z"]]),
            &["x presence file -> nothing"],
        ),
    ] {
        assert_eq!(found(&a, &b, STRICT), expected);
    }
    // Properties that all names of a file share are reported once.
    let (a, mut b) = (linked(&[&["x", "y"]]), linked(&[&["x", "y"]]));
    b.files.first_mut().unwrap().uid = 1;
    assert_eq!(found(&a, &b, STRICT), ["x owner 0:0 -> 1:0"]);
}

#[test]
fn times_are_compared_as_exactly_as_asked() {
    let at = |seconds, nanoseconds| {
        files(&[(
            "x",
            Facts {
                mtime: Timestamp {
                    seconds,
                    nanoseconds,
                },
                ..file()
            },
        )])
    };
    let count = |b: Files, mtime| {
        found(
            &at(5, 7),
            &b,
            Rules {
                mtime,
                devices: false,
            },
        )
        .len()
    };
    assert_eq!(
        [
            count(at(5, 8), Mtime::Ignored),
            count(at(6, 7), Mtime::Ignored)
        ],
        [0, 0]
    );
    assert_eq!(
        [
            count(at(5, 8), Mtime::Seconds),
            count(at(6, 7), Mtime::Seconds)
        ],
        [0, 1]
    );
    assert_eq!(
        [
            count(at(5, 7), Mtime::Nanoseconds),
            count(at(5, 8), Mtime::Nanoseconds)
        ],
        [0, 1]
    );
}
