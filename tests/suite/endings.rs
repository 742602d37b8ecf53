//! How the program ends: by signals, with a closed output, and where no process can be started.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::imager::{BORROWED, pack_small};
use crate::world::{Scratch, as_user, isar_as_user, program, run, succeed, text};

/// A directory of the test user with an archive, its tree, and a pipe that never has data.
struct Bench {
    scratch: Scratch,
    /// Keeps opening the pipe from blocking.
    _pipe: File,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new();
        pack_small(&scratch, "a.tar", 3);
        let path = scratch.join("pipe");
        succeed(as_user("mkfifo").arg(&path));
        let pipe = File::options().read(true).write(true).open(&path).unwrap();
        let bench = Bench {
            scratch,
            _pipe: pipe,
        };
        succeed(&mut bench.isar(&["unpack", "a.tar", "tree"]));
        bench
    }

    fn isar(&self, args: &[&str]) -> Command {
        let mut command = isar_as_user(args);
        command.current_dir(self.scratch.path());
        command
    }
}

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

#[test]
fn a_program_that_a_signal_stops_cleans_up_and_dies_of_that_signal() {
    let bench = Bench::new();
    let before = bench.scratch.names();
    let imager = [
        &["imager", "--root", "root"],
        &BORROWED[..],
        &["pipe", "true"],
    ]
    .concat();
    // Those that have nothing to clean up need not say anything.
    let commands: [(&[&str], bool); 9] = [
        (&["list", "pipe"], false),
        (&["info", "pipe"], false),
        (&["check", "pipe"], true),
        (&["check", "--json", "pipe"], true),
        (&["diff", "tree", "pipe"], true),
        (&["unpack", "pipe", "new"], true),
        (&["unpack", "--replace", "pipe", "tree"], true),
        (&["unpack", "--merge", "pipe", "tree"], true),
        (&imager, true),
    ];
    let mut faults = Vec::new();
    for (number, (args, speaks)) in commands.into_iter().enumerate() {
        let signal = [Signal::INT, Signal::TERM, Signal::HUP][number % 3];
        let mut command = bench.isar(args);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(400));
        kill_process(pid(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        let is_right = output.status.signal() == Some(signal.as_raw())
            && (!speaks || said.contains("stopped by SIG"));
        if !is_right || bench.scratch.names() != before {
            let left = bench.scratch.names();
            faults.push(format!("{args:?}: {}: {said}: {left:?}", output.status));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn ctrl_c_ends_the_loop_of_a_shell() {
    let bench = Bench::new();
    for command in ["check pipe", "unpack pipe new"] {
        let script = format!("for i in 1 2 3; do echo run; \"$0\" {command}; done; echo after");
        let mut shell = as_user("bash");
        shell.args(["-c", &script]).arg(program()).process_group(0);
        let shell = shell
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .current_dir(bench.scratch.path())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(600));
        kill_process_group(pid(&shell), Signal::INT).unwrap();
        let output = shell.wait_with_output().unwrap();
        assert_eq!(
            text(&output.stdout),
            "run\n",
            "{command}: {}",
            output.status
        );
    }
}

#[test]
fn a_command_that_a_signal_kills_is_reported_by_the_status() {
    let bench = Bench::new();
    for (verb, last) in [
        ("unshare", None),
        ("chroot", Some("tree")),
        ("imager", Some("a.tar")),
    ] {
        let mut args = vec![verb];
        if let Some(last) = last {
            args.extend(BORROWED);
            args.push(last);
        }
        args.extend(["--", "sh", "-c", "kill -TERM $$"]);
        let output = run(&mut bench.isar(&args));
        assert_eq!(
            output.status.code(),
            Some(143),
            "{verb}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn the_line_of_a_bar_ends_before_the_message_of_a_signal() {
    let bench = Bench::new();
    let long = bench.scratch.join("long");
    File::create(&long).unwrap().set_len(3 << 30).unwrap();
    let pack = "tar -C \"$0\" -cf - long | zstd -q -1 >\"$0\"/long.tar.zst";
    succeed(
        Command::new("sh")
            .args(["-c", pack])
            .arg(bench.scratch.path()),
    );
    fs::remove_file(long).unwrap();
    let script = "\"$P\" --progress bar check --threads 1 long.tar.zst & sleep 0.7; kill -TERM $!; wait $!; echo status $?";
    let mut terminal = as_user("env");
    terminal.arg(format!("P={}", program().display())).args([
        "TERM=xterm",
        "script",
        "-qec",
        script,
        "/dev/null",
    ]);
    let shown = succeed(
        terminal
            .current_dir(bench.scratch.path())
            .stdin(Stdio::null()),
    );
    assert!(shown.contains("status 143"), "{shown}");
    // A newline, or the removal of the bar: a carriage return and an erased line.
    let (before, _) = shown
        .split_once("isar-tarball: stopped by SIGTERM")
        .unwrap_or_else(|| panic!("{shown:?}"));
    let is_bare = ["\n", "\r", "\u{1b}[2K"]
        .iter()
        .any(|end| before.ends_with(end));
    assert!(before.contains('%') && is_bare, "{shown:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_every_command_quietly() {
    let bench = Bench::new();
    let commands: [&[&str]; 14] = [
        &["list", "a.tar"],
        &["list", "--json", "a.tar"],
        &["info", "a.tar"],
        &["check", "a.tar"],
        &["diff", "--json", "tree", "a.tar"],
        &["idmap"],
        &["doctor"],
        &["completions", "zsh"],
        &["--help"],
        &["pack", "--help"],
        &["--version"],
        &["pack", "tree", "b.tar"],
        &["grant-acl", "--parent", "granted"],
        &["remove", "--json", "missing"],
    ];
    let mut faults = Vec::new();
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = bench.isar(args);
        let output = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = text(&output.stderr);
        // `doctor` may report on stderr as well.
        let is_quiet = !said.contains("stdout") && !said.contains("panicked");
        if output.status.signal() != Some(Signal::PIPE.as_raw()) || !is_quiet {
            faults.push(format!("{args:?}: {} {said}", output.status));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn where_no_process_or_thread_can_be_started_no_command_panics() {
    let bench = Bench::new();
    succeed(&mut bench.isar(&["pack", "tree", "a.tar.zst"]));
    let commands: [&[&str]; 9] = [
        &["--userns", "off", "pack", "tree", "off.tar.zst"],
        &["pack", "--threads", "4", "tree", "b.tar.zst"],
        &["unpack", "a.tar.zst", "new"],
        &["check", "a.tar.zst"],
        &["info", "a.tar.zst"],
        &["list", "a.tar.zst"],
        &["diff", "tree", "a.tar.zst"],
        &["remove", "missing"],
        &["doctor"],
    ];
    let mut faults = Vec::new();
    for limit in [1, 3, 5, 9] {
        for args in commands {
            let script = format!("ulimit -u {limit}; exec \"$0\" \"$@\"");
            let mut command = as_user("bash");
            command.args(["-c", &script]).arg(program()).args(args);
            let output = command.current_dir(bench.scratch.path()).output().unwrap();
            let said = text(&output.stderr);
            if !matches!(output.status.code(), Some(0..=2)) || said.contains("panicked") {
                faults.push(format!("{limit} {args:?}: {} {said}", output.status));
            }
            let left = bench.scratch.names();
            if left.iter().any(|name| name.starts_with('.')) {
                faults.push(format!("{limit} {args:?}: left {left:?}"));
            }
            succeed(Command::new("rm").arg("-rf").arg(bench.scratch.join("new")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_version_names_the_features() {
    let said = succeed(&mut isar_as_user(["--version"]));
    let version = concat!("isar-tarball ", env!("CARGO_PKG_VERSION"), " (");
    assert!(
        said.starts_with(version) && said.ends_with("gzip, xz)\n"),
        "{said}"
    );
}
