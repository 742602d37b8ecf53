//! `diff`: each kind of difference put in and found, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use isar_tarball::internals::error::Escaped;
use serde_json::Value;

use crate::rootfs::{LEFT_OUT, Snapshot, rich, snapshot};
use crate::world::{
    Scratch, as_namespace_root, chroot, fail, isar, isar_as_user, require, run, succeed, text,
};

/// A tree of the namespace with a file of every kind.
const PLANT: &str = r#"
    mkdir -p dir/sub etc var/cache/apt/archives isar-apt
    echo content > dir/file; ln dir/file dir/second; ln dir/file third
    echo other > etc/other; ln -s file dir/link; mkfifo pipe
    truncate -s 1M hole; printf data | dd of=hole bs=1 seek=500000 conv=notrunc status=none; cp --sparse=never hole full
    chown 5:6 etc/other; chmod 4755 etc/other; setfattr -n user.one -v 1 etc/other; setfacl -m u:77:rwx dir/file; setfacl -d -m g:88:r-x dir
    echo package > var/cache/apt/archives/p.deb; echo i > isar-apt/i
    printf x > 'odd
name'
    find . -exec touch -h -d '2020-02-02 02:02:02.123456789' {} +
"#;

fn plant(scratch: &Scratch, name: &str, more: &str) -> PathBuf {
    let tree = scratch.namespace_dir(name);
    let script = format!("cd \"$0\"; umask 022; {PLANT}\n{more}");
    succeed(as_namespace_root("sh").args(["-euc", &script]).arg(&tree));
    tree
}

fn pack(tree: &Path, archive: &Path) {
    succeed(isar_as_user(["-q", "pack"]).arg(tree).arg(archive));
}

/// The lines that the ordinary user sees.
fn diff(a: &Path, b: &Path, options: &[&str]) -> Vec<String> {
    let output = run(isar_as_user(["diff"]).args(options).args([a, b]));
    let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!lines.is_empty())),
        "{}",
        text(&output.stderr)
    );
    lines
}

/// With the sides the other way round.
fn turned(line: &str) -> String {
    let (head, values) = line.rsplit_once(": ").unwrap();
    let (a, b) = values.split_once(" → ").unwrap();
    format!("{head}: {b} → {a}")
}

#[test]
fn each_difference_is_found_and_nothing_else() {
    if require(&["setfattr", "setfacl", "mmdebstrap"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let original = plant(&scratch, "original", "");
    let archive = scratch.join("a.tar.zst");
    pack(&original, &archive);
    let kept = "touch -h -d '2020-02-02 02:02:02.123456789'";
    for (number, (change, expected)) in [
        (String::new(), &[][..]),
        ("rm pipe".into(), &["pipe: presence: named pipe → nothing"]),
        ("mkdir new; chmod 755 new".into(), &["new: presence: nothing → directory"]),
        ("rm -r dir/link; ln -s sub dir/link".into(), &["dir/link: target: file → sub"]),
        ("rm dir/link; mkdir -m 777 dir/link; setfacl -bk dir/link".into(), &["dir/link: kind: symbolic link → directory"]),
        ("chmod 0755 etc/other".into(), &["etc/other: mode: 4755 → 0755"]),
        ("chmod 1755 .".into(), &[".: mode: 0755 → 1755"]),
        ("chown 5:7 etc/other; chmod 4755 etc/other".into(), &["etc/other: owner: 5:6 → 5:7"]),
        ("chown -h 1:0 dir/link".into(), &["dir/link: owner: 0:0 → 1:0"]),
        ("echo >> etc/other; chmod 4755 etc/other".into(), &["etc/other: size: 6 → 7"]),
        ("printf OTHER | dd of=etc/other conv=notrunc status=none; chmod 4755 etc/other".into(), &["etc/other: content: *"]),
        ("printf x | dd of=hole bs=1 seek=900000 conv=notrunc status=none".into(), &["hole: content: *"]),
        ("setfattr -n user.one -v 2 etc/other".into(), &["etc/other: xattr user.one: \"1\" → \"2\""]),
        ("setfattr -x user.one etc/other".into(), &["etc/other: xattr user.one: \"1\" → nothing"]),
        ("setfattr -n user.two -v '' dir/sub".into(), &["dir/sub: xattr user.two: nothing → \"\""]),
        (
            "setfacl -m u:77:r-x dir/file".into(),
            &["dir/file: access ACL: user::rw-,user:77:rwx,group::r--,mask::rwx,other::r-- → user::rw-,user:77:r-x,group::r--,mask::r-x,other::r--"],
        ),
        (
            "setfacl -k dir".into(),
            &["dir: default ACL: user::rwx,group::r-x,group:88:r-x,mask::r-x,other::r-x → nothing"],
        ),
        ("cp -a third x; mv x third".into(), &["third: hard link: dir/file → nothing"]),
        ("ln -f full etc/full; ln -f hole var/hole; rm etc/full var/hole".into(), &[]),
        ("rm 'odd\nname'".into(), &["odd\\nname: presence: file → nothing"]),
        // Where the holes are is none.
        ("cp --sparse=never --preserve=all hole x; mv x hole; cp --sparse=always --preserve=all full x; mv x full".into(), &[]),
        // Nor is what pack leaves out.
        ("rm -r var/cache/apt/archives isar-apt".into(), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let changed = plant(&scratch, &format!("changed-{number}"), &format!("{change}\nfind . -exec {kept} {{}} +"));
        for a in [&original, &archive] {
            let found = diff(a, &changed, &["--mtime"]);
            assert_eq!(found.len(), expected.len(), "{change}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(expected.strip_suffix('*').map_or(found == expected, |head| found.starts_with(head)), "{change}: {found}");
            }
            let back: Vec<String> = diff(&changed, a, &["--mtime"]);
            assert_eq!(back, found.iter().map(|line| turned(line)).collect::<Vec<_>>(), "{change}");
        }
        fs::remove_dir_all(&changed).unwrap();
    }
}

#[test]
fn times_excludes_and_default_excludes_are_the_users_choice() {
    let scratch = Scratch::new();
    let a = plant(&scratch, "a", "");
    let b = plant(
        &scratch,
        "b",
        "touch -d '2020-02-02 02:02:02.5' etc/other; echo x > isar-apt/x; echo y > dir/sub/y",
    );
    let sub = "dir/sub/y: presence: nothing → file";
    // The touched directories differ as well.
    assert_eq!(diff(&a, &b, &[]), [sub]);
    assert_eq!(
        diff(&a, &b, &["--exclude", "/dir/s*"]),
        Vec::<String>::new()
    );
    // A pattern that matches on one side alone has matched; one that matches on neither is noted.
    pack(&a, &scratch.join("a.tar"));
    for a in [&a, &scratch.join("a.tar")] {
        let options = ["--exclude=dir/sub/y", "--exclude=dir/s*", "--exclude=y"];
        let output = run(isar_as_user(["diff"]).args(options).args([a, &b]));
        let said = text(&output.stderr);
        assert_eq!(
            (text(&output.stdout), output.status.code()),
            (String::new(), Some(0))
        );
        let note = "the exclude pattern \"y\" matches nothing: patterns are anchored at the root of the tree; did you mean \"**/y\"?";
        assert_eq!(said.matches("matches nothing").count(), 1, "{said}");
        assert!(said.contains(note), "{said}");
    }
    assert_eq!(
        diff(&a, &b, &["--no-default-excludes"]),
        [sub, "isar-apt/x: presence: nothing → file"]
    );
    let mtime = "etc/other: mtime: 1580608922.123456789 → 1580608922.500000000";
    assert!(diff(&a, &b, &["--mtime"]).contains(&mtime.to_owned()));
    assert!(
        !diff(&a, &b, &["--mtime=s"])
            .iter()
            .any(|line| line.starts_with("etc/other"))
    );
    assert!(
        diff(&a, &b, &["--mtime=s"])
            .iter()
            .any(|line| line.starts_with("dir/sub: mtime"))
    );
}

#[test]
fn archives_of_other_programs_equal_the_tree_they_were_made_of() {
    if require(&["bsdtar", "tar", "zstd"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let tree = plant(&scratch, "tree", "");
    let ours = scratch.join("ours.tar.zst");
    pack(&tree, &ours);
    for (name, command) in [
        (
            "gnu.tar",
            "tar --format=posix --xattrs --xattrs-include='*' --acls -Scf - -C \"$0\" .",
        ),
        (
            "bsd.tar",
            "bsdtar --format=pax --xattrs --acls -cf - -C \"$0\" .",
        ),
        (
            "sorted.tar.zst",
            "cd \"$0\"; find . -print0 | sort -rz | tar --null -T - --no-recursion --format=posix --xattrs --acls -cf - | zstd -q",
        ),
    ] {
        let archive = scratch.join(name);
        let made = as_namespace_root("sh")
            .args(["-ec", command])
            .arg(&tree)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        fs::write(&archive, made.stdout).unwrap();
        assert_eq!(
            diff(&tree, &archive, &["--mtime"]),
            Vec::<String>::new(),
            "{name}"
        );
        assert_eq!(
            diff(&archive, &tree, &["--mtime", "--no-default-excludes"]),
            Vec::<String>::new(),
            "{name}"
        );
        // Between archives nothing is left out unasked.
        let left_out = [
            "isar-apt: ",
            "isar-apt/i: ",
            "var/cache/apt/archives: ",
            "var/cache/apt/archives/p.deb: ",
        ];
        let found = diff(&archive, &ours, &[]);
        assert_eq!(found.len(), left_out.len(), "{found:?}");
        assert!(
            found
                .iter()
                .zip(left_out)
                .all(|(found, path)| found.starts_with(path)),
            "{found:?}"
        );
    }
}

#[test]
fn device_nodes_and_sockets_of_a_directory_are_noted() {
    let scratch = Scratch::new();
    let tree = plant(&scratch, "tree", "");
    succeed(
        Command::new("mknod")
            .arg(tree.join("null"))
            .args(["c", "1", "3"]),
    );
    let script = "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])";
    succeed(
        Command::new("python3")
            .args(["-c", script])
            .arg(tree.join("socket")),
    );
    let archive = scratch.join("a.tar");
    succeed(isar(["-q", "pack"]).arg(&tree).arg(&archive).args([
        "--format",
        "tar",
        "--unmapped",
        "squash",
        "--any-root-owner",
    ]));
    let output = run(isar(["diff"]).args([&tree, &archive]));
    let said = text(&output.stderr);
    // Seen from outside, the subordinate ids are others than those squashed.
    assert!(!text(&output.stdout).contains("null") && !text(&output.stdout).contains("socket"));
    assert!(
        said.contains("not compared: 1 device node that only a directory has, 1 socket"),
        "{said}"
    );
    let output = run(isar(["diff", "--devices", "keep"]).args([&tree, &archive]));
    assert!(text(&output.stdout).contains("null: presence: character device → nothing\n"));
}

#[test]
fn a_real_chroot_equals_its_archive_for_the_ordinary_user_and_for_tar() {
    let Some(tree) = chroot("bookworm") else {
        return;
    };
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar.zst");
    pack(&tree, &archive);
    assert_eq!(diff(&tree, &archive, &["--mtime"]), Vec::<String>::new());
    assert_eq!(diff(&archive, &tree, &["--mtime"]), Vec::<String>::new());
    // GNU tar's own comparison says the same, and what find sees are the archive's names.
    let tar = run(as_namespace_root("tar")
        .args(["--zstd", "--numeric-owner", "--compare", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree));
    assert!(tar.status.success());
    let find = "cd \"$0\" && find . -path ./var/cache/apt/archives -prune -o -path ./isar-apt -prune -o ! -type s ! -type c ! -type b -print | sort";
    let on_disk = as_namespace_root("sh")
        .args(["-c", find])
        .arg(&tree)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let listed = isar_as_user(["list"]).arg(&archive).output().unwrap();
    let mut names: Vec<String> = text(&listed.stdout)
        .lines()
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect();
    names.sort();
    let mut expected: Vec<String> = text(&on_disk.stdout)
        .lines()
        .map(|name| name.replace('\\', "\\\\"))
        .collect();
    expected.sort();
    assert!(
        names == expected && names.len() > 5000,
        "{} and {}",
        names.len(),
        expected.len()
    );
    // One byte in one file of thousands: tar and diff both see it.
    let changed = scratch.namespace_dir("changed");
    let script = "cd \"$0\" && tar --zstd --numeric-owner -xf - && printf x | dd of=usr/bin/dpkg bs=1 seek=5000 conv=notrunc status=none";
    succeed(
        as_namespace_root("sh")
            .args(["-ec", script])
            .arg(&changed)
            .stdin(fs::File::open(&archive).unwrap()),
    );
    let found = diff(&archive, &changed, &[]);
    assert!(
        found.len() == 1 && found[0].starts_with("usr/bin/dpkg: content: "),
        "{found:?}"
    );
}

/// Changes to the tree of [`rich`], whose hard links stay together.
const CHANGES: &str = r#"
    chmod 0511 dir-555; chmod 0644 modes/4755; chown 7:8 owners/0:0 times; rm -r dir-3777; echo more >> sizes/513
    printf x | dd of=sizes/10240 bs=1 seek=10000 conv=notrunc status=none; printf x | dd of=sparse/all bs=1 seek=3000000 conv=notrunc status=none
    ln -sfn elsewhere links/to-4000; rm fifo-alone; mkdir fifo-alone; setfattr -n user.text -v other attributes/user
    setfattr -x user.on.directory attributes; setfacl -m u:999:r attributes/acl; setfacl -d -m u:5:r attributes/acl-default
    setcap cap_chown=ep attributes/capability; echo > 'new in b'; rm names/-rf; chown -h 9:9 links/loop; truncate -s 70M sparse/last
"#;

/// The paths at which two snapshots differ, as the program shows them. Times and holes do not
/// count; what the names of a file share counts once.
fn paths_that_differ(a: &Snapshot, b: &Snapshot) -> Vec<String> {
    let facts = |value: Option<&Value>| {
        let mut facts = value.and_then(Value::as_object).cloned()?;
        ["mtime", "extents"]
            .iter()
            .for_each(|key| _ = facts.remove(*key));
        if facts["xattrs"]
            .as_object()
            .unwrap()
            .contains_key("system.posix_acl_access")
        {
            facts.remove("mode");
        }
        Some(facts)
    };
    let mut paths: Vec<&String> = a.keys().chain(b.keys()).collect();
    paths.sort();
    paths.dedup();
    let differs = |path: &&&String| {
        let (a, b) = (facts(a.get(**path)), facts(b.get(**path)));
        let first = |facts: &Option<serde_json::Map<String, Value>>| {
            facts.as_ref()?.get("same as")?.as_str().map(str::to_owned)
        };
        let is_second = first(&a) == first(&b) && first(&a).is_some_and(|first| first != ***path);
        !LEFT_OUT.contains(&path.as_str()) && !is_second && a != b
    };
    // A snapshot has bytes as Latin-1.
    let shown = |path: &String| {
        Escaped(&path.chars().map(|byte| byte as u8).collect::<Vec<u8>>()).to_string()
    };
    let mut found: Vec<String> = paths
        .iter()
        .filter(differs)
        .map(|path| shown(path))
        .collect();
    found.sort();
    found
}

#[test]
fn a_comparison_by_other_means_finds_the_same_paths() {
    if require(&["setfattr", "setfacl", "setcap"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let a = rich(&scratch, "a");
    let b = scratch.namespace_dir("b");
    let script = format!("cp -a \"$0/.\" \"$1\"; cd \"$1\"; PATH=$PATH:/sbin:/usr/sbin\n{CHANGES}");
    succeed(
        as_namespace_root("sh")
            .args(["-euc", &script])
            .args([&a, &b]),
    );
    let (archive_a, archive_b) = (scratch.join("a.tar.zst"), scratch.join("b.tar"));
    pack(&a, &archive_a);
    pack(&b, &archive_b);
    let expected = paths_that_differ(&snapshot(&a), &snapshot(&b));
    assert!(expected.len() >= 20, "{expected:?}");
    for (a, b) in [
        (&a, &b),
        (&archive_a, &b),
        (&a, &archive_b),
        (&archive_a, &archive_b),
    ] {
        let lines = diff(a, b, &[]);
        // A path may have a colon in it; a word that follows it has none.
        let mut paths: Vec<String> = lines.iter().map(|line| path_of(line).to_owned()).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths, expected, "{lines:#?}");
    }
    assert_eq!(diff(&a, &archive_a, &["--mtime"]), Vec::<String>::new());
    assert_eq!(diff(&archive_b, &b, &["--mtime"]), Vec::<String>::new());
}

/// The path in front of `: WHAT: A → B`.
fn path_of(line: &str) -> &str {
    let words = [
        "presence",
        "kind",
        "hard link",
        "size",
        "content",
        "target",
        "device",
        "mode",
        "owner",
        "access ACL",
        "default ACL",
        "xattr",
    ];
    let ends = words
        .iter()
        .filter_map(|word| line.find(&format!(": {word}")));
    &line[..ends.min().unwrap()]
}

#[test]
fn json_and_quiet_say_the_same() {
    let scratch = Scratch::new();
    let a = plant(&scratch, "a", "");
    let b = plant(
        &scratch,
        "b",
        "chmod 0700 dir/sub; setfattr -n user.one -v 3 etc/other",
    );
    let output = run(isar_as_user(["diff", "--json"]).args([&a, &b]));
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        found.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["a", "b", "equal", "differences", "skipped"]
    );
    assert_eq!(
        (&found["equal"], &found["a"]),
        (&false.into(), &a.to_str().unwrap().into())
    );
    let expected: Value = serde_json::json!([
        {"path": "dir/sub", "what": "mode", "xattr": null, "a": "0755", "b": "0700"},
        {"path": "etc/other", "what": "xattr", "xattr": "user.one", "a": "\"1\"", "b": "\"3\""},
    ]);
    assert_eq!(found["differences"], expected);
    let skipped: Vec<&String> = found["skipped"].as_object().unwrap().keys().collect();
    assert_eq!(
        skipped,
        ["devices", "sockets", "mounts", "excluded", "acl_entries"]
    );
    let quiet = run(isar_as_user(["-q", "diff"]).args([&a, &b]));
    assert_eq!(
        (quiet.status.code(), quiet.stdout.len(), quiet.stderr.len()),
        (Some(1), 0, 0)
    );
}

#[test]
fn a_side_that_cannot_be_read_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    let tree = plant(&scratch, "tree", "");
    let archive = scratch.join("a.tar");
    pack(&tree, &archive);
    let missing = scratch.join("missing");
    let said = fail(2, isar_as_user(["diff"]).args([&tree, &missing]));
    assert!(
        said.contains("missing") && said.contains("No such file or directory"),
        "{said}"
    );
    let length = fs::metadata(&archive).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&archive)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    let said = fail(2, isar_as_user(["diff"]).args([&tree, &archive]));
    assert!(said.contains("a.tar") && said.contains("cut off"), "{said}");
    let said = fail(2, &mut isar_as_user(["diff", "-", "-"]));
    assert!(said.contains("both are stdin"), "{said}");
    let script = "import tarfile,io; t=tarfile.open('l.tar','w'); i=tarfile.TarInfo('./l'); i.type=tarfile.LNKTYPE; i.linkname='./none'; t.addfile(i); t.close()";
    succeed(
        Command::new("python3")
            .current_dir(scratch.path())
            .args(["-c", script]),
    );
    let link = scratch.join("l.tar");
    let said = fail(2, isar(["diff"]).args([&link, &link]));
    assert!(
        said.contains("l: a hard link to none, which does not stand before it"),
        "{said}"
    );
}
