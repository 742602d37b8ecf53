//! `unshare`: a command as root of the namespace, and what passes between it and the caller.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{self, Scratch, fail, isar, isar_as_user, run, succeed, text, user};

fn sh(script: &str) -> Command {
    isar_as_user(["unshare", "sh", "-c", script])
}

fn status(command: &mut Command) -> Option<i32> {
    run(command).status.code()
}

#[test]
fn the_command_is_root_with_a_proc_of_its_own_in_either_layout() {
    let scratch = Scratch::new();
    let script =
        "id -u; id -g; id -G; readlink /proc/self; echo $$; touch file; stat -c %u:%g file";
    for (layout, owner) in [("subid", None), ("caller", Some(user().uid))] {
        fs::set_permissions(
            scratch.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )
        .unwrap();
        let args = ["--id-layout", layout, "unshare", "--", "sh", "-c", script];
        let said = succeed(isar_as_user(args).current_dir(scratch.path()));
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..3], ["0", "0", "0"], "{said}");
        // Process 1 is the program, the shell is 2, readlink 3 or more.
        assert_eq!((lines[4], lines[5]), ("2", "0:0"), "{said}");
        assert!(lines[3].parse::<u32>().unwrap() < 20, "{said}");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(
            fs::metadata(scratch.join("file")).unwrap().uid(),
            owner.unwrap_or(user().base)
        );
        fs::remove_file(scratch.join("file")).unwrap();
    }
}

#[test]
fn the_status_is_that_of_the_command_or_says_why_there_was_none() {
    assert_eq!(status(&mut sh("exit 0")), Some(0));
    assert_eq!(status(&mut sh("exit 2")), Some(2));
    assert_eq!(status(&mut sh("exit 77")), Some(77));
    assert_eq!(status(&mut sh("kill -9 $$")), Some(137));
    assert_eq!(status(&mut sh("kill -TERM $$")), Some(143));
    let said = fail(127, &mut isar_as_user(["unshare", "no-such-command"]));
    assert!(
        said.contains("run no-such-command: No such file or directory"),
        "{said}"
    );
    let said = fail(126, &mut isar_as_user(["unshare", "/etc/passwd"]));
    assert!(
        said.contains("run /etc/passwd: Permission denied"),
        "{said}"
    );
    let said = fail(
        125,
        &mut isar_as_user(["--userns", "off", "unshare", "true"]),
    );
    assert!(said.contains("leave out `--userns off`"), "{said}");
}

#[test]
fn a_line_that_is_not_understood_has_no_status_that_a_command_would_have() {
    let cases: &[(i32, &[&str])] = &[
        (125, &["unshare"]),
        (125, &["unshare", "--usern", "off", "true"]),
        (125, &["chroot"]),
        (125, &["chroot", "tree", "--usern", "off"]),
        (125, &["chroot", "--bind", "/a:b", "tree", "true"]),
        (125, &["imager", "--root", "a", "--cache", "b", "archive"]),
        (125, &["imager", "--no-such-option", "archive"]),
        (125, &["imager", "--cache-limit", "much", "archive"]),
        (125, &["--id-layout", "none", "imager", "archive"]),
        (125, &["--no-such-option", "unshare", "true"]),
        (2, &["pack", "--no-such-option", "unshare", "chroot"]),
        (2, &["--id-layout", "none", "remove", "unshare"]),
        (2, &["no-such-command"]),
    ];
    for (status, line) in cases {
        assert!(
            fail(*status, &mut isar(*line)).contains("try '--help'"),
            "{line:?}"
        );
    }
    for help in [["unshare", "--help"], ["imager", "-h"]] {
        assert!(succeed(&mut isar(help)).contains("Usage: isar-tarball"));
    }
}

#[test]
fn root_works_in_its_own_user_namespace() {
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap();
    assert_eq!(
        succeed(&mut isar(["unshare", "cat", "/proc/self/uid_map"])),
        uid_map
    );
    let said = succeed(&mut isar([
        "--userns",
        world::USER,
        "unshare",
        "cat",
        "/proc/self/uid_map",
    ]));
    assert!(said.contains(&user().base.to_string()), "{said}");
}

#[test]
fn descriptors_stdin_directory_and_environment_are_kept() {
    let scratch = Scratch::new();
    let script = format!(
        "cd {}; VALUE=kept {} unshare sh -s 3>third 4<<'IN4' <<'IN'\nread line <&4; echo \"$VALUE $line $PWD\" >&3\nIN\nfour\nIN4\n",
        scratch.path().display(),
        world::program().display()
    );
    succeed(
        world::as_user("bash")
            .arg("-c")
            .arg(script.replace("4<<'IN4' <<'IN'", "<<'IN' 4<<'IN4'")),
    );
    assert_eq!(
        fs::read_to_string(scratch.join("third")).unwrap(),
        format!("kept four {}\n", scratch.path().display())
    );
}

/// A command that has said `ready`.
fn start(script: &str) -> Child {
    let mut child = sh(script)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // One byte at a time: what follows is for others to read.
    while !first.ends_with('\n') {
        let mut byte = [0];
        assert_eq!(
            child.stdout.as_mut().unwrap().read(&mut byte).unwrap(),
            1,
            "{first:?}"
        );
        first.push(byte[0].into());
    }
    assert_eq!(first, "ready\n");
    child
}

fn send(child: &Child, signal: Signal) {
    kill_process(
        Pid::from_raw(child.id().try_into().unwrap()).unwrap(),
        signal,
    )
    .unwrap();
}

#[test]
fn signals_reach_the_command_once_and_it_decides() {
    let cases = [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::ALARM, "ALRM"),
    ];
    for (signal, name) in cases {
        let script = format!(
            "trap 'echo got' {name}; echo ready; for i in $(seq 8); do sleep 0.1; done; exit 5"
        );
        let child = start(&script);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (text(&output.stdout), output.status.code()),
            ("got\n".into(), Some(5)),
            "{name}"
        );
    }
    let child = start("echo ready; exec sleep 60");
    send(&child, Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn what_the_command_leaves_running_ends_with_it_and_everything_ends_with_the_program() {
    let is_running = |mark: &str| {
        let found = Command::new("pgrep").args(["-f", mark]).output().unwrap();
        !found.stdout.is_empty()
    };
    let gone = |mark: &str| {
        let begin = Instant::now();
        while is_running(mark) && begin.elapsed() < Duration::from_secs(5) {
            sleep(Duration::from_millis(20));
        }
        !is_running(mark)
    };
    let mark = format!("61{}", std::process::id());
    succeed(&mut sh(&format!("sleep {mark} >/dev/null 2>&1 & exit 0")));
    assert!(gone(&format!("sleep {mark}")));
    let mark = format!("62{}", std::process::id());
    let mut child = start(&format!("echo ready; sleep {mark} & sleep {mark}"));
    assert!(is_running(&format!("sleep {mark}")));
    // setpriv has become the program, so this is the program itself.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(gone(&format!("sleep {mark}")));
}

#[test]
fn orphans_are_collected() {
    let said = succeed(&mut sh(
        "(sh -c 'sleep 0.1 & exit') ; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status || echo none",
    ));
    assert_eq!(said, "none\n");
}

#[test]
fn what_is_mounted_inside_is_not_seen_outside() {
    succeed(&mut sh(
        "mount -t tmpfs inside-only /mnt && grep -q inside-only /proc/self/mountinfo",
    ));
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains("inside-only")
    );
}

#[test]
fn a_covered_proc_is_said_and_gone_on_without() {
    // As in a container: something is mounted over a part of /proc, and the user namespace may not
    // look under it.
    let script = "mount --bind /dev/null /proc/uptime && exec setpriv --reuid isar-test --regid isar-test --init-groups \"$0\" unshare echo done";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(world::program());
    let output = run(&mut command);
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        ("done\n".into(), Some(0))
    );
    assert!(text(&output.stderr).contains("/proc stays as it was"));
    let script = script.replace("unshare echo", "-q unshare echo");
    let mut command = Command::new("unshare");
    let output = run(command
        .args(["--mount", "sh", "-c", &script])
        .arg(world::program()));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn ctrl_c_on_a_terminal_reaches_the_command_once() {
    if world::require(&["python3"]).is_none() {
        return;
    }
    // A terminal whose foreground group the program leads; ^C is typed once the command is ready.
    let python = r#"
import os, pty, sys
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b''
typed = False
while True:
    try:
        data = os.read(master, 1000)
    except OSError:
        break
    if not data:
        break
    seen += data
    if b'ready' in seen and not typed:
        os.write(master, b'\x03')
        typed = True
print(seen.decode().replace('\r', ''), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let script = "trap 'echo got' INT; echo ready; for i in 1 2 3 4 5; do sleep 0.1; done; read x </dev/tty & exit 6";
    let mut command = world::as_user("python3");
    command
        .args(["-c", python])
        .arg(world::program())
        .args(["unshare", "sh", "-c", script]);
    let said = succeed(&mut command);
    assert_eq!(said.matches("got").count(), 1, "{said}");
    assert!(said.trim_end().ends_with(" 6"), "{said}");
}

#[test]
fn a_stream_through_the_command_is_complete() {
    let mut child = sh("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 1 << 20]).unwrap());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut length = 0;
    loop {
        let count = out.fill_buf().unwrap().len();
        if count == 0 {
            break;
        }
        length += count;
        out.consume(count);
    }
    writer.join().unwrap();
    assert_eq!((length, child.wait().unwrap().code()), (1 << 20, Some(0)));
}
