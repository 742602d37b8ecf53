//! `doctor`: a good machine is called good, and each fault is named with its remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::world::{self, Scratch, isar, isar_as_user, run, succeed, text};

#[test]
fn this_machine_is_good_for_the_user_and_for_root_and_nothing_is_left() {
    if world::require(&["sbuild", "mmdebstrap"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    for layout in ["subid", "caller"] {
        fs::create_dir_all(scratch.join("d")).unwrap();
        fs::set_permissions(scratch.join("d"), fs::Permissions::from_mode(0o777)).unwrap();
        let said = succeed(
            isar_as_user(["--id-layout", layout, "doctor", "d"]).current_dir(scratch.path()),
        );
        assert!(
            said.contains("ok       user-namespace    can be entered"),
            "{said}"
        );
        assert_eq!(fs::read_dir(scratch.join("d")).unwrap().count(), 0);
        let said: Value = serde_json::from_str(&succeed(
            isar_as_user(["--id-layout", layout, "doctor", "--json", "d"])
                .current_dir(scratch.path()),
        ))
        .unwrap();
        assert_eq!(said["ok"], true);
        assert!(
            said["findings"]
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["name"] == "overlay")
        );
    }
    succeed(isar(["doctor", "d"]).current_dir(scratch.path()));
    assert_eq!(fs::read_dir(scratch.join("d")).unwrap().count(), 0);
}

/// The lines that are no `ok`, and the status, of a doctor on a machine that `damage` (a shell
/// script) was done to, unseen by others.
fn on_damaged(damage: &str, dir: &str) -> (String, Option<i32>) {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("d")).unwrap();
    fs::write(scratch.join("empty"), "").unwrap();
    fs::set_permissions(scratch.join("empty"), fs::Permissions::from_mode(0o755)).unwrap();
    let doctor = "setpriv --reuid isar-test --regid isar-test --init-groups --reset-env -- \"$PROGRAM\" -q doctor";
    let script = format!("set -e; {damage}\nchown isar-test d; {doctor} {dir}");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .env("PROGRAM", world::program())
        .current_dir(scratch.path());
    let output = run(&mut command);
    (text(&output.stdout), output.status.code())
}

#[test]
fn each_fault_is_named_with_its_remedy() {
    let cases = [
        (
            "mount --bind empty /usr/bin/newuidmap",
            "d",
            "newuidmap",
            "chmod u+s",
            1,
        ),
        (
            "mount -t tmpfs -o nosuid none d",
            "d",
            "nosuid",
            "remount,suid",
            1,
        ),
        (
            "mount -t ramfs none d",
            "d",
            "acl               no ACLs in d",
            "POSIX ACLs (ext4, xfs, btrfs)",
            1,
        ),
        (
            "mount --bind empty /etc/subuid",
            "d",
            "has no subordinate user ids",
            "usermod --add-subuids",
            1,
        ),
        (
            "sed s/:65536/:1000/ /etc/subgid >s; mount --bind s /etc/subgid",
            "d",
            "fewer than 65536",
            "--add-subgids",
            1,
        ),
        (
            "mount --bind empty /proc/uptime",
            "d",
            "/proc cannot be mounted",
            "systempaths=unconfined",
            0,
        ),
        (
            "chmod 755 .",
            "/",
            "nothing can be tried in /",
            "may write",
            1,
        ),
    ];
    for (damage, dir, found, remedy, status) in cases {
        let (said, code) = on_damaged(damage, dir);
        assert!(
            said.contains(found) && said.contains(remedy),
            "{damage}: {said}"
        );
        assert_eq!(code, Some(status), "{damage}: {said}");
    }
}

#[test]
fn an_overlay_on_an_overlay_is_tried_and_told() {
    let damage = "mkdir -p t; mount -t tmpfs none t; mkdir t/l t/u t/w; mount -t overlay none -o lowerdir=t/l,upperdir=t/u,workdir=t/w d";
    let (said, _) = on_damaged(damage, "d");
    assert!(said.contains("overlay           no overlay"), "{said}");
}
