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
    let script = format!("set -e; {damage}\n[ ! -e d ] || chown isar-test d; {doctor} {dir}");
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
        (
            "mount -t tmpfs -o noexec none d",
            "d",
            "no program of a chroot can be run there",
            "remount,exec",
            1,
        ),
        (
            "mkdir -m 700 home; mv d home; chown isar-test home home/d",
            "home/d",
            "home is closed to subordinate ids, so mmdebstrap and sbuild cannot work below it",
            ":x ",
            0,
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
    assert!(
        said.contains("overlay           no overlay") && said.contains("on an overlay itself"),
        "{said}"
    );
    assert!(!said.contains("use Linux"), "{said}");
}

#[test]
fn the_last_line_is_the_verdict() {
    let scratch = Scratch::new();
    let verdict = |command: &mut Command| {
        let said = text(&run(command.current_dir(scratch.path())).stdout);
        said.lines().last().unwrap_or_default().to_owned()
    };
    let good = verdict(&mut isar_as_user(["doctor"]));
    assert!(
        good.contains("verdict           rootless builds work here"),
        "{good}"
    );
    let bad = verdict(&mut isar_as_user(["doctor", "missing"]));
    assert!(bad.contains("rootless builds do not work here: "), "{bad}");
}

/// Runs a program (the arguments from the fifth) as a user and a group (the third and fourth)
/// without a system call (the second), which fails with an errno (the first).
const DENY: &str = "
import ctypes, os, struct, sys
errno, call, uid, gid = map(int, sys.argv[1:5])
code = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x50000 | errno), (0x06, 0, 0, 0x7fff0000)]
text = b''.join(struct.pack('HBBI', *line) for line in code)
buffer = ctypes.create_string_buffer(text)
filter = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.setgroups([]); os.setgid(gid); os.setuid(uid)
os.execv(sys.argv[5], sys.argv[5:])
";

/// What the program says as the test user without a system call, its status, and what it leaves.
fn without(call: i64, errno: i32, command: &[&str]) -> (String, Option<i32>, Vec<String>) {
    let (scratch, user) = (Scratch::new(), world::user());
    let numbers = [i64::from(errno), call, user.uid.into(), user.gid.into()];
    let mut python = Command::new("python3");
    python
        .args(["-c", DENY])
        .args(numbers.map(|number| number.to_string()));
    python.arg(world::program()).args(command);
    let output = run(python.current_dir(scratch.path()));
    let said = text(&output.stdout) + &text(&output.stderr);
    (said, output.status.code(), scratch.names())
}

#[test]
fn missing_system_calls_are_named() {
    if world::require(&["python3"]).is_none() {
        return;
    }
    for (call, name) in [
        (libc::SYS_open_tree, "open_tree"),
        (libc::SYS_move_mount, "move_mount"),
        (libc::SYS_fsopen, "fsopen"),
        (libc::SYS_fsmount, "fsmount"),
        (libc::SYS_clone3, "clone3"),
    ] {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let (said, status, left) = without(call, errno, &["-q", "doctor", "."]);
            // The C library has a substitute for a missing clone3, but not for a blocked one.
            let is_replaced = (name, errno) == ("clone3", libc::ENOSYS);
            assert_eq!(said.contains(name), !is_replaced, "{name} {errno}: {said}");
            assert_eq!(status, Some(i32::from(!is_replaced)), "{said}");
            assert_eq!(left, Vec::<String>::new(), "{name} {errno}");
        }
    }
    for call in [
        libc::SYS_openat2,
        libc::SYS_statx,
        libc::SYS_mount_setattr,
        libc::SYS_pidfd_open,
    ] {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let (said, status, left) = without(call, errno, &["-q", "doctor", "."]);
            assert_eq!(
                (status, left),
                (Some(0), Vec::new()),
                "{call} {errno}: {said}"
            );
        }
    }
}

#[test]
fn a_file_system_that_keeps_owners_as_nfs_does_is_named() {
    if world::require(&["python3"]).is_none() {
        return;
    }
    for command in [&["-q", "doctor", "."][..], &["unpack", "-", "new"]] {
        let (said, status, left) = without(libc::SYS_fchownat, libc::EPERM, command);
        let is_named = said.contains("as NFS does: use a directory on a local disk");
        assert!(is_named && left.is_empty(), "{said} {left:?}");
        assert!(status.is_some_and(|status| status > 0), "{said}");
    }
}
