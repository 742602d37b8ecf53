//! `info`, beside what other programs find out.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crafted::Tar;
use crate::world::{
    Scratch, chroot, fail, isar, isar_as_user, program, require, run, succeed, text,
};

fn info_json(archive: &Path) -> Value {
    serde_json::from_str(&succeed(isar(["info", "--json"]).arg(archive))).unwrap()
}

fn sh(command: &str, archive: &Path) -> String {
    succeed(Command::new("sh").args(["-ec", command]).env("A", archive))
        .trim()
        .to_owned()
}

/// What `zstd -lv` says of an archive; the window is that of the last frame.
fn zstd_lists(archive: &Path, key: &str) -> String {
    let listed = sh("zstd -lv $A", archive);
    let line = listed
        .lines()
        .find(|line| line.contains(key))
        .unwrap_or_default();
    line.rsplit(": ").next().unwrap_or_default().to_owned()
}

/// A small root file system, packed by GNU tar.
fn rootfs(scratch: &Scratch, name: &str, compress: &str) -> PathBuf {
    let script = "mkdir -p t/etc/apt t/usr/lib t/var/lib/dpkg; cd t
        printf 'root:x:0:0::/:/bin/sh\\n' > etc/passwd
        printf 'PRETTY_NAME=\"Evil \\033[2J\"\\nID=evil\\n' > usr/lib/os-release; ln -sf ../usr/lib/os-release etc/os-release
        printf 'deb http://x/ y main\\n' > etc/apt/sources.list
        printf 'Package: dpkg\\nStatus: install ok installed\\nArchitecture: armhf\\n' > var/lib/dpkg/status
        ln -f etc/passwd etc/passwd-; mkfifo -m 600 p 2>/dev/null || true; truncate -s 1M hole; cd ..
        tar --format=posix --sort=name -Scf - -C t . | $COMPRESS > \"$A\"";
    let archive = scratch.join(name);
    let mut command = Command::new("sh");
    succeed(
        command
            .current_dir(scratch.path())
            .args(["-ec", script])
            .env("A", &archive)
            .env("COMPRESS", compress),
    );
    archive
}

#[test]
fn a_packed_chroot_is_what_other_programs_find_it_to_be() {
    if require(&["zstd", "sha256sum"]).is_none() {
        return;
    }
    let Some(tree) = chroot("bookworm") else {
        return;
    };
    let scratch = Scratch::new();
    let archive = scratch.join("a.tar.zst");
    succeed(&mut isar_as_user([
        "-q".as_ref(),
        "pack".as_ref(),
        tree.as_os_str(),
        archive.as_os_str(),
    ]));
    let info = info_json(&archive);
    assert_eq!(
        info["sha256"].as_str().unwrap(),
        &sh("sha256sum < $A", &archive)[..64]
    );
    assert_eq!(info["archive_bytes"], fs::metadata(&archive).unwrap().len());
    assert_eq!(
        info["tar_bytes"].to_string(),
        sh("zstd -dc $A | wc -c", &archive)
    );
    let count = |pattern: &str| {
        sh(
            &format!("tar -tvf $A | grep -c '^{pattern}' || true"),
            &archive,
        )
    };
    for (key, pattern) in [
        ("total", ""),
        ("directories", "d"),
        ("files", "-"),
        ("hard_links", "h"),
        ("symlinks", "l"),
        ("devices", "[bc]"),
    ] {
        assert_eq!(info["members"][key].to_string(), count(pattern), "{key}");
    }
    assert_eq!(
        zstd_lists(&archive, "Zstandard Frames"),
        info["frames"]["count"].to_string()
    );
    assert_eq!(info["frames"]["with_checksum"], info["frames"]["count"]);
    assert_eq!(info["distribution"]["codename"], "bookworm");
    let admindir = format!("--admindir={}", tree.join("var/lib/dpkg").display());
    let query = |format| {
        let status = ["dpkg-query", &admindir, "-W", "-f", format];
        succeed(Command::new(status[0]).args(&status[1..]))
    };
    let installed = query("${db:Status-Status}\n")
        .lines()
        .filter(|line| *line == "installed")
        .count();
    assert_eq!(info["packages"], installed);
    assert_eq!(
        info["architecture"].as_str().unwrap(),
        succeed(Command::new("dpkg").arg("--print-architecture")).trim()
    );
    assert!(info["build_users"]["sbuild"].is_u64());
    let table = succeed(isar_as_user(["info"]).arg(&archive));
    let sha256 = info["sha256"].as_str().unwrap();
    for text in [
        "Debian GNU/Linux 12 (bookworm)",
        sha256,
        "build user",
        "uid ",
    ] {
        assert!(table.contains(text), "{text} in {table}");
    }
    let values: Vec<Option<usize>> = table
        .lines()
        .map(|line| {
            line.find("  ")
                .map(|at| line[at..].len() - line[at..].trim_start().len() + at)
        })
        .collect();
    assert!(
        values.iter().all(|column| *column == values[0]),
        "the values stand below each other: {table}"
    );
}

#[test]
fn json_has_the_documented_keys_of_the_documented_types() {
    let scratch = Scratch::new();
    let help = succeed(&mut isar(["info", "--help"]));
    let archive = rootfs(&scratch, "a.tar.zst", "zstd -q");
    let full = info_json(&archive);
    let window = zstd_lists(&archive, "Window Size");
    assert!(
        window.ends_with(&format!("({} B)", full["frames"]["window"])),
        "{window}"
    );
    // A tar of nothing but a file: everything that can be unknown is.
    fs::write(scratch.join("file"), "x").unwrap();
    let bare = scratch.join("bare.tar");
    succeed(
        Command::new("tar")
            .current_dir(scratch.path())
            .args(["-cf", "bare.tar", "file"]),
    );
    let bare = info_json(&bare);
    let schema = json!({
        "archive": "string", "archive_bytes": "number", "sha256": "string", "compression": "string", "ratio": "number",
        "frames": {"count": "number", "skippable": "number", "with_checksum": "number", "with_size": "number", "window": "number", "longest": "number"},
        "tar_bytes": "number",
        "members": {
            "total": "number", "directories": "number", "files": "number", "sparse": "number", "hard_links": "number", "symlinks": "number",
            "fifos": "number", "devices": "number",
        },
        "file_bytes": "number", "with_xattrs": "number", "with_acls": "number",
        "distribution": {"name": "string", "id": "string", "codename": "string", "debian_version": "string"},
        "sources": ["string"], "architecture": "string", "foreign_architectures": ["string"], "packages": "number",
        "build_users": {"sbuild": "number", "caller": "number"},
    });
    for found in [&full, &bare] {
        assert_form(found, &schema, "");
    }
    for key in schema.as_object().unwrap().keys() {
        assert!(
            help.contains(&format!("  {key} ")),
            "{key} is not in the help text"
        );
    }
    assert_eq!(
        (&bare["frames"], &bare["packages"], &bare["build_users"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(full["members"]["sparse"], 1);
    assert_eq!(full["sources"], json!(["http://x/ y main"]));
    assert_eq!(
        (&full["packages"], &full["architecture"]),
        (&1.into(), &"armhf".into())
    );
    assert_eq!(full["build_users"]["sbuild"], 999);
}

/// Has `value` the keys and types of `schema`? What is not an object may be null.
fn assert_form(value: &Value, schema: &Value, place: &str) {
    match (value, schema) {
        (Value::Object(value), Value::Object(schema)) => {
            assert_eq!(
                value.keys().collect::<Vec<_>>(),
                schema.keys().collect::<Vec<_>>(),
                "{place}"
            );
            value
                .iter()
                .for_each(|(key, value)| assert_form(value, &schema[key], key));
        }
        (Value::Array(values), Value::Array(schema)) => values
            .iter()
            .for_each(|value| assert_form(value, &schema[0], place)),
        (Value::String(_), Value::String(kind)) => assert_eq!(kind, "string", "{place}"),
        (Value::Number(_), Value::String(kind)) => assert_eq!(kind, "number", "{place}"),
        (Value::Null, _) => {}
        _ => panic!("{place}: {value} is no {schema}"),
    }
}

#[test]
fn a_pipe_gives_the_same_as_a_file_but_for_the_frames() {
    let scratch = Scratch::new();
    for (name, compress) in [
        ("a.tar.zst", "zstd -q"),
        ("a.tar", "cat"),
        ("a.tar.gz", "gzip"),
        ("a.tar.xz", "xz"),
    ] {
        let archive = rootfs(&scratch, name, compress);
        let mut expected = info_json(&archive);
        let mut cat = Command::new("cat")
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = succeed(isar(["info", "--json", "-"]).stdin(cat.stdout.take().unwrap()));
        assert!(cat.wait().unwrap().success());
        (expected["archive"], expected["frames"]) = ("-".into(), Value::Null);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            expected,
            "{name}"
        );
        let from_file: Value = serde_json::from_str(&succeed(
            isar(["info", "--json", "-"]).stdin(File::open(&archive).unwrap()),
        ))
        .unwrap();
        assert_eq!(from_file["sha256"], expected["sha256"]);
    }
}

#[test]
fn what_an_archive_says_of_itself_moves_no_cursor() {
    let scratch = Scratch::new();
    let archive = rootfs(&scratch, "a.tar", "cat");
    let table = succeed(isar(["info"]).arg(&archive));
    assert!(
        table.contains("Evil \\u{1b}[2J") && !table.contains('\u{1b}'),
        "{table}"
    );
}

#[test]
fn colour_comes_when_it_is_asked_for_or_on_a_terminal() {
    let scratch = Scratch::new();
    let archive = rootfs(&scratch, "a.tar", "cat");
    let is_coloured = |text: &str| text.contains("\u{1b}[1m");
    assert!(is_coloured(&succeed(
        isar(["--color", "always", "info"]).arg(&archive)
    )));
    assert!(!is_coloured(&succeed(isar(["info"]).arg(&archive))));
    if require(&["script"]).is_none() {
        return;
    }
    let on_terminal = |variables: &str, option: &str| {
        let program = crate::world::program().display();
        let command = format!(
            "env {variables} {program} {option} info {}",
            archive.display()
        );
        let mut script = Command::new("script");
        is_coloured(&succeed(
            script
                .args(["-qefc", &command, "/dev/null"])
                .stdin(Stdio::null()),
        ))
    };
    assert!(on_terminal("-u NO_COLOR TERM=xterm", ""));
    assert!(!on_terminal("NO_COLOR=1 TERM=xterm", ""));
    assert!(on_terminal("NO_COLOR=1 TERM=xterm", "--color always"));
    assert!(!on_terminal("-u NO_COLOR TERM=xterm", "--color never"));
    assert!(!on_terminal("-u NO_COLOR TERM=dumb", ""));
}

#[test]
fn a_directory_is_not_an_archive_for_any_command() {
    let scratch = Scratch::new();
    scratch.user_dir("tree", 0o755);
    for command in [
        &["info", "tree"][..],
        &["list", "tree"],
        &["check", "tree"],
        &["unpack", "tree", "new"],
    ] {
        let said = fail(2, isar(command).current_dir(scratch.path()));
        assert!(
            said.contains("it is a directory, not an archive; pack it first"),
            "{command:?}: {said}"
        );
    }
}

#[test]
fn a_damaged_archive_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    let archive = rootfs(&scratch, "a.tar.zst", "zstd -q");
    let length = fs::metadata(&archive).unwrap().len();
    File::options()
        .write(true)
        .open(&archive)
        .unwrap()
        .set_len(length - 10)
        .unwrap();
    let said = fail(2, isar(["info"]).arg(&archive));
    assert!(said.contains("a.tar.zst"), "{said}");
    // Of an endless pipe no more is read than it takes to know.
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let output = run(isar(["info", "-"]).stdin(yes.stdout.take().unwrap()));
    let _ = yes.wait();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_archive_that_changes_while_it_is_read_is_not_described() {
    if require(&["strace"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let archive = Tar::new().file("./a", "x").end().write(&scratch, "a.tar");
    let mut info = Command::new("strace");
    // Each read takes so long that a write falls between the first and the last.
    info.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64"])
        .args(["-e", "inject=pread64:delay_exit=200000"])
        .arg(program())
        .arg("info")
        .arg(&archive)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = info.spawn().unwrap();
    let mut bytes = fs::read(&archive).unwrap();
    while child.try_wait().unwrap().is_none() {
        bytes[512] ^= 1;
        let file = fs::File::options().write(true).open(&archive).unwrap();
        file.write_all_at(&bytes[512..513], 512).unwrap();
        sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let expected = "another process changed it while it was being read";
    assert!(said.contains(expected), "{said}");
}
