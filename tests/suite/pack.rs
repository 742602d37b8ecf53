//! `pack`: what goes in, what comes out, and what it says.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, seek};
use serde_json::{Map, Value};

use crate::rootfs::{made_by, packed, rich, snapshot, tarfile_snapshot};
use crate::world::{
    Mounted, Scratch, as_namespace_root, as_user, fail, isar, isar_as_user, program, succeed, text,
    user,
};

/// Runs a program and prints how much memory it took at most, in MiB.
const PEAK: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)";

/// The members of an archive as GNU tar lists them.
fn members(archive: &Path) -> Vec<String> {
    succeed(Command::new("tar").arg("-tf").arg(archive))
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Packs with `--json` and gives the summary.
pub fn summary(args: &[&str], tree: &Path, archive: &Path) -> Value {
    serde_json::from_str(&succeed(
        isar_as_user(["pack", "--json"])
            .args(args)
            .arg(tree)
            .arg(archive),
    ))
    .unwrap()
}

#[test]
fn excludes_are_anchored_and_take_what_lies_below_with_them() {
    let scratch = Scratch::new();
    let tree = made_by(
        &scratch,
        "tree",
        "mkdir -p a/x/deep b/a/x isar-apt etc/apt/preferences.d var/cache/apt/archives
         touch a/x/deep/file a/y.pyc b/a/x/file b/z.pyc isar-apt/repo etc/apt/preferences.d/isar-apt var/cache/apt/archives/p.deb",
    );
    let archive = scratch.join("x.tar");
    let all = [
        "./",
        "./a/",
        "./a/x/",
        "./a/x/deep/",
        "./a/x/deep/file",
        "./a/y.pyc",
        "./b/",
        "./b/a/",
        "./b/a/x/",
        "./b/a/x/file",
        "./b/z.pyc",
        "./etc/",
        "./etc/apt/",
        "./etc/apt/preferences.d/",
        "./etc/apt/preferences.d/isar-apt",
        "./isar-apt/",
        "./isar-apt/repo",
        "./var/",
        "./var/cache/",
        "./var/cache/apt/",
        "./var/cache/apt/archives/",
        "./var/cache/apt/archives/p.deb",
    ];
    let defaults = [
        "./isar-apt/",
        "./isar-apt/repo",
        "./var/cache/apt/archives/",
        "./var/cache/apt/archives/p.deb",
    ];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--no-default-excludes"], &[]),
        (&[], &[]),
        (
            &["--exclude", "a/x"],
            &["./a/x/", "./a/x/deep/", "./a/x/deep/file"],
        ),
        (
            &["--exclude", "/a", "--exclude=./etc"],
            &[
                "./a/",
                "./a/x/",
                "./a/x/deep/",
                "./a/x/deep/file",
                "./a/y.pyc",
                "./etc/",
                "./etc/apt/",
                "./etc/apt/preferences.d/",
                "./etc/apt/preferences.d/isar-apt",
            ],
        ),
        (&["--exclude", "*.pyc"], &[]),
        (&["--exclude", "**/*.pyc"], &["./a/y.pyc", "./b/z.pyc"]),
        (&["--exclude", "*/*.pyc"], &["./a/y.pyc", "./b/z.pyc"]),
        (
            &["--exclude", "var/**"],
            &["./var/cache/", "./var/cache/apt/"],
        ),
    ];
    for (options, left_out) in cases {
        let excluded = summary(options, &tree, &archive)["skipped"]["excluded"]
            .as_u64()
            .unwrap();
        let defaults = if options.contains(&"--no-default-excludes") {
            &[][..]
        } else {
            &defaults
        };
        let mut expected: Vec<&str> = all
            .into_iter()
            .filter(|member| !left_out.contains(member) && !defaults.contains(member))
            .collect();
        let mut found = members(&archive);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{options:?}");
        assert_eq!(excluded > 0, found.len() < all.len(), "{options:?}");
    }
}

#[test]
fn a_pattern_that_matched_nothing_is_reported_with_what_may_be_meant() {
    let scratch = Scratch::new();
    made_by(
        &scratch,
        "rootfs",
        "mkdir -p usr/share/doc/x var/cache/apt/archives; touch usr/share/doc/x/y p.deb var/cache/apt/archives/q.deb usr/q.deb",
    );
    fs::write(
        scratch.join("patterns"),
        "# documentation\n\nusr/share/doc\r\nusr/share/doc/x\nnothing\n",
    )
    .unwrap();
    let options = [
        "pack",
        "-v",
        "--exclude-from=patterns",
        "--exclude=rootfs/usr/share",
        "--exclude=*.rpm",
        "--exclude=*.deb",
        "--exclude=/var/cache/apt/archives/*.deb",
        "rootfs",
        "x.tar",
    ];
    let output = isar_as_user(options)
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let notes: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("exclude"))
        .collect();
    let note = |pattern: &str, meant: &str| {
        format!(
            "isar-tarball: warning: the exclude pattern {pattern:?} matches nothing: patterns are anchored at the root of the tree; did you mean {meant:?}?"
        )
    };
    assert_eq!(
        notes,
        [
            "left out: p.deb (excluded)",
            "left out: usr/share/doc (excluded)",
            "left out: var/cache/apt/archives (excluded)",
            &note("rootfs/usr/share", "/usr/share"),
            &note("*.rpm", "**/*.rpm"),
            &note("nothing", "**/nothing"),
        ]
    );
    assert!(members(&scratch.join("x.tar")).contains(&"./usr/q.deb".to_owned()));
    let mut quiet = isar_as_user(["pack", "-q", "--exclude=*.rpm", "rootfs", "y.tar"]);
    let output = quiet.current_dir(scratch.path()).output().unwrap();
    assert_eq!(
        (text(&output.stderr), output.status.code()),
        (String::new(), Some(0))
    );

    // The same patterns of unpack.
    let options = [
        "unpack",
        "-v",
        "--exclude-from=patterns",
        "--exclude=*.rpm",
        "--exclude=usr/share",
        "x.tar",
        "out",
    ];
    let output = isar_as_user(options)
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    let notes: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("exclude"))
        .collect();
    assert_eq!(
        notes,
        [
            "left out: usr/share (excluded)",
            &note("*.rpm", "**/*.rpm"),
            &note("nothing", "**/nothing"),
        ],
        "{said}"
    );
    let said = fail(
        2,
        isar_as_user(["pack", "--exclude-from=missing", "rootfs", "z.tar"])
            .current_dir(scratch.path()),
    );
    assert!(
        said.contains("cannot read \"missing\": No such file"),
        "{said}"
    );
}

#[test]
fn an_acl_entry_that_the_map_cannot_hold_is_reported_and_left_out_on_request() {
    let scratch = Scratch::new();
    let in_scratch = |args: &[&str]| {
        let mut command = isar_as_user(args.iter().copied());
        command.current_dir(scratch.path());
        command
    };
    // The default ACL names the caller, who has no id in the namespace.
    succeed(&mut in_scratch(&["grant-acl", "--share", "shared"]));
    succeed(&mut in_scratch(&["unshare", "--", "mkdir", "shared/tree"]));
    succeed(&mut in_scratch(&[
        "unshare",
        "--",
        "touch",
        "shared/tree/file",
    ]));
    let said = fail(2, &mut in_scratch(&["pack", "shared/tree", "x.tar"]));
    for expected in [
        "cannot pack \"shared/tree\": .: ",
        "names a user whose id is not mapped",
        "setfacl -b -k",
        "--unmapped squash",
    ] {
        assert!(said.contains(expected), "{expected:?}: {said}");
    }
    let said = summary(
        &["--unmapped=squash"],
        &scratch.join("shared/tree"),
        &scratch.join("x.tar"),
    );
    assert_eq!(
        (&said["skipped"]["acl_entries"], &said["squashed"]),
        (&3.into(), &0.into())
    );
    // The archive is the same as that of the tree without these entries.
    let without = format!("u:{}", user().uid);
    for (path, options) in [
        ("shared/tree", &["--no-mask", "-x"][..]),
        ("shared/tree", &["--no-mask", "-d", "-x"]),
        ("shared/tree/file", &["--no-mask", "-x"]),
    ] {
        let mut setfacl = Command::new("setfacl");
        succeed(setfacl.args(options).arg(&without).arg(scratch.join(path)));
    }
    let said = summary(&[], &scratch.join("shared/tree"), &scratch.join("y.tar"));
    assert_eq!(said["skipped"]["acl_entries"], 0);
    let said = succeed(&mut in_scratch(&["diff", "x.tar", "y.tar"]));
    assert_eq!(said, "");
    // The remedy that the message names.
    succeed(&mut in_scratch(&["unshare", "--", "mkdir", "shared/other"]));
    fail(2, &mut in_scratch(&["pack", "shared/other", "z.tar"]));
    let remedy = ["unshare", "--", "setfacl", "-b", "-k", "shared/other"];
    succeed(&mut in_scratch(&remedy));
    succeed(&mut in_scratch(&["pack", "shared/other", "z.tar"]));
}

#[test]
fn owners_that_sbuild_cannot_map_are_stored_as_nobody_when_asked() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "touch mapped unmapped; chown 5:6 mapped");
    std::os::unix::fs::chown(
        tree.join("unmapped"),
        Some(user().uid),
        Some(user().base + 7),
    )
    .unwrap();
    let archive = scratch.join("x.tar");
    let said = summary(&["--unmapped", "squash"], &tree, &archive);
    assert_eq!(said["squashed"], 1);
    let found = tarfile_snapshot(&archive);
    let owner = |path: &str| {
        (
            found[path]["uid"].as_u64().unwrap(),
            found[path]["gid"].as_u64().unwrap(),
        )
    };
    assert_eq!((owner("mapped"), owner("unmapped")), ((5, 6), (65534, 7)));
}

#[test]
fn attributes_are_left_out_when_asked() {
    let scratch = Scratch::new();
    let archive = scratch.join("x.tar");
    summary(&["--no-xattrs"], &rich(&scratch, "tree"), &archive);
    for (path, file) in tarfile_snapshot(&archive) {
        assert_eq!(file["xattrs"], Value::Object(Map::new()), "{path}");
    }
}

#[test]
fn stdout_gets_the_same_bytes_and_stderr_the_summary() {
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    for format in ["zst", "tar"] {
        let archive = scratch.join(if format == "zst" {
            "x.tar.zst"
        } else {
            "x.tar"
        });
        summary(&[], &tree, &archive);
        let output = isar_as_user(["pack", "--format", format])
            .arg(&tree)
            .arg("-")
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout == fs::read(&archive).unwrap(),
            "{}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains("archive   stdout, "),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn the_summary_is_json_with_stable_keys() {
    let scratch = Scratch::new();
    let (tree, archive) = (rich(&scratch, "tree"), scratch.join("x.tar.zst"));
    let said = summary(&[], &tree, &archive);
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        keys(&said),
        [
            "archive",
            "archive_bytes",
            "tar_bytes",
            "frames",
            "reused",
            "sha256",
            "seconds",
            "members",
            "skipped",
            "squashed"
        ]
    );
    let members = [
        "total",
        "directories",
        "files",
        "sparse",
        "hard_links",
        "symlinks",
        "fifos",
        "devices",
    ];
    assert_eq!(keys(&said["members"]), members);
    assert_eq!(keys(&said["reused"]), ["frames", "bytes", "damaged"]);
    assert_eq!(
        keys(&said["skipped"]),
        [
            "excluded",
            "mounts",
            "devices",
            "sockets",
            "xattrs",
            "acl_entries"
        ]
    );
    assert_eq!(said["archive"], archive.to_str().unwrap());
    assert_eq!(said["archive_bytes"], fs::metadata(&archive).unwrap().len());
    assert_eq!(said["skipped"]["sockets"], 1);
    let digest = succeed(Command::new("sha256sum").arg(&archive));
    assert_eq!(said["sha256"], digest.split_whitespace().next().unwrap());
    let kinds = |kind: &str| {
        packed(snapshot(&tree))
            .values()
            .filter(|file| file["kind"] == kind)
            .count() as u64
    };
    assert_eq!(said["members"]["directories"], kinds("directory"));
    let parts: u64 = members[1..]
        .iter()
        .filter(|key| **key != "sparse")
        .map(|key| said["members"][key].as_u64().unwrap())
        .sum();
    assert_eq!(said["members"]["total"], parts);
}

#[test]
fn the_archive_belongs_to_the_caller_with_the_mode_that_the_umask_leaves() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "touch file");
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("000", 0o666)] {
        let archive = scratch.join("x.tar");
        fs::write(&archive, "old").unwrap();
        let script = format!("umask {umask}; exec \"$0\" pack -q \"$1\" \"$2\"");
        succeed(
            as_user("sh")
                .args(["-c", &script])
                .arg(program())
                .args([&tree, &archive]),
        );
        let meta = fs::metadata(&archive).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777),
            (user().uid, user().gid, mode)
        );
    }
}

#[test]
fn sha256sum_agrees_with_the_digest() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "touch file");
    scratch.user_dir("elsewhere", 0o755);
    for (archive, digest, at) in [
        ("x.tar", "x.sha256", "."),
        ("x.tar", "elsewhere/x.sha256", "/"),
        ("./x.tar", "x.sha256", "."),
        ("new\nline \\.tar", "y.sha256", "."),
        ("elsewhere/x.tar", "elsewhere/x.sha256", "elsewhere"),
    ] {
        let mut pack = isar_as_user(["pack", "-q", "--digest", digest]);
        succeed(pack.arg(&tree).arg(archive).current_dir(scratch.path()));
        let mut sum = Command::new("sha256sum");
        let said = succeed(
            sum.args(["--check", "--strict"])
                .arg(scratch.join(digest))
                .current_dir(scratch.join(at)),
        );
        assert!(
            said.trim_end().ends_with(": OK"),
            "{archive:?} {digest:?}: {said}"
        );
        assert!(!text(&fs::read(scratch.join(digest)).unwrap()).contains("tree"));
    }
}

#[test]
fn the_source_is_removed_after_the_archive_stands() {
    let scratch = Scratch::new();
    // The caller's own directory, the tree a directory of the namespace in it.
    let place = scratch.user_dir("place", 0o755);
    let tree = rich(&scratch, "place/tree");
    let archive = scratch.join("x.tar.zst");
    succeed(isar_as_user(["pack", "--remove-source"]).args([&tree, &archive]));
    assert!(archive.exists() && fs::read_dir(&place).unwrap().next().is_none());
}

#[test]
fn the_source_stays_when_the_archive_does_not_stand() {
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let before = snapshot(&tree);
    std::os::unix::fs::chown(tree.join("sizes/1"), Some(user().uid), None).unwrap();
    let said = fail(
        2,
        isar_as_user(["pack", "--remove-source"]).args([&tree, &scratch.join("x.tar.zst")]),
    );
    assert!(said.contains("sizes/1"), "{said}");
    std::os::unix::fs::chown(tree.join("sizes/1"), Some(user().base), None).unwrap();
    assert_eq!(snapshot(&tree), before);
    assert_eq!(scratch.names(), ["tree"]);
}

#[test]
fn other_mounts_are_entered_only_when_asked() {
    let scratch = Scratch::new();
    let tree = made_by(
        &scratch,
        "tree",
        "mkdir here bound memory; echo x >here/file; chmod 0711 bound; chown 3:4 bound; echo hidden >bound/hidden; echo x >over; echo y >file-mount",
    );
    fs::create_dir(scratch.join("outside")).unwrap();
    fs::write(scratch.join("outside/secret"), "x").unwrap();
    for path in ["outside", "outside/secret"] {
        std::os::unix::fs::chown(scratch.join(path), Some(user().base), Some(user().base)).unwrap();
    }
    // A directory of the same file system, another file system, a single file.
    let source = |path: &str| scratch.join(path).into_os_string();
    let _bound = Mounted::new(["--bind".into(), source("outside")], &tree.join("bound"));
    let _memory = Mounted::new(
        [
            "-t",
            "tmpfs",
            "-o",
            &format!("uid={0},gid={0}", user().base),
            "none",
        ],
        &tree.join("memory"),
    );
    let _file = Mounted::new(
        ["--bind".into(), source("outside/secret")],
        &tree.join("file-mount"),
    );
    fs::write(tree.join("memory/inside"), "x").unwrap();
    std::os::unix::fs::chown(
        tree.join("memory/inside"),
        Some(user().base),
        Some(user().base),
    )
    .unwrap();

    let archive = scratch.join("x.tar");
    let said = summary(&["--cross-mounts"], &tree, &archive);
    let mut found = members(&archive);
    found.sort();
    let all = [
        "./",
        "./bound/",
        "./bound/secret",
        "./file-mount",
        "./here/",
        "./here/file",
        "./memory/",
        "./memory/inside",
        "./over",
    ];
    assert_eq!(
        (found, &said["skipped"]["mounts"]),
        (all.map(str::to_owned).to_vec(), &Value::from(0))
    );

    // Root sees the tree without what is mounted there; in a namespace of its own the kernel lets
    // nobody look below a mount.
    let below = [
        "./",
        "./bound/",
        "./bound/hidden",
        "./file-mount",
        "./here/",
        "./here/file",
        "./memory/",
        "./over",
    ];
    let beside = [
        "./",
        "./bound/",
        "./file-mount",
        "./here/",
        "./here/file",
        "./memory/",
        "./over",
    ];
    let cases: [(Command, &[&str]); 3] = [
        (
            isar(["pack", "--unmapped=squash", "--any-root-owner"]),
            &below,
        ),
        (isar_as_user(["pack"]), &beside),
        (isar(["--userns=isar-test", "pack"]), &beside),
    ];
    for (mut pack, expected) in cases {
        succeed(pack.args([&tree, &archive]));
        let mut found = members(&archive);
        found.sort();
        assert_eq!(found, expected, "{pack:?}");
    }
    assert_eq!(summary(&[], &tree, &archive)["skipped"]["mounts"], 3);
    assert_eq!(
        tarfile_snapshot(&archive)["file-mount"]["size"],
        0,
        "the file of the other mount must not be read"
    );
}

#[test]
fn a_mount_point_whose_owner_the_namespace_does_not_have_is_kept_as_root_s() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "mkdir memory; touch file");
    // Of root outside, who has no id in there.
    let memory = Mounted::new(
        ["-t", "tmpfs", "-o", "mode=0700", "none"],
        &tree.join("memory"),
    );
    fs::write(scratch.join("secret"), "x").unwrap();
    let _file = Mounted::new(
        ["--bind".as_ref(), scratch.join("secret").as_os_str()],
        &tree.join("file"),
    );
    let archive = scratch.join("x.tar");
    let mut pack = isar_as_user(["pack"]);
    succeed(pack.args([&tree, &archive]));
    let packed = tarfile_snapshot(&archive);
    for name in ["memory", "file"] {
        assert_eq!(
            (&packed[name]["uid"], &packed[name]["gid"]),
            (&Value::from(0), &Value::from(0)),
            "{name}"
        );
    }
    assert_eq!(packed.len(), 3);
    drop(memory);
    let said = fail(
        2,
        isar_as_user(["pack", "--cross-mounts"]).args([&tree, &archive]),
    );
    assert!(
        said.contains("1 of its files have an owner or group that sbuild cannot map"),
        "{said}"
    );
}

#[test]
fn a_plain_tar_has_no_frames() {
    let scratch = Scratch::new();
    let (tree, archive) = (scratch.user_dir("tree", 0o755), scratch.join("x.tar"));
    let said = succeed(isar(["pack", "--any-root-owner"]).args([&tree, &archive]));
    assert!(!said.contains("frame"), "{said}");
    let said = succeed(isar(["pack", "--any-root-owner", "--json"]).args([&tree, &archive]));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["frames"], 0);
}

#[test]
fn smaller_frames_are_more_frames_of_the_same_tree() {
    let scratch = Scratch::new();
    let tree = made_by(
        &scratch,
        "tree",
        "for n in $(seq 40); do seq $n 40000 > file-$n; done",
    );
    let [default, small] = ["default.tar.zst", "small.tar.zst"].map(|name| scratch.join(name));
    let frames = |said: &Value| said["frames"].as_u64().unwrap();
    let said = summary(&[], &tree, &default);
    let finer = summary(&["--frame-size=1M"], &tree, &small);
    assert!(frames(&said) == 1 && frames(&finer) > 3, "{said} {finer}");
    let stream = |archive: &Path| {
        crate::world::run(Command::new("zstd").args(["-dq", "--stdout"]).arg(archive)).stdout
    };
    assert!(stream(&default) == stream(&small));
    succeed(isar(["check", "-q"]).arg(&small));
    for size in ["0", "1", "1023K", "65M", "x"] {
        let said = fail(
            2,
            isar_as_user(["pack", "--frame-size", size]).args([&tree, &small]),
        );
        assert!(said.contains("--frame-size"), "{said}");
    }
}

#[test]
fn a_hundred_thousand_files_are_packed() {
    let scratch = Scratch::new();
    let tree = scratch.namespace_dir("tree");
    let script = "import os, sys
os.chdir(sys.argv[1])
for directory in range(100):
    os.mkdir('%d' % directory)
    for file in range(1000):
        with open('%d/%d' % (directory, file), 'w') as out:
            out.write('%d' % file)";
    succeed(crate::world::namespace_python(script).arg(&tree));
    let archive = scratch.join("x.tar.zst");
    let said = summary(&["--level=1"], &tree, &archive);
    assert_eq!(
        (&said["members"]["files"], &said["members"]["directories"]),
        (&Value::from(100_000), &Value::from(101))
    );
    assert_eq!(members(&archive).len(), 100_101);
}

#[test]
fn nine_gib_with_one_block_of_data_are_packed_as_a_hole() {
    const GIB: u64 = 1 << 30;
    let scratch = Scratch::new();
    let tree = made_by(
        &scratch,
        "tree",
        "truncate --size=9G disk; printf data | dd of=disk bs=1 seek=5G conv=notrunc status=none",
    );
    let archive = scratch.join("x.tar.zst");
    let said = summary(&[], &tree, &archive);
    assert!(
        said["archive_bytes"].as_u64().unwrap() < 10_000 && said["members"]["sparse"] == 1,
        "{said}"
    );
    let out = scratch.namespace_dir("out");
    succeed(
        as_namespace_root("tar")
            .args(["--extract", "--zstd", "-f"])
            .arg(&archive)
            .arg("-C")
            .arg(&out),
    );
    let file = File::open(out.join("disk")).unwrap();
    assert_eq!(
        (
            file.metadata().unwrap().len(),
            file.metadata().unwrap().blocks()
        ),
        (9 * GIB, 8)
    );
    assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), 5 * GIB);
    let mut data = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut data, 5 * GIB).unwrap();
    assert_eq!(&data, b"data\0\0");
}

#[test]
fn a_full_file_of_eight_gib_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    // Allocated and not written: no hole as far as the file system's count of blocks goes, and made
    // in no time.
    let tree = made_by(&scratch, "tree", "fallocate --length 8G big");
    let archive = scratch.join("x.tar.zst");
    let said = fail(2, isar_as_user(["pack"]).args([&tree, &archive]));
    assert!(
        said.contains("big: ") && said.contains("8 GiB") && said.contains("sbuild 0.89"),
        "{said}"
    );
    assert_eq!(scratch.names(), ["tree"]);
    summary(&["--exclude", "big"], &tree, &archive);
}

#[test]
fn percent_lines_go_to_stderr_and_end_at_100() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "seq 1 3000000 >numbers");
    let output = isar_as_user(["--progress", "percent", "pack"])
        .args([&tree, &scratch.join("x.tar.zst")])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    let percents: Vec<u8> = said
        .lines()
        .map(|line| line.strip_suffix('%').unwrap().parse().unwrap())
        .collect();
    assert!(
        percents.is_sorted() && percents.last() == Some(&100),
        "{said}"
    );
    assert!(text(&output.stdout).starts_with("archive "));
    // Nothing is shown where nobody watches, nor when silence is asked for.
    let quiet = isar_as_user(["pack", "-q"])
        .args([&tree, &scratch.join("x.tar.zst")])
        .output()
        .unwrap();
    assert_eq!(
        (text(&quiet.stdout), text(&quiet.stderr)),
        (String::new(), String::new())
    );
}

#[test]
fn a_tree_and_a_program_below_a_private_home_are_packed() {
    let scratch = Scratch::new();
    let home = scratch.user_dir("home", 0o700);
    let tree: PathBuf = rich(&scratch, "tree");
    fs::rename(&tree, home.join("tree")).unwrap();
    fs::copy(program(), home.join("isar-tarball")).unwrap();
    std::os::unix::fs::chown(
        home.join("isar-tarball"),
        Some(user().uid),
        Some(user().gid),
    )
    .unwrap();
    fs::set_permissions(home.join("isar-tarball"), fs::Permissions::from_mode(0o700)).unwrap();
    succeed(
        as_user("sh")
            .args([
                "-c",
                "cd \"$0\" && umask 077 && ./isar-tarball pack tree x.tar.zst",
            ])
            .arg(&home),
    );
    assert_eq!(
        fs::metadata(home.join("x.tar.zst"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
}

#[test]
fn a_symbolic_link_to_the_tree_is_followed_and_one_at_the_archive_replaced() {
    let scratch = Scratch::new();
    made_by(&scratch, "tree", "touch file");
    symlink("tree", scratch.join("link")).unwrap();
    fs::write(scratch.join("kept"), "kept").unwrap();
    symlink("kept", scratch.join("x.tar")).unwrap();
    succeed(
        isar_as_user(["pack"])
            .arg(scratch.join("link"))
            .arg(scratch.join("x.tar"))
            .stderr(Stdio::inherit()),
    );
    assert_eq!(members(&scratch.join("x.tar")), ["./", "./file"]);
    assert_eq!(fs::read(scratch.join("kept")).unwrap(), b"kept");
    assert!(
        fs::symlink_metadata(scratch.join("x.tar"))
            .unwrap()
            .is_file()
    );
}

/// The most memory that `pack` takes with two workers and `options`, in MiB.
fn peak(options: &[&str], tree: &Path, archive: &Path) -> u64 {
    let mut run = as_user("python3");
    run.args(["-c", PEAK])
        .arg(program())
        .args(["pack", "--quiet", "--threads=2"])
        .args(options);
    succeed(run.args([tree, archive])).trim().parse().unwrap()
}

#[test]
fn no_tree_takes_more_memory_than_allowed() {
    let scratch = Scratch::new();
    // The worst: it does not get smaller, and the files are as large as one another, so that frames
    // become as large as they may.
    let tree = made_by(
        &scratch,
        "tree",
        "for i in 1 2 3 4 5 6 7 8; do head -c 45M /dev/urandom >large-$i; done; for i in 1 2 3; do head -c 6M /dev/urandom >small-$i; done",
    );
    for (allowed, options) in [
        (100, &["--memory=100M"][..]),
        (150, &["--memory=150M"]),
        (512, &[]),
    ] {
        let peak = peak(options, &tree, &scratch.join("x.tar.zst"));
        assert!((30..=allowed).contains(&peak), "{peak} of {allowed} MiB");
    }
}

#[test]
fn no_level_takes_more_memory_than_allowed() {
    let scratch = Scratch::new();
    // Large files in one frame, which the high levels are done with soon: each has the same bytes
    // over and over.
    let tree = made_by(
        &scratch,
        "tree",
        "head -c 1M /dev/urandom >piece; for i in 1 2 3 4; do for j in $(seq 45); do cat piece; done >large-$i; done",
    );
    for (allowed, options) in [
        (200, &["--level=19", "--memory=200M"][..]),
        (512, &["--level=22"]),
    ] {
        let peak = peak(options, &tree, &scratch.join("x.tar.zst"));
        assert!((100..=allowed).contains(&peak), "{peak} of {allowed} MiB");
    }
}
