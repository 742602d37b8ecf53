//! `unpack --keep-directory-symlink`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::crafted::{Tar, content};
use crate::rootfs::{assert_equal, root_snapshot};
use crate::unpack::unpack;
use crate::world::{Scratch, as_namespace_root, fail, names, require, succeed};

/// A tree with merged /usr, as `dir`.
fn with_merged_usr(scratch: &Scratch, dir: &Path) {
    let tree = Tar::new()
        .directory("./", 0o755)
        .directory("./usr/bin/", 0o755)
        .file("./usr/bin/old", "old")
        .symlink("./bin", "usr/bin")
        .end();
    succeed(&mut unpack(&tree.write(scratch, "merged.tar"), dir, &[]));
}

#[test]
fn kept_links_to_directories_lead_to_what_gnu_tar_unpacks() {
    if require(&["mmdebstrap"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let [ours, theirs] = ["ours", "theirs"].map(|name| scratch.join(name));
    with_merged_usr(&scratch, &ours);
    with_merged_usr(&scratch, &theirs);
    let archive = Tar::new()
        .directory("./bin/", 0o700)
        .file("./bin/sh", "sh")
        .file("./bin/old", "new")
        .hard_link("./bin/bash", "./bin/sh")
        .hard_link("./usr/bin/dash", "./bin/sh")
        .directory("./bin/sub/", 0o711)
        .file("./bin/sub/x", "x")
        .symlink("./sbin", "bin")
        .file("./sbin/y", "y")
        .directory("./sbin/sub/", 0o755)
        .end()
        .write(&scratch, "a.tar");
    let said = fail(2, &mut unpack(&archive, &ours, &["--merge"]));
    assert!(
        said.contains("bin is a symbolic link, which is not followed")
            && said.contains("--keep-directory-symlink"),
        "{said}"
    );
    let args = ["--merge", "--keep-directory-symlink"];
    succeed(&mut unpack(&archive, &ours, &args));
    succeed(
        as_namespace_root("tar")
            .args(["--keep-directory-symlink", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&theirs),
    );
    assert_equal(
        &root_snapshot(&theirs),
        &root_snapshot(&ours),
        |_, attribute, _, _| {
            // Directories that tar created files in have the time of that.
            attribute == "mtime" || attribute == "extents"
        },
    );
    let mode = |name: &str| fs::symlink_metadata(ours.join(name)).unwrap().mode();
    assert_eq!(mode("bin") & 0o170000, 0o120000, "the link is kept");
    assert_eq!(mode("usr/bin") & 0o7777, 0o755, "as it was");
    assert_eq!(mode("usr/bin/sub") & 0o7777, 0o755, "described twice");
    assert_eq!(fs::metadata(ours.join("usr/bin/sh")).unwrap().nlink(), 3);
}

#[test]
fn a_link_that_changes_leads_to_its_new_directory() {
    let scratch = Scratch::new();
    let archive = Tar::new()
        .directory("./usr/bin/", 0o755)
        .directory("./usr/lib/", 0o755)
        .directory("./opt/", 0o755)
        .symlink("./bin", "usr/bin")
        .file("./bin/a", "a")
        .symlink("./bin", "usr/lib")
        .file("./bin/b", "b")
        .symlink("./lib", "./usr//lib/")
        .symlink("./lib64", "lib")
        .file("./lib64/c", "c")
        .symlink("./lib", "opt")
        .file("./lib64/d", "d")
        .symlink("./usr/alt", "../opt/.")
        .file("./usr/alt/e/f", "f")
        .file("./bin", "file")
        .end()
        .write(&scratch, "a.tar");
    let dir = scratch.join("dir");
    succeed(&mut unpack(&archive, &dir, &["--keep-directory-symlink"]));
    for (name, expected) in [
        ("usr/bin/a", "a"),
        ("usr/lib/b", "b"),
        ("usr/lib/c", "c"),
        ("opt/d", "d"),
        ("opt/e/f", "f"),
        ("bin", "file"),
    ] {
        assert_eq!(content(&dir, name), expected, "{name}");
    }
}

#[test]
fn a_kept_link_that_leads_elsewhere_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new();
    let canary = scratch.user_dir("canary", 0o777);
    fs::create_dir(canary.join("bin")).unwrap();
    let outside = canary.to_str().unwrap().to_owned();
    let args = ["--merge", "--keep-directory-symlink"];
    for target in [
        outside.as_str(),
        "/usr/bin",
        "../canary",
        "../dir/usr/bin",
        "usr/../../canary/bin",
        "nowhere",
        "usr/bin/old",
        "bin",
        "usr/bin/old/..",
    ] {
        let dir = scratch.join("dir");
        with_merged_usr(&scratch, &dir);
        fs::remove_file(dir.join("bin")).unwrap();
        symlink(target, dir.join("bin")).unwrap();
        let before = root_snapshot(&scratch.join("."));
        let archive = Tar::new()
            .file("./usr/bin/new", "new")
            .file("./bin/x", "x")
            .end();
        let archive = archive.write(&scratch, "merged.tar");
        let said = fail(2, &mut unpack(&archive, &dir, &args));
        assert!(
            said.contains("bin is a symbolic link that does not lead to a directory of the tree"),
            "{target}: {said}"
        );
        assert_equal(
            &before,
            &root_snapshot(&scratch.join(".")),
            |name, attribute, _, _| {
                // Files came and went there, and the archive is another.
                name.ends_with("usr/bin") && attribute == "mtime" || name.ends_with("merged.tar")
            },
        );
        fs::remove_dir_all(dir).unwrap();
    }
    let dir = scratch.join("dir");
    with_merged_usr(&scratch, &dir);
    let failing = Tar::new()
        .file("./bin/new", "new")
        .file("./bin/sub/new", "new")
        .file("../x", "x")
        .end();
    fail(
        2,
        &mut unpack(&failing.write(&scratch, "a.tar"), &dir, &args),
    );
    assert_eq!(names(&dir.join("usr/bin")), ["old"]);
}
