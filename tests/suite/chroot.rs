//! `chroot`: a command in a real tree, and that nothing of it stays.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::world::{
    self, Scratch, as_namespace_root, fail, isar, isar_as_user, run, succeed, text, user,
};

/// One copy of a chroot for all tests here, owned by the test user's subordinate ids.
fn copy() -> Option<&'static PathBuf> {
    static COPY: OnceLock<Option<(Scratch, PathBuf)>> = OnceLock::new();
    let made = COPY.get_or_init(|| {
        let original = world::chroot("bookworm")?;
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let copy = scratch.join("c");
        succeed(as_namespace_root("cp").arg("-a").arg(original).arg(&copy));
        clean_up_at_exit(scratch.path());
        Some((scratch, copy))
    });
    made.as_ref().map(|(_, copy)| copy)
}

/// A static is never dropped: a shell that waits for the end of this process removes the copy.
pub fn clean_up_at_exit(path: &std::path::Path) {
    let script = "(while kill -0 \"$1\"; do sleep 0.5; done; rm -rf --one-file-system \"$2\") &";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", &std::process::id().to_string()])
        .arg(path);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
}

fn chroot(options: &[&str], script: &str) -> Option<Command> {
    let mut command = isar_as_user(["chroot"]);
    command
        .args(options)
        .arg(copy()?)
        .args(["--", "bash", "-ec", script]);
    Some(command)
}

/// The names in the tree's root, and what a run could leave there.
fn names() -> Vec<String> {
    let entries = fs::read_dir(copy().unwrap()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Is this gone from the tree? Other tests work there too, and whoever leaves last clears it: so
/// others may have to leave first.
fn is_cleared(name: &str) -> bool {
    let path = copy().unwrap().join(name);
    for _ in 0..100 {
        if !path.exists() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        succeed(&mut chroot(&[], "true").unwrap());
    }
    false
}

#[test]
fn the_tree_has_devices_terminals_proc_and_sys_of_which_nothing_is_seen_outside() {
    let script = "
        [ $(id -u) = 0 ]
        for d in null zero full random urandom tty; do [ -c /dev/$d ]; done
        echo x >/dev/null; [ $(head -c 3 /dev/urandom | wc -c) = 3 ]
        [ $(readlink /proc/self) -lt 50 ]
        [ $(stat -fc %T /dev) = tmpfs ]; [ $(stat -c %a /dev/shm) = 1777 ]; touch /dev/shm/x
        grep -E 'devpts.*gid=.*mode=620,ptmxmode=666' /proc/self/mountinfo
        script -qc 'tty; stat -c %g $(tty)' /dev/null | tr -d '\\r'
        [ -d /sys/class ]; [ -d /sys/fs/cgroup ]
        [ $PWD = / ]; case $PATH in */usr/sbin*) ;; *) false;; esac
        unshare --user true; echo nested";
    let Some(mut command) = chroot(&[], script) else {
        return;
    };
    let said = succeed(&mut command);
    assert!(
        said.contains("/dev/pts/0\n5\n") && said.contains("nested"),
        "{said}"
    );
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(copy().unwrap().to_str().unwrap())
    );
    assert_eq!(
        fs::read_dir(copy().unwrap().join("dev")).unwrap().count(),
        0
    );
}

#[test]
fn binds_show_what_only_the_caller_reaches_and_their_mount_points_are_gone_afterwards() {
    let scratch = Scratch::new();
    for directory in ["home", "home/repo", "home/work", "other"] {
        fs::create_dir(scratch.join(directory)).unwrap();
        std::os::unix::fs::chown(scratch.join(directory), Some(user().uid), Some(user().gid))
            .unwrap();
    }
    fs::write(scratch.join("home/repo/deb"), "package").unwrap();
    fs::write(scratch.join("home/file"), "content").unwrap();
    fs::set_permissions(scratch.join("home/work"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(scratch.join("home"), fs::Permissions::from_mode(0o700)).unwrap();
    let own = scratch.path().to_str().unwrap();
    let binds = [
        "home/repo:/isar-apt:ro",
        "home/work:/var/run/bound/deep",
        "home/file:/bound/file:ro",
        "other",
        "home/file:/dev/mapper/x",
    ];
    let options: Vec<&str> = binds.iter().flat_map(|bind| ["--bind", *bind]).collect();
    let script = format!(
        "cat /isar-apt/deb /bound/file; ! touch /isar-apt/x 2>/dev/null; touch /run/bound/deep/made; [ -d {own}/other ]; cat /dev/mapper/x"
    );
    let Some(mut command) = chroot(&options, &script) else {
        return;
    };
    assert_eq!(
        succeed(command.current_dir(scratch.path())),
        "packagecontentcontent"
    );
    assert!(scratch.join("home/work/made").exists());
    for gone in [
        "isar-apt",
        "run/bound",
        "bound",
        own.trim_start_matches('/'),
    ] {
        assert!(is_cleared(gone), "{gone}");
    }
}

#[test]
fn submounts_of_a_read_only_bind_are_read_only_too() {
    let scratch = Scratch::new();
    let Some(copy) = copy() else { return };
    fs::create_dir_all(scratch.join("top/sub")).unwrap();
    let script = format!(
        "mount -t tmpfs none {0}/top/sub && exec {1} --userns isar-test chroot --bind {0}/top:/ro-top:ro {2} -- sh -c '! touch /ro-top/x && ! touch /ro-top/sub/x' ",
        scratch.path().display(),
        world::program().display(),
        copy.display()
    );
    succeed(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
}

#[test]
fn without_a_command_bash_reads_stdin_and_descriptors_are_kept() {
    let Some(copy) = copy() else { return };
    let mut child = isar_as_user(["chroot", "--env", "A=b=c", "--env", "HOME=/root"])
        .arg(copy)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"echo \"$A $HOME $0\"\nexit 9\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        ("b=c /root /bin/bash\n".into(), Some(9))
    );
}

#[test]
fn the_status_says_what_became_of_the_command() {
    let Some(copy) = copy() else { return };
    let status = |program: &str| {
        run(isar_as_user(["chroot"]).arg(copy).arg(program))
            .status
            .code()
    };
    assert_eq!(status("/bin/false"), Some(1));
    assert_eq!(status("no-such-program"), Some(127));
    assert_eq!(status("/etc/passwd"), Some(126));
    let said = fail(125, &mut isar_as_user(["chroot", "/no/such/tree", "true"]));
    assert!(
        said.contains(
            "cannot run a command in \"/no/such/tree\": open the directory: No such file"
        ),
        "{said}"
    );
    let said = fail(
        125,
        isar_as_user(["chroot", "--bind", "/no/such:/x"])
            .arg(copy)
            .arg("true"),
    );
    assert!(said.contains("/no/such: open: No such file"), "{said}");
    assert!(is_cleared("x"));
}

#[test]
fn what_a_killed_run_leaves_is_cleared_by_the_next() {
    let Some(copy) = copy() else { return };
    let mut child = chroot(&["--bind", "/etc:/left/behind"], "echo ready; sleep 60").unwrap();
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(copy.join("left/behind").is_dir());
    assert!(is_cleared("left"), "{:?}", names());
}

#[test]
fn several_runs_in_one_tree_do_not_take_away_each_others_mount_points() {
    let Some(_) = copy() else { return };
    let runs: Vec<_> = (0..6)
        .map(|number| {
            let script = format!("sleep 0.{number}; [ -f /shared-point/passwd ]");
            chroot(&["--bind", "/etc:/shared-point"], &script)
                .unwrap()
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in runs {
        assert!(child.wait().unwrap().success());
    }
    assert!(is_cleared("shared-point"));
}

#[test]
fn resolv_conf_is_written_over_a_link() {
    let Some(_) = copy() else { return };
    let scratch = Scratch::new();
    // A small tree of its own, with programs from the host.
    for directory in ["tree", "tree/etc", "tree/usr", "tree/lib64"] {
        fs::create_dir(scratch.join(directory)).unwrap();
        std::os::unix::fs::chown(
            scratch.join(directory),
            Some(user().base),
            Some(user().base),
        )
        .unwrap();
    }
    symlink("usr/bin", scratch.join("tree/bin")).unwrap();
    symlink("usr/lib", scratch.join("tree/lib")).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        scratch.join("tree/etc/resolv.conf"),
    )
    .unwrap();
    let args = [
        "chroot",
        "--resolv-conf",
        "--bind",
        "/usr:ro",
        "--bind",
        "/lib64:ro",
        "tree",
        "--",
        "cat",
        "/etc/resolv.conf",
    ];
    let said = succeed(isar_as_user(args).current_dir(scratch.path()));
    assert_eq!(said, fs::read_to_string("/etc/resolv.conf").unwrap());
    assert!(scratch.join("tree/etc/resolv.conf").is_file());
    let mut names: Vec<_> = fs::read_dir(scratch.join("tree"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["bin", "etc", "lib", "lib64", "usr"],
        "dev, proc and sys were made and are gone"
    );
}

#[test]
fn root_mounts_without_anybody_seeing_it() {
    let Some(copy) = copy() else { return };
    let script = "[ -c /dev/null ] && [ -d /sys/class ] && cat /proc/self/uid_map";
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap();
    assert_eq!(
        succeed(
            isar(["chroot", "--bind", "/etc:/by-root"])
                .arg(copy)
                .args(["sh", "-c", script])
        ),
        uid_map
    );
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(copy.to_str().unwrap())
    );
    assert!(is_cleared("by-root"));
}

#[test]
fn a_stopped_run_cleans_up() {
    let Some(copy) = copy() else { return };
    let mut child = chroot(&["--bind", "/etc:/stopped"], "echo ready; sleep 60").unwrap();
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert!(copy.join("stopped").exists());
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(is_cleared("stopped"), "{:?}", names());
}
