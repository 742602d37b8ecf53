//! What GNU tar, bsdtar and Python's tarfile make of what `pack` wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::rootfs::{assert_equal, nothing, packed, rich, snapshot, tarfile_snapshot};
use crate::world::{Scratch, as_namespace_root, as_user, isar, isar_as_user, require, succeed};

/// Packs the rich tree in `scratch`; gives the tree and the archive.
fn pack_rich(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (tree, archive) = (rich(scratch, "tree"), scratch.join("rich.tar.zst"));
    succeed(isar_as_user(["pack"]).args([&tree, &archive]));
    (tree, archive)
}

/// A command of the namespace that sees names as bytes and has them shown as UTF-8.
fn namespace(program: &str) -> Command {
    let mut command = as_namespace_root("env");
    command.args(["LC_ALL=C.UTF-8", program]);
    command
}

fn plain(archive: &Path, scratch: &Scratch) -> PathBuf {
    let tar = scratch.join("plain.tar");
    succeed(
        as_user("zstd")
            .args(["--quiet", "--decompress", "-o"])
            .arg(&tar)
            .arg(archive),
    );
    tar
}

#[test]
fn gnu_tar_restores_every_attribute() {
    let scratch = Scratch::new();
    let (tree, archive) = pack_rich(&scratch);
    let out = scratch.namespace_dir("out");
    let attributes = [
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--preserve-permissions",
    ];
    succeed(
        namespace("tar")
            .args(["--extract", "--zstd"])
            .args(attributes)
            .arg("-f")
            .arg(&archive)
            .arg("-C")
            .arg(&out),
    );
    assert_equal(&packed(snapshot(&tree)), &snapshot(&out), nothing);
}

#[test]
fn bsdtar_restores_every_attribute_that_it_can() {
    let Some(()) = require(&["bsdtar"]) else {
        return;
    };
    let scratch = Scratch::new();
    let (tree, archive) = pack_rich(&scratch);
    let out = scratch.namespace_dir("out");
    succeed(
        namespace("bsdtar")
            .args(["-x", "-p", "--numeric-owner", "--acls", "--xattrs", "-f"])
            .arg(&archive)
            .arg("-C")
            .arg(&out),
    );
    assert_equal(
        &packed(snapshot(&tree)),
        &snapshot(&out),
        |path, attribute, here, _| match attribute {
            // It leaves the time of `.` alone, and adds the fraction of a time before 1970 where it
            // should take it away. So it does with GNU tar's archives.
            "mtime" => {
                path == "."
                    || here
                        .as_i64()
                        .is_some_and(|time| time < 0 && time % 1_000_000_000 != 0)
            }
            // It takes GNU tar's %3D and %25 in the name of an attribute as they are.
            "xattrs" => here
                .as_object()
                .is_some_and(|xattrs| xattrs.contains_key("user.a=b")),
            _ => false,
        },
    );
}

#[test]
fn python_reads_every_attribute() {
    let scratch = Scratch::new();
    let (tree, archive) = pack_rich(&scratch);
    assert_equal(
        &packed(snapshot(&tree)),
        &tarfile_snapshot(&plain(&archive, &scratch)),
        nothing,
    );
}

#[test]
fn python_extracts_the_same_tree() {
    const SCRIPT: &str = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], numeric_owner=True)";
    let scratch = Scratch::new();
    let (tree, archive) = pack_rich(&scratch);
    let (tar, out) = (plain(&archive, &scratch), scratch.namespace_dir("out"));
    succeed(namespace("python3").args(["-c", SCRIPT]).args([&tar, &out]));
    let expected = packed(snapshot(&tree));
    assert_equal(
        &expected,
        &snapshot(&out),
        |path, attribute, here, there| {
            let is_symlink = expected[path]["kind"] == "symlink";
            match attribute {
                "xattrs" => there.as_object().is_some_and(serde_json::Map::is_empty),
                // A time is a floating point number there, and that of a symbolic link is not set.
                "mtime" => {
                    is_symlink
                        || here
                            .as_f64()
                            .zip(there.as_f64())
                            .is_some_and(|(a, b)| (a - b).abs() < 4096.0)
                }
                // It makes each name of a symbolic link a link of its own.
                "same as" => is_symlink,
                _ => false,
            }
        },
    );
}

#[test]
fn all_of_them_list_the_same_members() {
    let Some(()) = require(&["bsdtar"]) else {
        return;
    };
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let archive = scratch.join("rich.tar");
    let summary: Value = serde_json::from_str(&succeed(
        isar_as_user(["pack", "--json"]).args([&tree, &archive]),
    ))
    .unwrap();
    let members = summary["members"]["total"].as_u64().unwrap() as usize;
    assert_eq!(members, packed(snapshot(&tree)).len());
    for program in ["tar", "bsdtar"] {
        // Both escape a newline in a name.
        let list = succeed(namespace(program).args(["-t", "-v", "-f"]).arg(&archive));
        assert_eq!(list.lines().count(), members, "{program}");
    }
    assert_eq!(tarfile_snapshot(&archive).len(), members);
}

#[test]
fn device_nodes_are_kept_when_asked_for_and_counted_else() {
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("dev")).unwrap();
    for (name, kind, numbers) in [
        ("null", "c", ["1", "3"]),
        ("loop7", "b", ["7", "7"]),
        ("high", "c", ["4095", "1048575"]),
    ] {
        let node = tree.join("dev").join(name);
        succeed(
            Command::new("mknod")
                .arg("--mode=0660")
                .arg(&node)
                .arg(kind)
                .args(numbers),
        );
        // Times of device nodes are stored in seconds: sbuild 0.89 would give a record with a finer
        // one to the next member.
        succeed(
            Command::new("touch")
                .args(["--date", "@1000000000"])
                .arg(&node),
        );
    }
    let summary = |args: &[&str], archive: &Path| -> Value {
        serde_json::from_str(&succeed(
            isar(["pack", "--json"]).args(args).arg(&tree).arg(archive),
        ))
        .unwrap()
    };
    let archive = scratch.join("without.tar");
    assert_eq!(summary(&[], &archive)["skipped"]["devices"], 3);
    assert_eq!(
        succeed(Command::new("tar").arg("-tf").arg(&archive)),
        "./\n./dev/\n"
    );

    let archive = scratch.join("with.tar");
    let kept = summary(&["--devices", "keep"], &archive);
    assert_eq!(
        (&kept["skipped"]["devices"], &kept["members"]["devices"]),
        (&Value::from(0), &Value::from(3))
    );
    let own = |command: &mut Command| -> crate::rootfs::Snapshot {
        serde_json::from_str(&succeed(command)).unwrap()
    };
    let python =
        |script: &str, path: &Path| own(Command::new("python3").args(["-c", script]).arg(path));
    let expected = python(include_str!("../fixtures/snapshot.py"), &tree);
    assert_equal(
        &expected,
        &python(include_str!("../fixtures/tarfile_snapshot.py"), &archive),
        nothing,
    );
    for program in ["tar", "bsdtar"] {
        let out = scratch.join(program);
        fs::create_dir(&out).unwrap();
        succeed(
            Command::new(program)
                .args(["-x", "-p", "-f"])
                .arg(&archive)
                .arg("-C")
                .arg(&out),
        );
        // See above about bsdtar and the time of `.`.
        assert_equal(
            &expected,
            &python(include_str!("../fixtures/snapshot.py"), &out),
            |path, attribute, _, _| program == "bsdtar" && (path, attribute) == (".", "mtime"),
        );
    }
}
