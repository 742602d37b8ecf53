//! `idmap`: what it prints is what the other commands use, and what newuidmap and unshare take.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{self, as_user, chroot, isar, isar_as_user, run, succeed, text, user};

/// The map of a process, `0 100000 65536` a line.
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The lines of uids, then those of gids, inside the namespace of the other commands.
fn used(layout: &str) -> Vec<String> {
    let args = [
        "--id-layout",
        layout,
        "unshare",
        "cat",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
    ];
    lines(&succeed(&mut isar_as_user(args)))
}

fn printed(layout: &str, format: &str) -> String {
    succeed(&mut isar_as_user([
        "--id-layout",
        layout,
        "idmap",
        "--format",
        format,
    ]))
}

#[test]
fn every_format_says_what_the_other_commands_use() {
    for layout in ["subid", "caller"] {
        let used = used(layout);
        let numbers: Vec<String> = printed(layout, "newuidmap")
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(numbers.join(" "), used.join(" "), "{layout}");
        let json: Value = serde_json::from_str(&printed(layout, "json")).unwrap();
        let extents = |kind: &str| -> Vec<String> {
            let extents = json[kind].as_array().unwrap().iter();
            extents
                .map(|one| format!("{} {} {}", one["inside"], one["outside"], one["count"]))
                .collect()
        };
        assert_eq!([extents("uids"), extents("gids")].concat(), used);
        assert_eq!(json["layout"], layout);
        let script = format!(
            "eval \"$({} --id-layout {layout} idmap --format shell)\"; echo $ISAR_ROOT_UID $ISAR_SUBUID_BASE $ISAR_UID_MAP",
            world::program().display()
        );
        let root = if layout == "subid" {
            user().base
        } else {
            user().uid
        };
        let said = succeed(as_user("bash").arg("-c").arg(script));
        assert_eq!(
            said.trim_end(),
            format!("{root} {} {}", user().base, numbers[0])
        );
        let table = printed(layout, "table");
        assert!(
            table.contains(&user().base.to_string()) || layout == "caller",
            "{table}"
        );
    }
}

#[test]
fn newuidmap_takes_the_printed_lines() {
    for layout in ["subid", "caller"] {
        let printed = printed(layout, "newuidmap");
        let mut rows = printed.lines();
        let script = format!(
            "unshare --user sleep 30 & pid=$!; for i in 1 2 3 4 5; do sleep 0.1; [ $(readlink /proc/$pid/ns/user) = $(readlink /proc/self/ns/user) ] || break; done
            newuidmap $pid {} && newgidmap $pid {} && cat /proc/$pid/uid_map /proc/$pid/gid_map; kill $pid",
            rows.next().unwrap(),
            rows.next().unwrap()
        );
        let output = as_user("bash")
            .arg("-c")
            .arg(script)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert_eq!(lines(&text(&output.stdout)), used(layout), "{layout}");
    }
}

/// The unshare of trixie, as the test user: `--map-users` of three numbers came with util-linux
/// 2.39, and bookworm has 2.38.
fn unshare_of_trixie() -> Option<Command> {
    let usr = chroot("trixie")?.join("usr");
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut loaders = fs::read_dir(usr.join("lib").join(&multiarch))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_loader = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"ld-linux"))
    };
    let mut command = as_user(
        loaders
            .find(is_loader)
            .expect("the dynamic loader of trixie"),
    );
    command
        .arg("--library-path")
        .arg(usr.join("lib").join(&multiarch))
        .arg(usr.join("bin/unshare"));
    Some(command)
}

#[test]
fn unshare_makes_the_same_map_of_the_printed_options() {
    for layout in ["subid", "caller"] {
        let printed = printed(layout, "unshare");
        let options: Vec<&str> = printed.split_whitespace().collect();
        let Some(mut command) = unshare_of_trixie() else {
            return;
        };
        command
            .args(&options)
            .args(["cat", "/proc/self/uid_map", "/proc/self/gid_map"]);
        assert_eq!(lines(&succeed(&mut command)), used(layout));
        // That of util-linux 2.38 takes one range.
        if layout == "subid" {
            let mut own = as_user("unshare");
            own.args(&options);
            own.args(["cat", "/proc/self/uid_map", "/proc/self/gid_map"]);
            assert_eq!(lines(&succeed(&mut own)), used(layout));
        }
    }
}

#[test]
fn without_a_namespace_every_id_is_itself() {
    let own = lines(&fs::read_to_string("/proc/self/uid_map").unwrap());
    let said: Value = serde_json::from_str(&succeed(&mut isar(["idmap", "--json"]))).unwrap();
    assert_eq!(
        (said["namespace"].as_bool(), &said["user"]),
        (Some(false), &Value::Null)
    );
    assert_eq!(said["uids"].as_array().unwrap().len(), own.len());
    let output = run(&mut isar([
        "--userns",
        world::USER,
        "idmap",
        "--format",
        "newuidmap",
    ]));
    assert_eq!(text(&output.stdout), printed("subid", "newuidmap"));
}
