//! `export`: files of subordinate ids become the caller's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::rootfs::made_by;
use crate::world::{Scratch, as_user, fail, isar_as_user, program, run, succeed, text, user};

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
        ("kernel", "boot/vmlinuz-6.1", 0o400),
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
        (&["rootfs", "pipe", "x"], "pipe: it is a named pipe"),
        (
            &["rootfs", "boot", "kept"],
            "\"kept\" exists; remove it first",
        ),
        (
            &["rootfs", "boot", "/dev/null"],
            "a directory cannot be written to a pipe or device",
        ),
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
    fs::write(scratch.join("kept"), "kept").unwrap();
    succeed(Command::new("mkfifo").arg(scratch.join("rootfs/pipe")));
    for (args, expected) in cases {
        let said = fail(
            2,
            isar_as_user(["export"])
                .args(*args)
                .current_dir(scratch.path()),
        );
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert_eq!(scratch.names(), ["kept", "outside", "rootfs"]);
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

/// The permissions of everything below a directory and the directory itself.
fn modes(top: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        }
        if !stat.is_symlink() {
            let shown = path
                .strip_prefix(top)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            assert_eq!(
                (stat.uid(), stat.gid()),
                (user().uid, user().gid),
                "{shown}"
            );
            found.insert(shown, stat.mode() & 0o7777);
        }
    }
    found
}

#[test]
fn a_copy_never_has_more_permissions_than_the_original() {
    let scratch = Scratch::new();
    made_by(
        &scratch,
        "rootfs",
        "mkdir -p etc/private usr/bin
         for m in 640 600 755 4755 444 666 111; do echo $m >etc/f$m; chmod $m etc/f$m; done
         echo x >etc/private/key; chmod 600 etc/private/key; chmod 700 etc/private
         echo x >etc/acl; chmod 600 etc/acl; setfacl -m u:5:rw etc/acl
         ln -s f640 etc/link; mkfifo etc/pipe; mkdir -m 1777 etc/sticky",
    );
    let export = |umask: &str, args: &[&str]| {
        let script = format!("umask {umask}; exec \"$0\" export \"$@\"");
        let mut command = as_user("sh");
        command.args(["-c", &script]).arg(program()).args(args);
        succeed(command.current_dir(scratch.path()));
    };
    let original = [
        ("f640", 0o640),
        ("f600", 0o600),
        ("f755", 0o755),
        ("f4755", 0o755),
        ("f444", 0o444),
        ("f666", 0o666),
        ("f111", 0o111),
        // The mask shows as the group's permissions.
        ("acl", 0o600),
    ];
    for (umask, mask) in [("022", 0o022), ("000", 0), ("077", 0o077)] {
        // Several members, one member, a directory.
        let several = scratch.user_dir(&format!("several-{umask}"), 0o700);
        let members = original.map(|(name, _)| format!("etc/{name}"));
        let mut args = vec!["rootfs"];
        args.extend(members.iter().map(String::as_str));
        args.push(several.to_str().unwrap());
        export(umask, &args);
        let directory = format!("etc-{umask}");
        export(umask, &["rootfs", "/etc", &directory]);
        let single = format!("single-{umask}");
        export(umask, &["rootfs", "etc/f640", &single]);
        let several = modes(&several);
        let copied = modes(&scratch.join(&directory));
        for (name, mode) in original {
            assert_eq!(several[name], mode & !mask, "{name} with umask {umask}");
            assert_eq!(copied[name], mode & !mask, "{name} with umask {umask}");
        }
        assert_eq!(modes(&scratch.join(&single))[""], 0o640 & !mask);
        for (name, mode) in [
            ("", 0o755),
            ("private", 0o700),
            ("private/key", 0o600),
            ("sticky", 0o777),
        ] {
            assert_eq!(copied[name], mode & !mask, "{name:?} with umask {umask}");
        }
        let link = fs::read_link(scratch.join(&directory).join("link")).unwrap();
        assert_eq!(link, Path::new("f640"));
        assert!(!scratch.join(&directory).join("pipe").exists());
    }
    export("077", &["--mode=0644", "rootfs", "etc/f600", "chosen"]);
    assert_eq!(modes(&scratch.join("chosen"))[""], 0o644);
    export("077", &["--mode=0640", "rootfs", "etc", "chosen-etc"]);
    let chosen = modes(&scratch.join("chosen-etc"));
    assert_eq!(
        (chosen["private/key"], chosen["private"], chosen[""]),
        (0o640, 0o750, 0o750)
    );
}

#[test]
fn a_copy_keeps_the_holes() {
    let scratch = Scratch::new();
    made_by(
        &scratch,
        "rootfs",
        "mkdir d; truncate -s 300M image; printf x | dd of=image bs=1 seek=100M conv=notrunc status=none; cp --sparse=always image d/image",
    );
    for (member, copy) in [("image", "image"), ("d", "d/image")] {
        succeed(isar_as_user(["export", "rootfs", member, member]).current_dir(scratch.path()));
        let stat = fs::metadata(scratch.join(copy)).unwrap();
        assert_eq!(stat.len(), 300 << 20);
        assert!(
            stat.blocks() * 512 < 1 << 20,
            "{member}: {} blocks",
            stat.blocks()
        );
        succeed(
            Command::new("cmp")
                .arg(scratch.join("rootfs/image"))
                .arg(scratch.join(copy)),
        );
    }
}

#[test]
fn binary_content_and_archives_do_not_go_to_a_terminal() {
    let scratch = Scratch::new();
    made_by(
        &scratch,
        "rootfs",
        "printf 'a\\0b' >binary; echo words >text",
    );
    let on_terminal = |args: &str| {
        let script = format!(
            "cd {} && {} {args}",
            scratch.path().display(),
            program().display()
        );
        let output =
            run(as_user("script").args(["--quiet", "--return", "--command", &script, "/dev/null"]));
        (text(&output.stdout).replace('\r', ""), output.status.code())
    };
    for args in [
        "pack --format zst rootfs -",
        "pack --format tar rootfs /dev/stdout",
        "export rootfs binary /dev/stdout",
        "export rootfs binary /dev/tty",
    ] {
        let (said, status) = on_terminal(args);
        assert!(
            said.contains("is a terminal, and binary data does not belong there"),
            "{args}: {said}"
        );
        assert_eq!(status, Some(2), "{args}");
    }
    assert_eq!(
        on_terminal("export rootfs text /dev/stdout"),
        ("words\n".into(), Some(0))
    );
}
