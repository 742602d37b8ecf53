//! What `unpack` makes of archives by other programs: the tree that they were made of, and the tree
//! that GNU tar makes of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::rootfs::{Snapshot, assert_equal, nothing, rich, root_snapshot, snapshot};
use crate::unpack::unpack;
use crate::world::{
    Scratch, as_namespace_root, chroot, isar, mmdebstrap_archive, namespace_python, require,
    succeed,
};

#[test]
fn archives_of_other_programs_unpack_to_the_tree_that_they_were_made_of() {
    let Some(()) = require(&["tar", "bsdtar"]) else {
        return;
    };
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let expected = snapshot(&tree);
    let archive = scratch.user_dir("archives", 0o777).join("a.tar");
    let directory = format!("--directory={}", tree.display());
    let pax = "--pax-option=delete=atime,delete=ctime";
    let makers: [(&str, Vec<&str>); 4] = [
        (
            "tar",
            vec![
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "--sparse",
                "--format=pax",
                pax,
            ],
        ),
        (
            "tar",
            vec![
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "--format=pax",
                "--sparse",
                "--sparse-version=0.1",
            ],
        ),
        ("tar", vec!["--format=gnu", "--sparse"]),
        ("bsdtar", vec!["--format=pax", "--xattrs", "--acls"]),
    ];
    for (index, (maker, options)) in makers.iter().enumerate() {
        fs::write(&archive, "").unwrap();
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o666)).unwrap();
        let mut command = as_namespace_root(maker);
        command
            .arg(&directory)
            .args(options)
            .arg("-cf")
            .arg(&archive)
            .arg(".");
        succeed(&mut command);
        let dir = scratch.join(format!("dir{index}"));
        succeed(&mut unpack(&archive, &dir, &[]));
        let is_gnu = options.contains(&"--format=gnu");
        // Some times are too far away for 64 bits of nanoseconds.
        let seconds = |time: &Value| {
            time.to_string()
                .parse::<i128>()
                .unwrap()
                .div_euclid(1_000_000_000)
        };
        let is_bsdtar = *maker == "bsdtar";
        // bsdtar cuts off the names of sparse files that are not UTF-8.
        let is_kept = |path: &str| !(is_bsdtar && path.starts_with("sparse/\u{ff}"));
        let (mut expected, mut found) = (expected.clone(), snapshot(&dir));
        expected.retain(|path, file| file["kind"] != "socket" && is_kept(path));
        found.retain(|path, _| is_kept(path));
        assert_equal(
            &expected,
            &found,
            |path, attribute, here, there| match attribute {
                "extents" => true,
                // That format has whole seconds and no attributes.
                "mtime" if is_gnu => seconds(here) == seconds(there),
                "xattrs" if is_gnu => true,
                // It counts nanoseconds before 1970 the wrong way round, and escapes names so that
                // they cannot be told from others.
                "mtime" if is_bsdtar => here.to_string().starts_with('-'),
                "xattrs" if is_bsdtar => {
                    ["attributes/user", "links/far/hard-attributes"].contains(&path)
                }
                // Pipes are no hard links to tar.
                "same as" => here == "fifo-a" || there == "fifo-a",
                _ => false,
            },
        );
    }
}

/// A command of the namespace that sees names as UTF-8.
fn in_the_namespace(program: &str) -> Command {
    let mut command = as_namespace_root("env");
    command.args(["LC_ALL=C.UTF-8", program]);
    command
}

/// Has GNU tar restore all that it can. It delays directories until the end, because bsdtar comes
/// back to those whose time is set by then.
fn extract_with_gnu_tar(mut tar: Command, archive: &Path, dir: &Path, options: &[&str]) {
    let all = [
        "--numeric-owner",
        "--preserve-permissions",
        "--delay-directory-restore",
        "--xattrs",
    ];
    tar.arg("--extract")
        .args(all)
        .arg("--xattrs-include=*")
        .args(options);
    succeed(tar.arg("--file").arg(archive).arg("--directory").arg(dir));
}

/// Asserts that a tree has what is lost most easily. Below `rich` is the tree of
/// `fixtures/rich_tree.py`.
fn has_every_attribute(tree: &Snapshot, is_sparse: bool) {
    let xattrs = |path: &str| tree[path]["xattrs"].as_object().unwrap();
    for (path, xattr) in [
        ("capability", "security.capability"),
        ("user", "user.binary"),
        ("acl", "system.posix_acl_access"),
        ("acl-default", "system.posix_acl_default"),
    ] {
        assert!(
            xattrs(&format!("rich/attributes/{path}")).contains_key(xattr),
            "{path}"
        );
    }
    assert_eq!(
        tree["rich/links/hard-a"]["same as"],
        tree["rich/hard-c"]["same as"]
    );
    assert!(tree["rich/sizes/10240"]["mtime"].as_i64().unwrap() % 1_000_000_000 > 0);
    assert_eq!(
        tree["rich/sparse/all"]["extents"]
            .as_array()
            .unwrap()
            .is_empty(),
        is_sparse
    );
    assert!(tree.len() > 5000);
}

#[test]
fn archives_of_a_real_chroot_unpack_to_the_tree_that_gnu_tar_makes_of_them() {
    let Some(()) = require(&["tar", "bsdtar"]) else {
        return;
    };
    let Some(original) = chroot("trixie") else {
        return;
    };
    let scratch = Scratch::new();
    let tree = scratch.namespace_dir("tree");
    succeed(
        as_namespace_root("cp")
            .arg("--archive")
            .arg(original.join("."))
            .arg(&tree),
    );
    succeed(as_namespace_root("mkdir").arg(tree.join("rich")));
    succeed(namespace_python(include_str!("../fixtures/rich_tree.py")).arg(tree.join("rich")));
    let archives = scratch.namespace_dir("archives");
    for (maker, options) in [
        (
            "tar",
            [
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "--sparse",
                "--format=pax",
            ]
            .as_slice(),
        ),
        ("bsdtar", &["--xattrs", "--acls", "--format=pax"]),
    ] {
        let archive = archives.join(format!("{maker}.tar"));
        succeed(
            in_the_namespace(maker)
                .arg("-c")
                .args(options)
                .arg("-f")
                .arg(&archive)
                .arg("-C")
                .arg(&tree)
                .arg("."),
        );
        let (theirs, ours) = (scratch.namespace_dir("theirs"), scratch.join("ours"));
        extract_with_gnu_tar(in_the_namespace("tar"), &archive, &theirs, &["--acls"]);
        succeed(&mut unpack(&archive, &ours, &[]));
        let expected = snapshot(&theirs);
        has_every_attribute(&expected, true);
        assert_equal(&expected, &snapshot(&ours), |path, attribute, _, _| {
            // bsdtar stores the one that is not ASCII twice, and one of them under a name that GNU
            // tar does not read.
            let names_differ =
                ["rich/attributes/user", "rich/links/far/hard-attributes"].contains(&path);
            maker == "bsdtar" && attribute == "xattrs" && names_differ
        });
        succeed(
            Command::new("rm")
                .arg("-rf")
                .args([&archive, &theirs, &ours]),
        );
    }
}

#[test]
fn an_archive_that_mmdebstrap_wrote_unpacks_to_the_tree_that_gnu_tar_makes_of_it() {
    let Some(archive) = mmdebstrap_archive("bookworm") else {
        return;
    };
    let scratch = Scratch::new();
    // It has ACLs as extended attributes, as `tar --xattrs` writes them. With --acls GNU tar would
    // take them away again, since there are none in its own form.
    let devices = [
        "console", "full", "null", "ptmx", "random", "tty", "urandom", "zero",
    ];
    let excludes = devices.map(|device| format!("--exclude=./dev/{device}"));
    let excludes = excludes.each_ref().map(String::as_str);

    let (theirs, ours) = (scratch.namespace_dir("theirs"), scratch.join("ours"));
    extract_with_gnu_tar(in_the_namespace("tar"), &archive, &theirs, &excludes);
    let summary: Value =
        serde_json::from_str(&succeed(&mut unpack(&archive, &ours, &["--json"]))).unwrap();
    assert_eq!(summary["skipped"]["devices"], devices.len());
    let expected = snapshot(&theirs);
    has_every_attribute(&expected, false);
    assert_equal(&expected, &snapshot(&ours), nothing);

    let (theirs, ours) = (
        scratch.user_dir("theirs-of-root", 0o755),
        scratch.join("ours-of-root"),
    );
    extract_with_gnu_tar(Command::new("tar"), &archive, &theirs, &[]);
    succeed(isar(["unpack"]).args([&archive, &ours]));
    let expected = root_snapshot(&theirs);
    assert_eq!(expected["dev/null"]["device"], serde_json::json!([1, 3]));
    has_every_attribute(&expected, false);
    assert_equal(&expected, &root_snapshot(&ours), nothing);
}
