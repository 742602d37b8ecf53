//! The trees that tests pack, and what is known of a tree without any tar: snapshots to compare.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use crate::world::{self, Scratch, namespace_python, succeed};

/// What is known of every file of a tree: path to attributes, see `tests/fixtures/snapshot.py`.
pub type Snapshot = Map<String, Value>;

/// What pack leaves out of [`rich`] when nothing else is said.
pub const LEFT_OUT: [&str; 6] = [
    "isar-apt",
    "isar-apt/inside",
    "socket",
    "var/cache/apt/archives",
    "var/cache/apt/archives/partial",
    "var/cache/apt/archives/x.deb",
];

/// A tree of the namespace with a file of every kind, name, owner and attribute (but device nodes,
/// which only real root makes).
pub fn rich(scratch: &Scratch, name: &str) -> PathBuf {
    let tree = scratch.namespace_dir(name);
    succeed(namespace_python(include_str!("../fixtures/rich_tree.py")).arg(&tree));
    tree
}

/// A tree of the namespace that a shell script makes, which runs in it.
pub fn made_by(scratch: &Scratch, name: &str, script: &str) -> PathBuf {
    let tree = scratch.namespace_dir(name);
    succeed(
        world::as_namespace_root("sh")
            .args(["-euc", &format!("cd \"$0\"\n{script}")])
            .arg(&tree),
    );
    tree
}

/// What root of the namespace sees of a tree.
pub fn snapshot(tree: &Path) -> Snapshot {
    parse(
        &namespace_python(include_str!("../fixtures/snapshot.py"))
            .arg(tree)
            .output()
            .unwrap(),
    )
}

/// What root of the machine sees of a tree.
pub fn root_snapshot(tree: &Path) -> Snapshot {
    let script = include_str!("../fixtures/snapshot.py");
    parse(
        &Command::new("python3")
            .args(["-c", script])
            .arg(tree)
            .output()
            .unwrap(),
    )
}

/// What Python's tarfile reads from a plain tar.
pub fn tarfile_snapshot(tar: &Path) -> Snapshot {
    parse(
        &namespace_python(include_str!("../fixtures/tarfile_snapshot.py"))
            .arg(tar)
            .output()
            .unwrap(),
    )
}

fn parse(output: &std::process::Output) -> Snapshot {
    assert!(output.status.success(), "{}", world::text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The snapshot of [`rich`] with what an archive of it should hold.
pub fn packed(mut snapshot: Snapshot) -> Snapshot {
    for path in LEFT_OUT {
        assert!(
            snapshot.remove(path).is_some(),
            "{path} should have been there"
        );
    }
    snapshot
}

/// Asserts that two trees are equal, but for the attributes of which `may_differ` is true (path,
/// attribute, value here, value there).
pub fn assert_equal(
    expected: &Snapshot,
    found: &Snapshot,
    may_differ: impl Fn(&str, &str, &Value, &Value) -> bool,
) {
    let mut differences = Vec::new();
    let paths = |one: &Snapshot, other: &Snapshot| -> Vec<String> {
        one.keys()
            .filter(|path| !other.contains_key(*path))
            .cloned()
            .collect()
    };
    let (missing, added) = (paths(expected, found), paths(found, expected));
    for (path, here) in expected {
        let Some(there) = found.get(path) else {
            continue;
        };
        let (Value::Object(here), Value::Object(there)) = (here, there) else {
            panic!("{path}: no attributes")
        };
        let mut attributes: Vec<&String> = here.keys().chain(there.keys()).collect();
        attributes.sort();
        attributes.dedup();
        for attribute in attributes {
            let value = |of: &Map<String, Value>| of.get(attribute).cloned().unwrap_or(Value::Null);
            let (a, b) = (value(here), value(there));
            if a != b && !may_differ(path, attribute, &a, &b) {
                differences.push(format!("{path:?} {attribute}: {a} became {b}"));
            }
        }
    }
    assert!(
        missing.is_empty() && added.is_empty() && differences.is_empty(),
        "missing {missing:?}\nadded {added:?}\n{}",
        differences.join("\n")
    );
}

/// For [`assert_equal`]: everything must be the same.
pub fn nothing(_: &str, _: &str, _: &Value, _: &Value) -> bool {
    false
}
