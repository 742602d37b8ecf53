//! `remove`: trees of subordinate ids, mixed ones, and what must not be touched.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::world::{self, Scratch, fail, isar, isar_as_user, run, succeed, user};

/// Makes a file or (with a slash at the end) a directory that belongs to `owner`.
fn make(scratch: &Scratch, path: &str, owner: (u32, u32), mode: u32) {
    let place = scratch.join(path);
    if path.ends_with('/') {
        fs::create_dir(&place).unwrap();
    } else {
        fs::write(&place, "x").unwrap();
    }
    chown(&place, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
}

fn caller() -> (u32, u32) {
    (user().uid, user().gid)
}

fn sub(id: u32) -> (u32, u32) {
    (user().base + id, user().base + id)
}

#[test]
fn trees_of_mixed_owners_and_without_permissions_go_in_either_layout() {
    for layout in ["subid", "caller"] {
        let scratch = Scratch::new();
        make(&scratch, "tree/", sub(0), 0o755);
        make(&scratch, "tree/own/", caller(), 0o700);
        make(&scratch, "tree/own/sub/", sub(33), 0o500);
        make(&scratch, "tree/own/sub/own", caller(), 0o400);
        make(&scratch, "tree/own/sub/deep/", sub(65535), 0);
        make(&scratch, "tree/own/sub/deep/file", sub(0), 0);
        make(&scratch, "tree/nobody/", sub(65534), 0o1777);
        make(&scratch, "tree/nobody/sticky", caller(), 0o600);
        make(&scratch, "second/", caller(), 0o500);
        make(&scratch, "second/x", sub(5), 0o600);
        make(&scratch, "outside/", sub(0), 0o755);
        make(&scratch, "outside/kept", sub(0), 0o644);
        symlink("../outside", scratch.join("tree/link")).unwrap();
        let dry = ["--id-layout", layout, "remove", "--dry-run", "tree"];
        let said = succeed(isar_as_user(dry).current_dir(scratch.path()));
        assert_eq!(said, "would remove tree: 5 directories, 4 other files\n");
        assert_eq!(scratch.names(), ["outside", "second", "tree"]);
        let args = [
            "--id-layout",
            layout,
            "remove",
            "--json",
            "tree/",
            "second",
            "missing",
            "no/way",
        ];
        let said: serde_json::Value =
            serde_json::from_str(&succeed(isar_as_user(args).current_dir(scratch.path()))).unwrap();
        assert_eq!(
            (&said["trees"][0]["files"], &said["trees"][0]["directories"]),
            (&4.into(), &5.into())
        );
        assert_eq!(
            (&said["trees"][2]["missing"], &said["trees"][2]["ok"]),
            (&true.into(), &true.into())
        );
        assert_eq!(scratch.names(), ["outside"], "{layout}");
        assert!(scratch.join("outside/kept").exists());
    }
}

#[test]
fn the_directory_itself_goes_from_sticky_and_from_foreign_groups_directories() {
    let scratch = Scratch::new();
    // Group `users`, as in a shared build directory: no map of the caller has it.
    make(&scratch, "sticky/", (0, 0), 0o1777);
    make(&scratch, "sticky/by-sub/", sub(0), 0o755);
    make(&scratch, "sticky/by-other-sub/", sub(7), 0o700);
    make(&scratch, "sticky/by-caller/", caller(), 0o755);
    make(&scratch, "sticky/by-caller/x", sub(3), 0o600);
    make(&scratch, "sticky/group/", (user().uid, 100), 0o2700);
    make(&scratch, "sticky/group/file", (user().uid, 100), 0o600);
    make(&scratch, "sticky/group/below/", (user().uid, 100), 0o2700);
    make(&scratch, "sticky/group/below/sub", sub(1), 0o600);
    let dirs = [
        "remove",
        "sticky/by-sub",
        "sticky/by-other-sub",
        "sticky/by-caller",
        "sticky/group",
    ];
    succeed(isar_as_user(dirs).current_dir(scratch.path()));
    assert_eq!(fs::read_dir(scratch.join("sticky")).unwrap().count(), 0);
}

#[test]
fn a_tree_that_is_named_twice_is_removed_once() {
    let scratch = Scratch::new();
    make(&scratch, "tree/", sub(0), 0o755);
    make(&scratch, "tree/a", sub(0), 0o600);
    let tree = scratch.join("tree");
    succeed(isar_as_user(["remove"]).args([&tree, &scratch.join("./tree"), &tree]));
    assert!(!tree.exists());
}

#[test]
fn a_missing_tree_is_reported_to_those_who_ask() {
    let scratch = Scratch::new();
    let remove = |options: &[&str]| {
        let mut command = isar_as_user(["remove"]);
        let output = run(command
            .args(options)
            .arg("roofs")
            .current_dir(scratch.path()));
        assert!(output.status.success());
        (world::text(&output.stdout), world::text(&output.stderr))
    };
    let line = "roofs does not exist: nothing to remove\n".to_owned();
    assert_eq!(remove(&[]), (String::new(), String::new()));
    assert_eq!(remove(&["-v"]), (String::new(), line.clone()));
    assert_eq!(remove(&["--dry-run"]), (line, String::new()));
}

#[test]
fn foreign_files_are_named_and_the_rest_goes() {
    let scratch = Scratch::new();
    make(&scratch, "tree/", sub(0), 0o755);
    make(&scratch, "tree/a", sub(0), 0o644);
    make(&scratch, "tree/root/", (0, 0), 0o755);
    make(&scratch, "tree/root/file", (0, 0), 0o644);
    let said = fail(
        2,
        isar_as_user(["remove", "tree"]).current_dir(scratch.path()),
    );
    assert!(
        said.contains("cannot remove \"tree\": root/file: remove: Permission denied"),
        "{said}"
    );
    assert!(!scratch.join("tree/a").exists());
    succeed(isar(["remove", "tree"]).current_dir(scratch.path()));
    assert!(scratch.names().is_empty());
}

#[test]
fn an_immutable_file_is_named_with_the_remedy() {
    if world::require(&["chattr"]).is_none() {
        return;
    }
    for (protected, named) in [
        ("tree/a/f", "a/f: it is immutable"),
        ("tree/a", "a: it is immutable"),
    ] {
        let scratch = Scratch::new();
        make(&scratch, "tree/", sub(0), 0o755);
        make(&scratch, "tree/a/", sub(0), 0o755);
        make(&scratch, "tree/a/f", sub(0), 0o644);
        if !run(Command::new("chattr")
            .arg("+i")
            .arg(scratch.join(protected)))
        .status
        .success()
        {
            return world::skip("the file system has no immutable files").unwrap_or_default();
        }
        let said = fail(
            2,
            isar_as_user(["remove", "tree"]).current_dir(scratch.path()),
        );
        succeed(
            Command::new("chattr")
                .arg("-i")
                .arg(scratch.join(protected)),
        );
        assert!(said.contains(named) && said.contains("chattr -i"), "{said}");
        assert!(scratch.join("tree/a/f").exists());
    }
}

#[test]
fn mounts_homes_links_and_dots_are_refused_and_nothing_is_touched() {
    let scratch = Scratch::new();
    make(&scratch, "tree/", sub(0), 0o755);
    make(&scratch, "tree/first", sub(0), 0o644);
    make(&scratch, "tree/m t/", sub(0), 0o755);
    make(&scratch, "kept/", sub(0), 0o755);
    make(&scratch, "kept/file", sub(0), 0o644);
    symlink("tree", scratch.join("link")).unwrap();
    let script = "mount --bind kept 'tree/m t' && for dir in \"$@\"; do \"$PROGRAM\" remove \"$dir\"; echo $?; done";
    let dirs = [
        "tree",
        "tree/m t",
        "link",
        "link/",
        ".",
        "tree/..",
        "/",
        "/home/isar-test",
        "/usr/..//",
        "tree/first",
    ];
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .args(dirs)
        .env("PROGRAM", world::program());
    let output = run(command.current_dir(scratch.path()));
    assert_eq!(world::text(&output.stdout), "2\n".repeat(dirs.len()));
    let said = world::text(&output.stderr);
    for reason in [
        "something is mounted at",
        "is a symbolic link",
        "is a home directory",
        "not `.`, `..` or `/`",
        "no directory",
    ] {
        assert!(said.contains(reason), "{reason}: {said}");
    }
    for kept in ["tree/first", "kept/file"] {
        assert!(scratch.join(kept).exists());
    }
}

#[test]
fn a_mount_in_another_namespace_only_stops_the_removal_without_entering() {
    let scratch = Scratch::new();
    make(&scratch, "tree/", sub(0), 0o755);
    make(&scratch, "tree/m/", sub(0), 0o755);
    make(&scratch, "kept/", sub(0), 0o755);
    make(&scratch, "kept/file", sub(0), 0o644);
    // /proc is hidden: the look ahead sees nothing, the removal itself has to.
    let script =
        "mount --bind kept tree/m && mount -t tmpfs none /proc && exec \"$PROGRAM\" remove tree";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .env("PROGRAM", world::program());
    let said = fail(2, command.current_dir(scratch.path()));
    assert!(said.contains("m: something is mounted there"), "{said}");
    assert!(scratch.join("kept/file").exists());
}

/// Makes `levels` directories below each other, with few descriptors.
pub fn make_deep(top: &Path, levels: usize, owner: (u32, u32)) {
    let mut at: std::os::fd::OwnedFd = File::open(top).unwrap().into();
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        let below =
            rustix::fs::openat(&at, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(owner.0),
            rustix::fs::Gid::from_raw(owner.1),
        );
        rustix::fs::chownat(&below, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).unwrap();
        at = below;
    }
}

#[test]
fn ten_thousand_levels_need_few_descriptors() {
    let scratch = Scratch::new();
    make(&scratch, "deep/", sub(0), 0o755);
    make_deep(&scratch.join("deep"), 10_000, sub(0));
    let mut command = world::as_user("prlimit");
    command
        .args(["--nofile=600:600", "--"])
        .arg(world::program())
        .args(["remove", "deep"]);
    succeed(command.current_dir(scratch.path()));
    assert!(scratch.names().is_empty());
}

#[test]
fn a_run_that_was_stopped_is_finished_by_the_next() {
    let scratch = Scratch::new();
    make(&scratch, "tree/", sub(0), 0o755);
    for directory in 0..200 {
        let name = format!("tree/{directory}/");
        make(&scratch, &name, sub(directory), 0o700);
        for file in 0..50 {
            make(&scratch, &format!("{name}{file}"), sub(0), 0o600);
        }
    }
    let mut child = isar_as_user(["remove", "tree"])
        .current_dir(scratch.path())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.signal() == Some(15), "{status}");
    succeed(isar_as_user(["remove", "tree"]).current_dir(scratch.path()));
    assert!(scratch.names().is_empty());
}

#[test]
fn a_tree_below_a_home_that_nobody_else_may_search_goes() {
    let scratch = Scratch::new();
    make(&scratch, "home/", caller(), 0o700);
    make(&scratch, "home/tree/", sub(0), 0o755);
    make(&scratch, "home/tree/file", sub(0), 0o644);
    succeed(isar_as_user(["remove", "home/tree"]).current_dir(scratch.path()));
    assert!(!scratch.join("home/tree").exists());
}
