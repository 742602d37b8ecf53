//! `imager --root`: a tree for one command, and that nothing of it stays. What is said of the
//! command holds for `--cache` as well, see there.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{self, Scratch, fail, isar_as_user, names, run, succeed, text, user};

/// What a small tree borrows from the host.
pub const BORROWED: [&str; 4] = ["--bind", "/usr:ro", "--bind", "/lib64:ro"];

/// Packs a tree that can run the host's programs, with `files` small files, as `name` in the
/// scratch directory.
pub fn pack_small(scratch: &Scratch, name: &str, files: usize) -> PathBuf {
    let tree = scratch.join(format!("{name}.tree"));
    for directory in ["etc", "usr", "lib64", "tmp", "data"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    symlink("usr/bin", tree.join("bin")).unwrap();
    symlink("usr/lib", tree.join("lib")).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        tree.join("etc/resolv.conf"),
    )
    .unwrap();
    fs::write(tree.join("data/name"), name).unwrap();
    for number in 0..files {
        fs::write(
            tree.join(format!("data/{number}")),
            format!("{number}").repeat(100),
        )
        .unwrap();
    }
    let archive = scratch.join(name);
    let owners = [
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u=rwX,go=rX",
        "-cf",
    ];
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .args(owners)
            .arg(&archive)
            .arg("."),
    );
    fs::remove_dir_all(&tree).unwrap();
    archive
}

/// Mounts and processes that have to do with the directory, of whichever namespace.
pub fn traces(of: &Path) -> Vec<String> {
    let of = of.to_str().unwrap();
    let mut traces = Vec::new();
    for pid in names(Path::new("/proc"))
        .iter()
        .filter(|name| name.parse::<u32>().is_ok())
    {
        for file in ["mountinfo", "cmdline"] {
            // A process may be gone by now.
            let text = fs::read(Path::new("/proc").join(pid).join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            traces.extend(
                text.lines()
                    .filter(|line| line.contains(of))
                    .map(|line| format!("{pid} {file}: {line}")),
            );
        }
    }
    traces
}

/// Waits until something is so.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a command that says `ready` and waits for it.
pub fn start(command: &mut Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

struct Bench {
    scratch: Scratch,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new();
        pack_small(&scratch, "a.tar", 20);
        Bench { scratch }
    }

    fn imager(&self, options: &[&str], command: &[&str]) -> Command {
        let mut imager = isar_as_user(["imager", "--root", "root"]);
        imager
            .args(BORROWED)
            .args(options)
            .arg("a.tar")
            .args(command)
            .current_dir(self.scratch.path());
        imager
    }

    fn is_bare(&self) -> bool {
        self.scratch.names() == ["a.tar"]
    }
}

#[test]
fn the_status_is_that_of_the_command_and_the_tree_is_gone_afterwards() {
    let bench = Bench::new();
    let cases: &[(&[&str], i32)] = &[
        (&["--", "true"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["--", "sh", "-c", "kill -9 $$"], 137),
        (&["--", "no-such-program"], 127),
        (&["--", "/etc/resolv.conf"], 126),
    ];
    for (command, status) in cases {
        assert_eq!(
            run(&mut bench.imager(&[], command)).status.code(),
            Some(*status),
            "{command:?}"
        );
        assert!(bench.is_bare(), "{command:?}");
    }
    assert!(traces(bench.scratch.path()).is_empty());
}

#[test]
fn what_isar_puts_into_the_tree_is_there() {
    let bench = Bench::new();
    fs::create_dir(bench.scratch.join("repo")).unwrap();
    fs::write(bench.scratch.join("repo/Packages"), "packages").unwrap();
    let script = "[ -f /etc/resolv.conf ] && [ ! -L /etc/resolv.conf ] && cat /etc/resolv.conf /data/name
        [ -d /isar-apt ] && cat /isar-apt/Packages; echo \"$A\"; stat -c %u:%g:%a / /data; id -u; [ -c /dev/null ]";
    let options = ["--bind", "repo:/isar-apt:ro", "--env", "A=b c"];
    let said = succeed(&mut bench.imager(&options, &["--", "sh", "-ec", script]));
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(
        said,
        format!("{resolv_conf}a.tarpackagesb c\n0:0:755\n0:0:755\n0\n")
    );
    let plain = bench
        .imager(&[], &["--", "sh", "-c", "ls -A /isar-apt"])
        .output()
        .unwrap();
    assert_eq!(
        (text(&plain.stdout), plain.status.code()),
        (String::new(), Some(0))
    );
}

#[test]
fn without_a_command_bash_reads_stdin_and_open_descriptors_are_kept() {
    let bench = Bench::new();
    let mut script = tempfile::tempfile().unwrap();
    script
        .write_all(b"read line\nthis line\necho \"$line $0\"; cat <&5; ulimit -n; exit 3")
        .unwrap();
    std::io::Seek::rewind(&mut script).unwrap();
    fs::write(bench.scratch.join("five"), "fifth ").unwrap();
    let program = world::program().display().to_string();
    let line = format!(
        "ulimit -Sn 777; exec {program} imager --root root {} a.tar 5<five",
        BORROWED.join(" ")
    );
    let mut shell = world::as_user("sh");
    let output = shell
        .args(["-c", &line])
        .current_dir(bench.scratch.path())
        .stdin(script)
        .output()
        .unwrap();
    let expected = ("this line /bin/bash\nfifth 777\n".to_owned(), Some(3));
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        expected,
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_stopped_run_removes_its_tree_whatever_it_was_doing() {
    use rustix::process::Signal;
    let bench = Bench::new();
    for (signal_sent, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut child = start(&mut bench.imager(
            &[],
            &["--", "sh", "-c", "touch /made; echo ready; exec sleep 60"],
        ));
        assert!(bench.scratch.join("root/made").exists());
        signal(&child, signal_sent);
        assert_eq!(child.wait().unwrap().code(), Some(status));
        assert!(bench.is_bare());
    }
    let (mut child, _writer) = start_unpacking(&bench);
    signal(&child, Signal::TERM);
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    fs::remove_file(bench.scratch.join("pipe")).unwrap();
    assert!(bench.is_bare());
    assert!(traces(bench.scratch.path()).is_empty());
}

/// A run that waits for the second half of its archive.
fn start_unpacking(bench: &Bench) -> (Child, File) {
    let pipe = bench.scratch.join("pipe");
    succeed(Command::new("mkfifo").args(["-m", "666"]).arg(&pipe));
    let mut imager = isar_as_user(["imager", "--root", "root", "pipe", "--", "true"]);
    let child = imager.current_dir(bench.scratch.path()).spawn().unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    // More than is decoded at a time, so that members of it are made.
    let archive = fs::read(pack_small(&bench.scratch, "long.tar", 6000)).unwrap();
    fs::remove_file(bench.scratch.join("long.tar")).unwrap();
    writer.write_all(&archive[..archive.len() * 3 / 4]).unwrap();
    eventually("something is unpacked", || {
        // Only root and the namespace may look there.
        fs::read_dir(bench.scratch.join("root")).is_ok_and(|mut entries| entries.next().is_some())
    });
    (child, writer)
}

#[test]
fn what_a_killed_run_has_left_is_removed_by_the_next_in_the_same_place() {
    let bench = Bench::new();
    let kill = |mut child: Child| {
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("no process is left", || {
            traces(bench.scratch.path()).is_empty()
        });
        assert!(fs::read_dir(bench.scratch.join("root")).unwrap().count() > 0);
    };
    kill(start(&mut bench.imager(
        &[],
        &["--", "sh", "-c", "touch /old; echo ready; exec sleep 60"],
    )));
    succeed(&mut bench.imager(&[], &["--", "sh", "-c", "[ ! -e /old ] && [ -e /data/19 ]"]));
    assert!(bench.is_bare());
    let (child, _writer) = start_unpacking(&bench);
    kill(child);
    succeed(&mut bench.imager(&[], &["--", "sh", "-c", "[ -e /data/19 ]"]));
    assert_eq!(bench.scratch.names(), ["a.tar", "pipe"]);
}

#[test]
fn a_directory_that_is_in_use_or_no_imagers_is_refused_and_stays() {
    let bench = Bench::new();
    let mut first = start(
        bench
            .imager(
                &[],
                &["--", "sh", "-c", "echo ready; read line; [ -e /data/name ]"],
            )
            .stdin(Stdio::piped()),
    );
    let said = fail(125, &mut bench.imager(&[], &["--", "true"]));
    assert!(said.contains("\"root\" is in use"), "{said}");
    first.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(first.wait().unwrap().success());
    assert!(bench.is_bare());

    let own = bench.scratch.user_dir("root", 0o755);
    fs::write(own.join("mine"), "").unwrap();
    let said = fail(125, &mut bench.imager(&[], &["--", "true"]));
    assert!(
        said.contains("\"root\": the directory is not empty"),
        "{said}"
    );
    assert_eq!(names(&own), ["mine"]);
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(&own).unwrap()),
        user().uid
    );
    fs::remove_dir_all(&own).unwrap();

    let other = bench.scratch.namespace_dir("root");
    fs::write(other.join("tree"), "").unwrap();
    fail(125, &mut bench.imager(&[], &["--", "true"]));
    assert_eq!(names(&other), ["tree"]);

    let home = isar_as_user(["imager", "--root", "/home/isar-test", "a.tar", "--", "true"])
        .current_dir(bench.scratch.path())
        .output()
        .unwrap();
    assert!(
        text(&home.stderr).contains("it is a home directory"),
        "{}",
        text(&home.stderr)
    );
}

#[test]
fn an_empty_directory_and_missing_ones_above_are_taken_and_removed() {
    let bench = Bench::new();
    bench.scratch.user_dir("root", 0o755);
    succeed(&mut bench.imager(&[], &["--", "true"]));
    assert!(bench.is_bare());
    let mut deep = isar_as_user(["imager", "--root", "new/deep/root"]);
    succeed(
        deep.args(BORROWED)
            .args(["a.tar", "true"])
            .current_dir(bench.scratch.path()),
    );
    assert!(bench.is_bare());
    // Without a place of its own, in a directory where only the owner removes.
    let temporary = bench.scratch.user_dir("tmp", 0o1777);
    let mut anywhere = world::as_user("env");
    anywhere
        .arg(format!("TMPDIR={}", temporary.display()))
        .arg(world::program())
        .arg("imager")
        .args(BORROWED);
    succeed(
        anywhere
            .args(["a.tar", "cat", "/data/name"])
            .current_dir(bench.scratch.path()),
    );
    assert!(names(&temporary).is_empty());
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing() {
    let bench = Bench::new();
    fs::write(
        bench.scratch.join("broken.tar"),
        &fs::read(bench.scratch.join("a.tar")).unwrap()[..7000],
    )
    .unwrap();
    let cases: &[(&[&str], &str)] = &[
        (
            &["--root", "root", "broken.tar", "true"],
            "in the tree of \"broken.tar\": ",
        ),
        (
            &["--root", "root", "none.tar", "true"],
            "\"none.tar\": open: No such file",
        ),
        (
            &["--root", "root", "--bind", "/no/such:/x", "a.tar", "true"],
            "/no/such: open: No such file",
        ),
        (
            &["--root", "root", "-", "true"],
            "cannot read the archive from stdin",
        ),
        (
            &["--cache", "cache", "/dev/null", "true"],
            "must be a regular file",
        ),
        (
            &["--cache", "cache", "broken.tar", "true"],
            "in the tree of \"broken.tar\": ",
        ),
    ];
    for (args, expected) in cases {
        let said = fail(
            125,
            isar_as_user(["imager"])
                .args(*args)
                .current_dir(bench.scratch.path()),
        );
        assert!(said.contains(expected), "{said}");
        let _ = fs::metadata(bench.scratch.join("cache")).map(|_| {
            succeed(
                Command::new("rm")
                    .arg("-rf")
                    .arg(bench.scratch.join("cache")),
            )
        });
        assert_eq!(bench.scratch.names(), ["a.tar", "broken.tar"], "{args:?}");
    }
}

#[test]
fn layout_caller_and_real_root_do_the_same() {
    let bench = Bench::new();
    let mut caller = isar_as_user(["--id-layout", "caller", "imager", "--root", "root"]);
    let script = "stat -c %u / /data/name; id -u";
    let arguments = ["a.tar", "--", "sh", "-c", script];
    assert_eq!(
        succeed(
            caller
                .args(BORROWED)
                .args(arguments)
                .current_dir(bench.scratch.path())
        ),
        "0\n0\n0\n"
    );
    assert!(bench.is_bare());
    // Root believes no cache below a directory of another user.
    let of_root = tempfile::tempdir().unwrap();
    fs::copy(bench.scratch.join("a.tar"), of_root.path().join("a.tar")).unwrap();
    for place in ["--root", "--cache"] {
        let mut root = world::isar(["imager", place, "place"]);
        assert_eq!(
            succeed(
                root.args(BORROWED)
                    .args(arguments)
                    .current_dir(of_root.path())
            ),
            "0\n0\n0\n"
        );
    }
    let place = of_root.path().join("place");
    assert!(traces(&place).is_empty());
    assert_eq!(names(of_root.path()), ["a.tar", "place"]);
    let mode = fs::metadata(place).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn packages_without_package_lists_name_the_remedy() {
    let scratch = Scratch::new();
    pack_small(&scratch, "a.tar", 0);
    // A stand-in for apt-get that knows no package.
    let bin = scratch.user_dir("bin", 0o755);
    fs::write(
        bin.join("apt-get"),
        "#!/bin/sh\necho \"$@\" >&2\n[ \"$3\" = update ]\n",
    )
    .unwrap();
    fs::set_permissions(bin.join("apt-get"), fs::Permissions::from_mode(0o755)).unwrap();
    let imager = |options: &[&str]| {
        let mut imager = isar_as_user(["imager"]);
        imager
            .args(BORROWED)
            .args(["--env", "PATH=/stand-in:/usr/bin"]);
        imager.args(["--bind", &format!("{}:/stand-in:ro", bin.display())]);
        imager.args(options).args(["a.tar", "--", "true"]);
        imager.current_dir(scratch.path());
        imager
    };
    let said = fail(125, &mut imager(&["--install", "hello"]));
    assert!(
        said.contains("the tree has no package lists") && said.contains("--update"),
        "{said}"
    );
    let output = run(&mut imager(&["--update"]));
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "-o APT::Sandbox::User=root update\n");
}

#[test]
fn a_killed_process_1_and_a_killed_worker_are_reported() {
    let scratch = Scratch::new();
    pack_small(&scratch, "a.tar", 1);
    for options in [["--root", "root"], ["--cache", "cache"]] {
        // The worker is the child of the program, process 1 the child of the worker.
        for depth in 1..=2 {
            let mut imager = isar_as_user(["imager"]);
            imager.args(BORROWED).args(options);
            imager.args(["a.tar", "--", "sh", "-c", "echo ready; sleep 60"]);
            imager.current_dir(scratch.path()).stderr(Stdio::piped());
            let mut child = start(&mut imager);
            let mut pid = child.id().to_string();
            for _ in 0..depth {
                let path = format!("/proc/{pid}/task/{pid}/children");
                pid = fs::read_to_string(path).unwrap().trim().to_owned();
            }
            succeed(Command::new("kill").args(["-KILL", &pid]));
            let mut said = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(137), "{said}");
            assert!(said.contains("killed by signal 9"), "{depth}: {said}");
            assert!(!scratch.join("root").exists());
        }
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_with_a_path_and_is_the_commands_own_again() {
    let scratch = Scratch::new();
    pack_small(&scratch, "a.tar", 1);
    let script = "cp -a a.tar large.tar && head -c 3000000 /dev/zero >big && \
        tar --owner=0 --group=0 --numeric-owner -rf large.tar ./big && rm big";
    succeed(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(scratch.path()),
    );
    succeed(isar_as_user(["unpack", "large.tar", "tree"]).current_dir(scratch.path()));
    let limited = |words: &str| {
        let script = format!(
            "ulimit -f 1000; exec {} {words}",
            world::program().display()
        );
        let mut command = world::as_user("bash");
        command.args(["-c", &script]).current_dir(scratch.path());
        command
    };
    let binds = BORROWED.join(" ");
    for (status, words) in [
        (2, "unpack large.tar r".to_owned()),
        (2, "export tree big out".to_owned()),
        (125, format!("imager --root r {binds} large.tar -- true")),
        (125, format!("imager --cache c {binds} large.tar -- true")),
    ] {
        let said = fail(status, &mut limited(&words));
        assert!(
            said.contains("big: ") && said.contains("File too large"),
            "{said}"
        );
        let is_left = |name: &String| name == "r" || name.contains("out");
        assert!(!scratch.names().iter().any(is_left), "{words}");
    }
    let command = format!("imager --root r {binds} a.tar -- dd if=/dev/zero of=/big bs=1M count=3");
    let output = run(&mut limited(&command));
    assert_eq!(output.status.code(), Some(128 + 25));
}
