//! A directory changes hands between the caller and root of the namespace.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::panic::catch_unwind;
use std::path::Path;

use isar_tarball::internals::ids::{IdMap, IdMaps};
use isar_tarball::internals::workdir::handover;
use rustix::process::WaitOptions;

use crate::world::{self, Scratch, as_user, user};

/// The owner and group of `path`.
fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn maps(uids: String, gids: String) -> IdMaps {
    IdMaps {
        uids: IdMap::parse(uids.as_bytes()).unwrap(),
        gids: IdMap::parse(gids.as_bytes()).unwrap(),
    }
}

/// What the test below has the ordinary user run, in a process of its own.
#[test]
#[ignore = "run by another test, as the ordinary user"]
fn as_the_caller() {
    // The handover is for a process of one thread, and a test runs in a second one.
    // SAFETY: the child runs this test's own code alone; the harness's main thread only waits, and
    // holds no lock that the child needs.
    #[allow(unsafe_code)]
    match unsafe { libc::fork() } {
        0 => std::process::exit(catch_unwind(hand_over_and_take_back).map_or(1, |()| 0)),
        child => {
            let child = rustix::process::Pid::from_raw(child).unwrap();
            let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty())
                .unwrap()
                .unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
}

fn hand_over_and_take_back() {
    let base = std::env::var("BASE").unwrap();
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let subid = || format!("0 {base} 65536");
    for (layout, maps, root) in [
        (
            "subid",
            maps(subid(), subid()),
            (base.parse().unwrap(), base.parse().unwrap()),
        ),
        (
            "caller",
            maps(
                format!("0 {uid} 1\n1 {base} 1"),
                format!("0 {gid} 1\n1 {base} 1"),
            ),
            (uid, gid),
        ),
    ] {
        for parent in ["plain", "setgid", "home"] {
            let path = Path::new(parent).join(layout);
            fs::create_dir(&path).unwrap();
            let directory = File::open(&path).unwrap();
            handover::to_root(directory.as_fd(), &maps).unwrap();
            assert_eq!(owner(&path), root, "{path:?}");
            handover::to_caller(directory.as_fd(), &maps).unwrap();
            assert_eq!(owner(&path), (uid, gid), "{path:?}");
            fs::remove_dir(&path).unwrap();
        }
    }
    let foreign = File::open("/").unwrap();
    let error = handover::to_caller(foreign.as_fd(), &maps(subid(), subid()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("change its owner: Operation not permitted"),
        "{error}"
    );
}

#[test]
fn a_directory_goes_to_root_of_the_namespace_and_back_without_rights_above_it() {
    let scratch = Scratch::new();
    let program = scratch.join("suite");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (name, group, mode) in [
        ("plain", user().gid, 0o755),
        ("setgid", 100, 0o2775),
        ("home", user().gid, 0o700),
    ] {
        fs::create_dir(scratch.join(name)).unwrap();
        chown(scratch.join(name), Some(user().uid), Some(group)).unwrap();
        fs::set_permissions(scratch.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = as_user("env");
    command.arg(format!("BASE={}", user().base)).arg(&program);
    command.args([
        "--exact",
        "handover::as_the_caller",
        "--ignored",
        "--nocapture",
    ]);
    let out = world::succeed(command.current_dir(scratch.path()));
    assert!(out.contains("1 passed"), "{out}");
}
