//! `list`, beside GNU tar.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::crafted::Tar;
use crate::formats::{Extent, plant};
use crate::world::{Scratch, chroot, fail, isar, isar_as_user, require, run, succeed};

/// What both programs print in the same place and language.
fn assert_same_as_tar(archive: &Path) {
    for (ours, theirs) in [
        (&[][..], &["-tf"][..]),
        (&["-l"], &["--numeric-owner", "--full-time", "-tvf"]),
    ] {
        for (locale, zone) in [("C.UTF-8", "UTC"), ("C", "Asia/Kathmandu")] {
            let mut ours = isar(["list"].iter().chain(ours));
            let ours = succeed(ours.arg(archive).env("LC_ALL", locale).env("TZ", zone));
            let theirs = succeed(
                Command::new("tar")
                    .args(theirs)
                    .arg(archive)
                    .env("LC_ALL", locale)
                    .env("TZ", zone),
            );
            assert!(ours.lines().count() > 5);
            for (ours, theirs) in ours.lines().zip(theirs.lines()) {
                assert_eq!(ours, theirs, "{archive:?}");
            }
            assert_eq!(ours, theirs, "{archive:?}");
        }
    }
}

#[test]
fn lines_are_those_of_tar_for_every_kind_and_format() {
    if require(&["tar", "bsdtar"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    plant(&tree, Extent::Attributes);
    fs::write(tree.join("bs\\x \u{fc} \u{1b}[2J\t"), "").unwrap();
    for (name, command) in [
        (
            "v7.tar",
            "tar --format=v7 --exclude=null --exclude=pipe -cf $A -C $T dir empty link block hole 2>&1 || true",
        ),
        ("gnu.tar", "tar --format=gnu -Scf $A -C $T ."),
        (
            "oldgnu.tar.zst",
            "tar --format=oldgnu -cf - -C $T . | zstd -q > $A",
        ),
        (
            "posix.tar.zst",
            "tar --format=posix -Scf - --xattrs --acls -C $T . | zstd -q > $A",
        ),
        ("sparse00.tar", "tar --sparse-version=0.0 -Scf $A -C $T ."),
        ("bsd.tar", "bsdtar --format=pax -cf $A -C $T ."),
        (
            "python.tar",
            "python3 -c 'import os,tarfile; a=tarfile.open(os.environ[\"A\"],\"w\"); a.add(os.environ[\"T\"],\"x\"); a.close()'",
        ),
    ] {
        let archive = scratch.join(name);
        succeed(
            Command::new("sh")
                .args(["-ec", command])
                .env("T", &tree)
                .env("A", &archive)
                .env("LC_ALL", "C.UTF-8"),
        );
        assert_same_as_tar(&archive);
    }
}

#[test]
fn a_packed_chroot_is_listed_as_tar_does_and_by_the_ordinary_user() {
    let Some(tree) = chroot("bookworm") else {
        return;
    };
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar.zst");
    succeed(&mut isar_as_user([
        "-q".as_ref(),
        "pack".as_ref(),
        tree.as_os_str(),
        archive.as_os_str(),
    ]));
    assert_same_as_tar(&archive);
    let names = succeed(&mut isar_as_user(["list".as_ref(), archive.as_os_str()]));
    assert!(
        names.starts_with("./\n") && names.contains("\n./usr/bin/dpkg\n"),
        "{names:.200}"
    );
}

#[test]
fn members_of_unknown_type_are_listed_as_tar_does() {
    let scratch = Scratch::new();
    let mut tar = Tar::new();
    for typeflag in *b"AZz~\xff9" {
        tar = tar.file("./f", "").change_last(156, &[typeflag]);
    }
    assert_same_as_tar(&tar.file("./g", "").end().write(&scratch, "a.tar"));
}

/// A small archive: a few files with odd names among them.
fn small(scratch: &Scratch) -> std::path::PathBuf {
    let archive = scratch.join("small.tar");
    succeed(Command::new("sh").current_dir(scratch.path()).args([
        "-ec",
        "mkdir -p t/etc/apt t/etcetera; touch t/etc/apt/a t/etc/b t/etcetera/c \"$(printf 't/\\377')\" 't/[x'; ln -s b t/etc/l
         tar --format=posix --sort=name -cf small.tar -C t .",
    ]));
    archive
}

#[test]
fn members_are_listed_with_all_below_them() {
    let scratch = Scratch::new();
    let archive = small(&scratch);
    let list = |members: &[&str]| {
        succeed(isar(["list"]).arg(&archive).args(members))
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(&["etc"]),
        ["./etc/", "./etc/apt/", "./etc/apt/a", "./etc/b", "./etc/l"]
    );
    assert_eq!(list(&["./etc/apt/"]), ["./etc/apt/", "./etc/apt/a"]);
    assert_eq!(
        list(&["/etc/[bl]", "etcetera/*"]),
        ["./etc/b", "./etc/l", "./etcetera/c"]
    );
    assert_eq!(list(&["[x"]), ["./[x"]);
    assert_eq!(list(&["."]), list(&[]));
}

#[test]
fn a_member_that_is_not_there_is_named_and_the_others_are_listed() {
    let scratch = Scratch::new();
    let archive = small(&scratch);
    let output = run(isar(["list"]).arg(&archive).args(["etc/b", "no\nsuch"]));
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(2), &b"./etc/b\n"[..])
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no\\nsuch: no such member"), "{said}");
}

#[test]
fn json_has_every_member_with_the_documented_keys() {
    let scratch = Scratch::new();
    let archive = small(&scratch);
    let text = succeed(isar(["list", "--json"]).arg(&archive));
    let found: Value = serde_json::from_str(&text).unwrap();
    let members = found["members"].as_array().unwrap();
    let keys = [
        "name", "path", "kind", "mode", "uid", "gid", "size", "mtime", "target", "device",
        "xattrs", "acls",
    ];
    for member in members {
        let member = member.as_object().unwrap();
        let found: Vec<&String> = member.keys().filter(|key| !key.ends_with("_hex")).collect();
        assert_eq!(found, keys);
    }
    let of = |path: &str| {
        members
            .iter()
            .find(|member| member["path"] == path)
            .unwrap()
    };
    assert_eq!(
        (&of("")["name"], &of("")["kind"]),
        (&"./".into(), &"directory".into())
    );
    assert_eq!(of("etc/l")["target"], "b");
    assert_eq!(of("\u{fffd}")["path_hex"], "ff");
    let none: Value =
        serde_json::from_str(&succeed(isar(["list", "--json"]).arg(&archive).arg("[x"))).unwrap();
    assert_eq!(none["members"].as_array().unwrap().len(), 1);
}

#[test]
fn json_does_not_depend_on_the_long_form() {
    let scratch = Scratch::new();
    let archive = small(&scratch);
    let list = |args: &[&str]| succeed(isar(["list"]).args(args).arg(&archive));
    assert_eq!(list(&["-l", "--json"]), list(&["--json"]));
}

#[test]
fn stdin_is_an_archive_too_and_a_damaged_one_is_an_error() {
    let scratch = Scratch::new();
    let archive = small(&scratch);
    let file = fs::File::open(&archive).unwrap();
    let names = succeed(isar(["list", "-"]).stdin(file));
    assert!(names.contains("./etc/apt/a\n"), "{names}");
    fs::OpenOptions::new()
        .write(true)
        .open(&archive)
        .unwrap()
        .set_len(1000)
        .unwrap();
    let said = fail(2, isar(["list"]).arg(&archive));
    assert!(
        said.contains("small.tar") && said.contains("cut off"),
        "{said}"
    );
    let said = fail(2, &mut isar(["list", "/no/such.tar"]));
    assert!(
        said.contains("cannot list \"/no/such.tar\": open: No such file or directory"),
        "{said}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let scratch = Scratch::new();
    // More names than the pipe and the buffer hold.
    let tree = scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..5000 {
        fs::write(tree.join(format!("{number:0>150}")), "").unwrap();
    }
    let archive = scratch.join("a.tar");
    succeed(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .arg("."),
    );
    let mut child = isar(["list"])
        .arg(&archive)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (
            &first,
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            output.stderr.as_slice()
        ),
        (b"./\n", Some(13), &b""[..])
    );
}

#[test]
fn a_window_wider_than_that_of_sbuild_is_read_when_asked_for() {
    if require(&["zstd"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let archive = scratch.join("wide.tar.zst");
    let plain = crate::crafted::Tar::new()
        .file("./a", "x")
        .end()
        .write(&scratch, "a.tar");
    // A stream does not tell its length, so its window is as wide as allowed.
    let script = "zstd -q -c --ultra -1 --zstd=wlog=28 <\"$0\" >\"$1\"";
    succeed(
        Command::new("sh")
            .args(["-euc", script])
            .args([&plain, &archive]),
    );
    for command in [&["list"][..], &["info"], &["diff"]] {
        let read = |options: &[&str]| {
            let mut reading = isar_as_user(command);
            reading.args(options).arg(&archive);
            if command == ["diff"] {
                reading.arg(&plain);
            }
            reading
        };
        let said = fail(2, &mut read(&[]));
        assert!(said.contains("window of 268435456 bytes"), "{said}");
        succeed(&mut read(&["--window-log=28"]));
    }
}
