//! Outputs that cannot be written to, and outputs that are no regular files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Bench, assert_none, outcome};
use crate::world::{as_user, program, run, succeed, text};

/// The program as the test user, by a shell that redirects its stdout first.
fn redirected(bench: &Bench, to: &str, args: &[&str]) -> Command {
    let mut command = as_user("sh");
    command
        .args(["-c", &format!("exec \"$0\" \"$@\" {to}")])
        .arg(program())
        .args(args)
        .stdin(Stdio::null())
        .current_dir(bench.scratch.path());
    command
}

#[test]
fn every_command_fails_if_its_report_cannot_be_written() {
    let bench = Bench::new(5);
    bench.unpacked("tree");
    let commands: &[&[&str]] = &[
        &["pack", "tree", "packed.tar"],
        &["unpack", "a.tar", "unpacked"],
        &["check", "a.tar"],
        &["check", "--json", "a.tar"],
        &["info", "a.tar"],
        &["list", "a.tar"],
        &["diff", "tree", "other.tar"],
        &["idmap"],
        &["doctor"],
        &["remove", "--json", "missing"],
        &["remove", "--dry-run", "tree"],
        &["export", "--json", "tree", "data/name", "exported"],
        &["grant-acl", "--parent", "granted"],
        &["completions", "bash"],
        &["completions", "fish"],
        &["list", "-l", "a.tar"],
        &["list", "--json", "a.tar"],
        &["info", "--json", "a.tar"],
        &["diff", "--json", "tree", "other.tar"],
        &["idmap", "--json"],
        &["doctor", "--json"],
        &["--help"],
        &["unpack", "--help"],
        &["--version"],
    ];
    let other = ["--owner=7", "--group=0", "-cf", "other.tar", "a.tar"];
    let mut tar = Command::new("tar");
    succeed(tar.args(other).current_dir(bench.scratch.path()));
    let mut faults = Vec::new();
    for to in [">/dev/full", ">&-"] {
        for command in commands {
            let (status, said) = outcome(&run(&mut redirected(&bench, to, command)));
            if status != Some(2) || !said.contains("stdout") || said.contains("panicked") {
                faults.push(format!("{command:?} {to}: {status:?} {said}"));
            }
            for name in ["packed.tar", "unpacked", "exported", "granted"] {
                super::clear(&bench.join(name));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn pack_keeps_a_source_whose_archive_went_to_stdout() {
    let bench = Bench::new(5);
    let tree = bench.unpacked("tree");
    let pack = ["pack", "--remove-source", "--format", "zst", "tree", "-"];
    let mut faults = Vec::new();
    for to in [">&-", ">/dev/full", ">file", "| cat >file"] {
        // The status is that of the program, not of cat.
        let mut command = redirected(&bench, to, &pack);
        if to.starts_with('|') {
            command = as_user("bash");
            command
                .args(["-c", "set -o pipefail; \"$0\" \"$@\" | cat >file"])
                .arg(program())
                .args(pack)
                .stdin(Stdio::null())
                .current_dir(bench.scratch.path());
        }
        let (status, said) = outcome(&run(&mut command));
        let written = fs::metadata(bench.join("file")).map_or(0, |file| file.len());
        if status != Some(2) || !said.contains("--remove-source") || written > 0 {
            faults.push(format!("{to}: {status:?}, {written} bytes, {said}"));
        }
        if bench.state("tree") != tree {
            faults.push(format!("{to}: the tree is not whole"));
            super::clear(&bench.join("tree"));
            bench.unpacked("tree");
        }
        super::clear(&bench.join("file"));
    }
    assert_none(&faults);
}

#[test]
fn pack_to_a_stdout_that_cannot_be_written_fails() {
    let bench = Bench::new(5);
    bench.unpacked("tree");
    let mut faults = Vec::new();
    for to in [">&-", ">/dev/full"] {
        let pack = ["pack", "--format", "tar", "tree", "-"];
        let (status, said) = outcome(&run(&mut redirected(&bench, to, &pack)));
        if status != Some(2) {
            faults.push(format!("{to}: {status:?} {said}"));
        }
    }
    assert_none(&faults);
}

/// What lists the archive with GNU tar.
fn listed(archive: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, archive).unwrap();
    let mut tar = Command::new("tar");
    let output = tar.arg("-tf").arg(file.path()).output().unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn is_digest(bytes: &[u8]) -> bool {
    let line = text(bytes);
    line.len() > 64
        && line[..64].bytes().all(|byte| byte.is_ascii_hexdigit())
        && line.ends_with("packed.tar\n")
}

/// Arguments of `pack` that write to `link`, and whether the bytes written are right.
type Writer = (&'static [&'static str], fn(&[u8]) -> bool);

const WRITERS: [Writer; 2] = [
    (
        &["-q", "pack", "--format", "tar", "tree", "link"],
        |bytes| listed(bytes).contains("./data/name\n"),
    ),
    (
        &["-q", "pack", "--digest", "link", "tree", "packed.tar"],
        is_digest,
    ),
];

#[test]
fn pack_writes_into_the_stdout_that_a_link_leads_to() {
    let bench = Bench::new(5);
    bench.unpacked("tree");
    symlink("/proc/self/fd/1", bench.join("link")).unwrap();
    for (args, is_right) in WRITERS {
        let output = bench.isar(args.iter().copied()).output().unwrap();
        let target = fs::read_link(bench.join("link"));
        assert!(
            output.status.success() && is_right(&output.stdout),
            "{args:?}: {}, {} bytes in the pipe, link {target:?}: {}",
            output.status,
            output.stdout.len(),
            text(&output.stderr)
        );
        assert_eq!(target.unwrap(), PathBuf::from("/proc/self/fd/1"));
    }
}

#[test]
fn pack_writes_into_a_named_pipe() {
    let bench = Bench::new(5);
    bench.unpacked("tree");
    for (args, is_right) in WRITERS {
        let pipe = bench.join("link");
        super::clear(&pipe);
        succeed(Command::new("mkfifo").args(["-m", "666"]).arg(&pipe));
        // The archive fits into the pipe.
        let mut reader = File::options();
        reader.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let mut reader = reader.open(&pipe).unwrap();
        let (status, said) = outcome(&run(&mut bench.isar(args.iter().copied())));
        let mut read = vec![0; 1 << 16];
        let length = reader.read(&mut read).unwrap_or(0);
        let kind = fs::symlink_metadata(&pipe).unwrap().file_type();
        assert!(
            status == Some(0) && is_right(&read[..length]),
            "{args:?}: {status:?}, {length} bytes in the pipe, now {kind:?}: {said}"
        );
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind), "{args:?}");
    }
}

/// Makes a /dev of its own in a mount namespace of its own, and packs to its stdout there, as root.
/// The machine's /dev is never there when the program runs.
const IN_ANOTHER_DEV: &str = r#"
    mount -t tmpfs none /dev
    [ -z "$(ls -A /dev)" ]
    mknod -m 666 /dev/null c 1 3
    ln -s /proc/self/fd /dev/fd
    ln -s /proc/self/fd/1 /dev/stdout
    before=$(ls -l --time-style=+ /dev)
    "$0" "$@" | cat >"$OUT"
    [ "$before" = "$(ls -l --time-style=+ /dev)" ] || { ls -l /dev >&2; exit 3; }
"#;

#[test]
fn pack_as_root_writes_into_dev_stdout_and_leaves_it_there() {
    let bench = Bench::new(5);
    let tree = bench.join("tree");
    fs::create_dir_all(tree.join("data")).unwrap();
    fs::write(tree.join("data/name"), "x").unwrap();
    for (args, is_right) in WRITERS {
        let args = args
            .iter()
            .map(|arg| if *arg == "link" { "/dev/stdout" } else { arg });
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "bash", "-o", "pipefail", "-euc", IN_ANOTHER_DEV])
            .arg(program())
            .args(args)
            .env("OUT", bench.join("out"))
            .stdin(Stdio::null())
            .current_dir(bench.scratch.path());
        let (status, said) = outcome(&run(&mut command));
        let got = fs::read(bench.join("out")).unwrap();
        assert!(
            status == Some(0) && is_right(&got),
            "{command:?}: {status:?}, {} bytes in the pipe: {said}",
            got.len()
        );
    }
    assert_ne!(fs::read_dir(Path::new("/dev")).unwrap().count(), 0);
}
