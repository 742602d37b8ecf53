//! `pack --reuse`, the program: where states stand, what is said, what is left when something goes
//! wrong.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rootfs::made_by;
use crate::world::{
    Scratch, as_namespace_root, isar, isar_as_user, names, run, succeed, text, user,
};

/// Two frames: one of a large file that does not compress, one of small files.
const TREE: &str = "head -c 17000000 /dev/urandom >large; for i in 1 2 3; do mkdir d$i; seq $i 9999 >d$i/small; done";

fn tree(scratch: &Scratch) -> PathBuf {
    made_by(scratch, "tree", TREE)
}

/// A change of a file under the same size and mtime.
fn alter(tree: &Path, file: &str) {
    let script = "t=$(stat -c %y \"$0\"); head -c 9 /dev/urandom | dd of=\"$0\" bs=1 seek=5 conv=notrunc status=none; \
                  touch -d \"$t\" \"$0\"";
    succeed(
        as_namespace_root("sh")
            .args(["-euc", script])
            .arg(tree.join(file)),
    );
}

struct Ran {
    json: Value,
    said: String,
}

impl Ran {
    fn reused(&self) -> u64 {
        self.json["reused"]["frames"].as_u64().unwrap()
    }

    fn frames(&self) -> u64 {
        self.json["frames"].as_u64().unwrap()
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = run(command);
    assert!(output.status.success());
    Ran {
        json: serde_json::from_slice(&output.stdout).unwrap(),
        said: text(&output.stderr),
    }
}

fn pack(args: &[&str], old: Option<&Path>, tree: &Path, new: &Path) -> Ran {
    let mut command = isar_as_user(["pack", "--json"]);
    command.args(args);
    if let Some(old) = old {
        command.arg("--reuse").arg(old);
    }
    ran(command.args([tree, new]))
}

/// What a full pack makes of the tree.
fn full(scratch: &Scratch, tree: &Path) -> Vec<u8> {
    let place = scratch.join("full.tar.zst");
    succeed(isar_as_user(["pack"]).args([tree, &place]));
    let bytes = fs::read(&place).unwrap();
    fs::remove_file(place).unwrap();
    bytes
}

#[test]
fn the_first_pack_leaves_a_state_and_the_next_one_takes_over_what_has_not_changed() {
    let scratch = Scratch::new();
    let tree = tree(&scratch);
    let place = scratch.user_dir("place", 0o755);
    let archive = place.join("x.tar.zst");
    let first = pack(&[], Some(&archive), &tree, &archive);
    assert_eq!(first.reused(), 0);
    assert!(
        first.said.contains("no frame is reused") && first.said.contains("No such file"),
        "{}",
        first.said
    );
    assert_eq!(names(&place), [".x.tar.zst.state", "x.tar.zst"]);
    assert_eq!(
        fs::metadata(place.join(".x.tar.zst.state"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o644
    );
    assert!(fs::read(&archive).unwrap() == full(&scratch, &tree));

    let same = pack(&[], Some(&archive), &tree, &archive);
    assert_eq!((same.reused(), same.said.as_str()), (same.frames(), ""));
    assert_eq!(same.json["reused"]["bytes"], same.json["archive_bytes"]);

    alter(&tree, "d2/small");
    // Under another name, by itself, then over the old one.
    for new in [place.join("y.tar.zst"), archive.clone()] {
        let changed = pack(&[], Some(&archive), &tree, &new);
        assert!(fs::read(&new).unwrap() == full(&scratch, &tree));
        assert!(
            (1..changed.frames()).contains(&changed.reused()),
            "{}",
            changed.json
        );
    }
    let said = succeed(isar_as_user(["pack", "--reuse"]).args([&archive, &tree, &archive]));
    assert!(
        said.contains(&format!("reused    {0} of {0} frames, ", same.frames())),
        "{said}"
    );
    let said = succeed(isar_as_user(["pack"]).args([&tree, &archive]));
    assert!(!said.contains("reused"), "{said}");
    assert_eq!(
        names(&place),
        [
            ".x.tar.zst.state",
            ".y.tar.zst.state",
            "x.tar.zst",
            "y.tar.zst"
        ]
    );
}

#[test]
fn metadata_are_trusted_only_when_asked_and_no_change_is_missed() {
    let scratch = Scratch::new();
    let tree = tree(&scratch);
    let archive = scratch.join("x.tar.zst");
    // What is younger than two seconds is not trusted.
    sleep(Duration::from_secs(3));
    pack(&[], Some(&archive), &tree, &archive);
    for file in ["large", "d3/small"] {
        alter(&tree, file);
        let trusting = pack(&["--trust-metadata"], Some(&archive), &tree, &archive);
        assert!(
            fs::read(&archive).unwrap() == full(&scratch, &tree),
            "{file}"
        );
        assert!(
            (1..trusting.frames()).contains(&trusting.reused()),
            "{}",
            trusting.json
        );
    }
    let output = run(isar_as_user(["pack", "--trust-metadata"]).args([&tree, &archive]));
    assert_eq!(
        output.status.code(),
        Some(2),
        "it means nothing without --reuse"
    );
}

#[test]
fn states_may_stand_in_a_directory_of_their_own() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "seq 1 999 >file");
    let (place, states) = (
        scratch.user_dir("place", 0o755),
        scratch.user_dir("states", 0o700),
    );
    let archive = place.join("x.tar.zst");
    let state = ["--state", states.to_str().unwrap()];
    let first = pack(&state, None, &tree, &archive);
    assert_eq!((first.reused(), first.said.as_str()), (0, ""));
    assert_eq!(
        (names(&place), names(&states)),
        (
            vec!["x.tar.zst".to_owned()],
            vec![".x.tar.zst.state".to_owned()]
        )
    );
    let next = pack(&state, Some(&archive), &tree, &archive);
    assert_eq!(next.reused(), next.frames());
    // Beside it there is none.
    let other = pack(&[], Some(&archive), &tree, &place.join("y.tar.zst"));
    assert_eq!(other.reused(), 0);
    assert!(
        other.said.contains(".x.tar.zst.state: open: No such file"),
        "{}",
        other.said
    );
}

#[test]
fn a_stream_takes_frames_over_and_leaves_no_state() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "seq 1 999 >file");
    let place = scratch.user_dir("place", 0o755);
    let archive = place.join("x.tar.zst");
    pack(&[], Some(&archive), &tree, &archive);
    let output = isar_as_user(["pack", "--format=zst", "--reuse"])
        .args([&archive, &tree])
        .arg("-")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(output.stdout == fs::read(&archive).unwrap());
    assert!(
        text(&output.stderr).contains("reused    1 of 1 frames"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(names(&place), [".x.tar.zst.state", "x.tar.zst"]);
}

#[test]
fn a_state_or_archive_that_cannot_be_relied_on_is_a_warning_and_a_full_pack() {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "seq 1 99999 >file");
    let place = scratch.user_dir("place", 0o755);
    let (archive, state) = (place.join("x.tar.zst"), place.join(".x.tar.zst.state"));
    pack(&[], Some(&archive), &tree, &archive);
    let (good, good_state) = (fs::read(&archive).unwrap(), fs::read(&state).unwrap());
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let cases: [(&str, &dyn Fn(), &str); 13] = [
        (
            "no archive",
            &|| fs::remove_file(&archive).unwrap(),
            "x.tar.zst: open: No such file",
        ),
        (
            "no state",
            &|| fs::remove_file(&state).unwrap(),
            ".x.tar.zst.state: open: No such file",
        ),
        (
            "damaged state",
            &|| fs::write(&state, flipped(&good_state)).unwrap(),
            "its state is damaged",
        ),
        (
            "empty state",
            &|| fs::write(&state, "").unwrap(),
            "its state is damaged",
        ),
        (
            "cut state",
            &|| fs::write(&state, &good_state[..200]).unwrap(),
            "its state is damaged",
        ),
        (
            "damaged archive",
            &|| fs::write(&archive, flipped(&good)).unwrap(),
            "1 frame(s) are corrupt",
        ),
        (
            "cut archive",
            &|| fs::write(&archive, &good[..good.len() - 1]).unwrap(),
            "it has changed since",
        ),
        (
            "another's archive",
            &|| fs::write(&archive, "x").unwrap(),
            "it has changed since",
        ),
        (
            "foreign state",
            &|| chown(&state, Some(user().uid + 7), None).unwrap(),
            "belongs to uid",
        ),
        (
            "open state",
            &|| fs::set_permissions(&state, fs::Permissions::from_mode(0o666)).unwrap(),
            "can be written by other users",
        ),
        (
            "a pipe",
            &|| {
                fs::remove_file(&state).unwrap();
                succeed(Command::new("mkfifo").args(["-m", "0644"]).arg(&state));
                chown(&state, Some(user().uid), None).unwrap();
            },
            "is not a regular file",
        ),
        (
            "a directory",
            &|| {
                fs::remove_file(&state).unwrap();
                fs::create_dir(&state).unwrap();
            },
            "is not a regular file",
        ),
        (
            "unreadable state",
            &|| fs::set_permissions(&state, fs::Permissions::from_mode(0o000)).unwrap(),
            "Permission denied",
        ),
    ];
    for (name, damage, expected) in cases {
        for trust in [&[][..], &["--trust-metadata"]] {
            let _ = (fs::remove_dir(&state), fs::remove_file(&state));
            for (path, bytes) in [(&archive, &good), (&state, &good_state)] {
                fs::write(path, bytes).unwrap();
                chown(path, Some(user().uid), Some(user().gid)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            }
            damage();
            let new = place.join("new.tar.zst");
            let ran = pack(trust, Some(&archive), &tree, &new);
            assert!(fs::read(&new).unwrap() == good, "{name}");
            assert_eq!(ran.reused(), 0, "{name}");
            assert!(ran.said.contains(expected), "{name}: {}", ran.said);
        }
    }
    // What another namespace has written: to root, the owners are other ids.
    let _ = fs::remove_file(&state);
    pack(&[], Some(&archive), &tree, &archive);
    let other = ran(isar([
        "pack",
        "--json",
        "--unmapped=squash",
        "--any-root-owner",
        "--reuse",
    ])
    .args([&archive, &tree, &place.join("z.tar.zst")]));
    assert_eq!(other.reused(), 0);
}

#[test]
fn a_pack_killed_at_any_moment_leaves_an_archive_from_which_the_next_is_made_right() {
    let scratch = Scratch::new();
    let tree = tree(&scratch);
    let place = scratch.user_dir("place", 0o755);
    let archive = place.join("x.tar.zst");
    pack(&[], Some(&archive), &tree, &archive);
    let begin = Instant::now();
    pack(&[], Some(&archive), &tree, &archive);
    let whole = begin.elapsed();
    let mut killed = 0;
    for number in 0..12 {
        let before = fs::read(&archive).unwrap();
        alter(&tree, ["large", "d1/small"][number as usize % 2]);
        let mut child = isar_as_user(["pack", "-q", "--reuse"])
            .args([&archive, &tree, &archive])
            .spawn()
            .unwrap();
        sleep(whole * number / 10);
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        let expected = full(&scratch, &tree);
        // Both processes are gone before long; a rename may still come.
        sleep(Duration::from_millis(100));
        let left = fs::read(&archive).unwrap();
        assert!(
            left == before || left == expected,
            "killed after {:?}",
            whole * number / 10
        );
        let next = pack(&[], Some(&archive), &tree, &archive);
        assert!(fs::read(&archive).unwrap() == expected, "{}", next.json);
        assert_eq!(names(&place), [".x.tar.zst.state", "x.tar.zst"]);
    }
    assert!(
        killed > 2,
        "only {killed} runs were killed before their end: the test shows nothing"
    );
}
