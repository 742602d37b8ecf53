//! Completion of command lines, in the shells themselves.

use std::fs;
use std::process::Command;

use crate::imager::pack_small;
use crate::world::{Scratch, isar, program, require, run, succeed, text};

/// A line that is typed, and the words that the shell makes of it at TAB.
const LINES: [(&str, &[&str]); 9] = [
    ("pack --le", &["pack", "--level"]),
    ("grant-acl --revo", &["grant-acl", "--revoke"]),
    ("pack --unmapped squ", &["pack", "--unmapped", "squash"]),
    ("--userns au", &["--userns", "auto"]),
    ("idmap --format newu", &["idmap", "--format", "newuidmap"]),
    ("check arch", &["check", "archive.tar"]),
    (
        "list archive.tar etc/reso",
        &["list", "archive.tar", "etc/resolv.conf"],
    ),
    (
        "unpack archive.tar dir data/na",
        &["unpack", "archive.tar", "dir", "data/name"],
    ),
    ("export tree us", &["export", "tree", "usr/"]),
];

/// Types lines into an interactive shell on a terminal, and prints the words that it makes of them.
const TYPIST: &str = r#"
import os, pty, sys, time, select
shell, out, lines = sys.argv[1], sys.argv[2], sys.argv[3:]
start = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}[shell]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execvp(start[0], start)
shown = b""
def read(seconds, until=None):
    global shown
    end = time.time() + seconds
    while time.time() < end:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                return
        if until and os.path.exists(until):
            return
def send(text):
    os.write(terminal, text.encode())
prepare = {
    "bash": "PATH=$PWD/bin:$PATH; . ./bash",
    "zsh": "PATH=$PWD/bin:$PATH; bindkey -e; fpath=($PWD/zsh $fpath); autoload -U compinit; compinit -D -u",
}[shell]
send(prepare + "; touch ready\n")
read(30, "ready")
for number, line in enumerate(lines):
    done = f"{out}.{number}"
    # The completed line becomes the arguments of printf.
    send("isar-tarball " + line + "\t")
    read(2.0 if number == 0 else 0.8)
    send("\x01printf '%s\\n' \x05 >" + done + ".part; mv " + done + ".part " + done + "\n")
    read(20, done)
send("exit\n")
read(1)
sys.stderr.write(shown.decode(errors="replace"))
"#;

/// The scripts, the program, an archive and a tree.
fn prepared() -> Scratch {
    let scratch = Scratch::new();
    pack_small(&scratch, "archive.tar", 3);
    for directory in ["bin", "zsh", "tree"] {
        fs::create_dir(scratch.join(directory)).unwrap();
    }
    fs::create_dir(scratch.join("tree/usr")).unwrap();
    fs::copy(program(), scratch.join("bin/isar-tarball")).unwrap();
    for (shell, file) in [
        ("bash", "bash"),
        ("zsh", "zsh/_isar-tarball"),
        ("fish", "fish"),
    ] {
        let script = succeed(&mut isar(["completions", shell]));
        fs::write(scratch.join(file), script).unwrap();
    }
    scratch
}

fn typed_into(shell: &str) {
    if require(&[shell, "python3"]).is_none() {
        return;
    }
    let scratch = prepared();
    let mut typist = Command::new("python3");
    typist.args(["-c", TYPIST, shell, "words"]);
    typist.args(LINES.iter().map(|(line, _)| line));
    let shown = run(typist
        .current_dir(scratch.path())
        .env("HOME", scratch.path()));
    let mut faults = Vec::new();
    for (number, (line, expected)) in LINES.iter().enumerate() {
        let words = fs::read_to_string(scratch.join(format!("words.{number}")));
        let words = words.unwrap_or_default();
        if !words.lines().skip(1).eq(expected.iter().copied()) {
            faults.push(format!("{line:?} becomes {words:?}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}\n{}", text(&shown.stderr));
}

#[test]
fn bash_completes_options_values_paths_and_members() {
    typed_into("bash");
}

#[test]
fn zsh_completes_options_values_paths_and_members() {
    typed_into("zsh");
}

#[test]
fn fish_completes_options_values_paths_and_members() {
    if require(&["fish"]).is_none() {
        return;
    }
    let scratch = prepared();
    let mut faults = Vec::new();
    for (line, expected) in LINES {
        let script = "set PATH $PWD/bin $PATH; source fish; complete -C $argv[1]";
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", script, &format!("isar-tarball {line}")]);
        let said = succeed(fish.current_dir(scratch.path()).env("HOME", scratch.path()));
        // Each candidate is followed by a tab and its description.
        let candidates: Vec<_> = said
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        if candidates != expected[expected.len() - 1..] {
            faults.push(format!("{line:?} offers {candidates:?}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_member_that_a_shell_would_run_is_completed() {
    let scratch = Scratch::new();
    let tree = scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    for name in [
        "a-plain",
        "a$(id)",
        "a`id`",
        "a;id",
        "a b",
        "a\nb",
        "a\u{1b}[2J",
    ] {
        fs::write(tree.join(name), "").unwrap();
    }
    let mut tar = Command::new("tar");
    succeed(
        tar.arg("-cf")
            .arg(scratch.join("a.tar"))
            .arg("-C")
            .arg(&tree)
            .arg("."),
    );
    let mut asked = isar(["--", "isar-tarball", "list", "a.tar", "a"]);
    asked
        .env("ISAR_TARBALL_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .current_dir(scratch.path());
    assert_eq!(succeed(&mut asked), "a-plain");
}
