//! Machines that lack system calls: older kernels (ENOSYS), and the seccomp filters of containers
//! (ENOSYS or EPERM).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::imager::pack_small;
use crate::world::{self, Scratch, USER, names, run, succeed, text};

/// Runs each command of the program, and prints `NAME: STATUS: OUTPUT` for one that fails.
///
const COMMANDS: &str = r#"
try() { n=$1; shift; o=$("$@" 2>&1 </dev/null) || echo "$n: $?: $o" | tr '\n' ' '; [ -z "$o" ] || echo; }
borrowed="--bind /usr:ro --bind /lib64:ro"
read_only='! touch /usr/x 2>/dev/null'
try unpack "$B" -q unpack a.tar r
try unpack-replace "$B" -q unpack --replace a.tar r
try unpack-merge "$B" -q unpack --merge a.tar r
try pack "$B" -q pack r p.tar.zst
try check "$B" -q check p.tar.zst
try info "$B" -q info --json p.tar.zst >/dev/null
try list "$B" -q list p.tar.zst >/dev/null
try diff "$B" -q diff p.tar.zst r
try export "$B" -q export r data/name out
try unshare "$B" -q unshare true
try chroot "$B" -q chroot $borrowed r -- sh -c "$read_only"
try imager-root "$B" -q imager --root i $borrowed a.tar -- sh -c "$read_only"
try imager-cache "$B" -q imager --cache c $borrowed a.tar -- sh -c "$read_only"
try imager-again "$B" -q imager --cache c $borrowed a.tar -- sh -c "$read_only"
try grant-acl "$B" -q grant-acl --share g
try pack-remove "$B" -q pack --remove-source r q.tar.zst
try remove "$B" -q remove r c g
"#;

/// The commands that mount.
const MOUNT: [&str; 5] = [
    "unshare",
    "chroot",
    "imager-root",
    "imager-cache",
    "imager-again",
];

/// The failures of [`COMMANDS`] when these calls fail with this error, and the names that are left.
fn without(calls: &[libc::c_long], errno: i32) -> (Vec<String>, Vec<String>) {
    let scratch = Scratch::new();
    pack_small(&scratch, "a.tar", 3);
    let launcher = scratch.join("block_call.py");
    fs::write(&launcher, include_str!("../fixtures/block_call.py")).unwrap();
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
    let before = scratch.names();
    let numbers: Vec<String> = calls.iter().map(ToString::to_string).collect();
    let mut command = Command::new("python3");
    command
        .arg(&launcher)
        .args([&numbers.join(","), &errno.to_string()])
        .args(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"])
        .args(["--reset-env", "--", "env"])
        .arg(format!("B={}", world::program().display()))
        .args(["sh", "-c", COMMANDS])
        .current_dir(scratch.path());
    let output = run(&mut command);
    assert!(output.status.success());
    let failed = text(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    let made = ["out", "p.tar.zst", "q.tar.zst"].map(str::to_owned);
    let is_left = |name: &String| !before.contains(name) && !made.contains(name);
    let left = names(scratch.path()).into_iter().filter(is_left).collect();
    (failed, left)
}

/// Calls that have a substitute everywhere.
const REPLACED: [libc::c_long; 11] = [
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_mount_setattr,
    libc::SYS_syncfs,
    libc::SYS_memfd_create,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_close_range,
    libc::SYS_faccessat2,
    libc::SYS_copy_file_range,
    libc::SYS_renameat2,
];

#[test]
fn without_the_calls_that_have_a_substitute_every_command_works() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        let (failed, left) = without(&REPLACED, errno);
        assert!(
            failed.is_empty() && left.is_empty(),
            "{errno}: {failed:#?} {left:?}"
        );
    }
}

#[test]
fn each_of_these_calls_alone_may_be_missing() {
    for (call, errno) in [
        (libc::SYS_openat2, libc::EPERM),
        (libc::SYS_statx, libc::ENOSYS),
        (libc::SYS_mount_setattr, libc::EPERM),
        (libc::SYS_renameat2, libc::EPERM),
        (libc::SYS_clone3, libc::ENOSYS),
    ] {
        let (failed, left) = without(&[call], errno);
        assert!(
            failed.is_empty() && left.is_empty(),
            "{call} {errno}: {failed:#?} {left:?}"
        );
    }
}

#[test]
fn without_clone3_namespaces_are_entered_and_threads_are_refused_by_name() {
    let (failed, left) = without(&[libc::SYS_clone3], libc::EPERM);
    assert!(left.is_empty(), "{left:?}");
    // The C library starts no thread then. What needs none works.
    for line in &failed {
        let needs_none = ["unshare: ", "grant-acl: ", "remove: "];
        assert!(
            !needs_none.iter().any(|name| line.starts_with(name)),
            "{line}"
        );
    }
    let unpack = failed.iter().find(|line| line.starts_with("unpack: 2: "));
    assert!(
        unpack.is_some_and(|line| line.contains("start a thread: clone3: ")),
        "{failed:#?}"
    );
}

#[test]
fn a_mount_call_without_a_substitute_is_named() {
    for (call, name) in [
        (libc::SYS_open_tree, "open_tree"),
        (libc::SYS_move_mount, "move_mount"),
        (libc::SYS_fsopen, "fsopen"),
        (libc::SYS_fsconfig, "fsconfig"),
        (libc::SYS_fsmount, "fsmount"),
    ] {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let (failed, left) = without(&[call], errno);
            assert!(
                left.iter().all(|name| name != "i"),
                "{name} {errno}: {left:?}"
            );
            assert!(
                failed.iter().any(|line| line.starts_with("chroot: 125: ")),
                "{failed:#?}"
            );
            for line in failed {
                let is_of_mount = MOUNT
                    .iter()
                    .any(|command| line.starts_with(&format!("{command}: ")));
                assert!(
                    is_of_mount && line.contains(name) && line.contains("seccomp"),
                    "{name} {errno}: {line}"
                );
            }
        }
    }
}

#[test]
fn without_mount_setattr_the_mounts_below_a_read_only_bind_are_read_only_too() {
    let scratch = Scratch::new();
    pack_small(&scratch, "a.tar", 0);
    for directory in ["top", "top/sub and more"] {
        scratch.user_dir(directory, 0o777);
    }
    let launcher = scratch.join("block_call.py");
    fs::write(&launcher, include_str!("../fixtures/block_call.py")).unwrap();
    let script = r#"
        mount -t tmpfs -o nosuid,nodev none "top/sub and more"
        touch "top/sub and more/seen"
        exec "$B" --userns "$0" imager --root root --bind /usr:ro --bind /lib64:ro \
            --bind top:/ro:ro --bind top:/rw a.tar -- sh -ec '
                [ -e "/ro/sub and more/seen" ]; touch /rw/x "/rw/sub and more/x"
                ! touch /ro/y; ! touch "/ro/sub and more/y"'"#;
    for errno in [libc::ENOSYS, libc::EPERM] {
        succeed(
            Command::new("unshare")
                .args(["--mount", "python3"])
                .arg(&launcher)
                .args([libc::SYS_mount_setattr.to_string(), errno.to_string()])
                .args(["sh", "-ec", script, USER])
                .env("B", world::program())
                .current_dir(scratch.path()),
        );
    }
}
