//! `export`: files of subordinate ids become the caller's.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use crate::world::{Scratch, fail, isar_as_user, succeed, user};

/// A tree of subordinate ids with a kernel that only its root may read.
fn tree() -> Scratch {
    let scratch = Scratch::new();
    for directory in ["rootfs", "rootfs/boot", "rootfs/boot/private"] {
        fs::create_dir(scratch.join(directory)).unwrap();
    }
    for file in [
        "boot/vmlinuz-6.1",
        "boot/private/initrd.img-6.1",
        "boot/private/other",
    ] {
        fs::write(scratch.join("rootfs").join(file), file).unwrap();
        fs::set_permissions(
            scratch.join("rootfs").join(file),
            fs::Permissions::from_mode(0o400),
        )
        .unwrap();
        chown(
            scratch.join("rootfs").join(file),
            Some(user().base),
            Some(user().base),
        )
        .unwrap();
    }
    symlink("/boot/vmlinuz-6.1", scratch.join("rootfs/vmlinuz")).unwrap();
    fs::set_permissions(
        scratch.join("rootfs/boot/private"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    for directory in ["rootfs", "rootfs/boot", "rootfs/boot/private"] {
        chown(
            scratch.join(directory),
            Some(user().base),
            Some(user().base),
        )
        .unwrap();
    }
    scratch
}

#[test]
fn copies_are_the_callers_own_with_the_asked_mode_and_nothing_else_is_left() {
    let scratch = tree();
    succeed(isar_as_user(["export", "rootfs", "/vmlinuz", "kernel"]).current_dir(scratch.path()));
    fs::create_dir(scratch.join("deploy")).unwrap();
    chown(scratch.join("deploy"), Some(user().uid), Some(user().gid)).unwrap();
    fs::set_permissions(scratch.join("deploy"), fs::Permissions::from_mode(0o700)).unwrap();
    let args = [
        "export",
        "--mode",
        "0640",
        "--json",
        "rootfs",
        "boot/**/initrd*",
        "vmlinuz",
        "deploy",
    ];
    let said = succeed(isar_as_user(args).current_dir(scratch.path()));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["files"][0]["member"], &said["files"][0]["bytes"]),
        (&"boot/private/initrd.img-6.1".into(), &27.into())
    );
    for (file, content, mode) in [
        ("kernel", "boot/vmlinuz-6.1", 0o644),
        ("deploy/vmlinuz", "boot/vmlinuz-6.1", 0o640),
        (
            "deploy/initrd.img-6.1",
            "boot/private/initrd.img-6.1",
            0o640,
        ),
    ] {
        let stat = fs::metadata(scratch.join(file)).unwrap();
        assert_eq!(
            (stat.uid(), stat.gid(), stat.mode() & 0o7777),
            (user().uid, user().gid, mode),
            "{file}"
        );
        assert_eq!(fs::read_to_string(scratch.join(file)).unwrap(), content);
    }
    assert_eq!(fs::read_dir(scratch.join("deploy")).unwrap().count(), 2);
    assert_eq!(scratch.names(), ["deploy", "kernel", "rootfs"]);
}

#[test]
fn what_cannot_be_exported_is_named_and_nothing_is_written() {
    let scratch = tree();
    let cases: &[(&[&str], &str)] = &[
        (
            &["rootfs", "/nothing", "x"],
            "nothing: the tree has no such file",
        ),
        (&["rootfs", "no*", "x"], "no*: the tree has no such file"),
        (&["rootfs", "boot", "x"], "boot: it is a directory"),
        (
            &["rootfs", "boot/private/*", "x"],
            "2 files need a directory",
        ),
        (
            &["rootfs", "../outside", "x"],
            "outside: the tree has no such file",
        ),
        (
            &["missing", "a", "x"],
            "cannot export from \"missing\": open the directory: No such file",
        ),
        (
            &["rootfs", "vmlinuz", "no/dir"],
            "\"rootfs\": no: open the directory: No such file",
        ),
    ];
    fs::write(scratch.join("outside"), "secret").unwrap();
    for (args, expected) in cases {
        let said = fail(
            2,
            isar_as_user(["export"])
                .args(*args)
                .current_dir(scratch.path()),
        );
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert_eq!(scratch.names(), ["outside", "rootfs"]);
}

#[test]
fn files_of_one_name_do_not_overwrite_each_other() {
    let scratch = tree();
    fs::write(scratch.join("rootfs/other"), "x").unwrap();
    let said = fail(
        2,
        isar_as_user(["export", "rootfs", "**/other", "other", "."]).current_dir(scratch.path()),
    );
    assert!(said.contains("have the same name"), "{said}");
}

#[test]
fn patterns_are_bytes() {
    let scratch = tree();
    let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    for file in [&b"a\xff"[..], b"b\xfe"] {
        fs::write(scratch.join("rootfs").join(name(file)), "x").unwrap();
    }
    let out = scratch.user_dir("out", 0o755);
    let args = [
        name(b"export"),
        name(b"rootfs"),
        name(b"?\xff"),
        name(b"out"),
    ];
    succeed(isar_as_user(args).current_dir(scratch.path()));
    let found: Vec<_> = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(found, [name(b"a\xff")]);
}
