//! Subordinate ids: the grammar and the merging of newuidmap, which is the judge.
//!
//! Each test that changes `/etc` does so in a mount namespace of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::world::{self, Scratch, isar, isar_as_user, require, run, succeed, text, user};

/// A content of `/etc/subuid` and `/etc/subgid`, ids that are asked for, and whether they are
/// granted. `NAME` and `UID` are those of the test user.
type Case = (&'static str, &'static str, bool);

/// Contents for which newuidmap and this program have the same answer.
const SAME: &[Case] = &[
    ("NAME:200000:10\n", "200000:10", true),
    ("NAME:200000:10\n", "200000:11", false),
    ("NAME:200000:10", "200000:10", true),
    ("UID:200000:10\n", "200000:10", true),
    ("0UID:200000:10\n", "200000:10", false),
    ("NAMEx:200000:10\n", "200000:10", false),
    ("#NAME:200000:10\n", "200000:10", false),
    ("\n#\n  \nNAME:200000:10\n", "200000:10", true),
    // Numbers.
    ("NAME:0610000:012\n", "200704:10", true),
    ("NAME:0x31000:0XA\n", "200704:10", true),
    ("NAME:+200000:+10\n", "200000:10", true),
    ("NAME: 200000:\t10\n", "200000:10", true),
    ("NAME:0x:10\n", "0:1", false),
    ("NAME:200000:08\n", "200000:8", false),
    ("NAME:200000:10k\n", "200000:10", false),
    ("NAME:-5:20\n", "4:1", false),
    ("NAME:200000:-10\n", "200000:1", false),
    ("NAME:200000:0\n", "200000:1", false),
    // Blanks.
    ("NAME:200000:10 \n", "200000:10", false),
    ("NAME:200000:10\r\n", "200000:10", false),
    ("NAME:200000 :10\n", "200000:10", false),
    (" NAME:200000:10\n", "200000:10", false),
    ("NAME :200000:10\n", "200000:10", false),
    // Fields.
    ("NAME:200000\n", "200000:10", false),
    ("NAME::10\n", "0:1", false),
    (":200000:10\n", "200000:10", false),
    ("NAME 200000 10\n", "200000:10", false),
    // Several lines.
    ("NAME:200000:10\nUID:200000:10\n", "200000:10", true),
    ("NAME:200000:10\nNAME:200005:10\n", "200000:15", true),
    ("NAME:200005:10\nUID:200000:10\n", "200000:15", true),
    ("UID:200010:10\nNAME:200000:10\n", "200000:20", true),
    ("NAME:200000:30\nNAME:200005:10\n", "200000:30", true),
    ("NAME:200005:10\nNAME:200000:30\n", "200000:30", true),
    ("NAME:UID:1\nNAME:200000:10\n", "200000:10", true),
    ("x\nNAME:200000:10\ny:z\n", "200000:10", true),
];

/// Lines that only some versions of newuidmap accept: this program reports them.
const VERSIONS: &[&str] = &[
    "NAME:200000:10:\n",
    "NAME:200000:10:junk\n",
    "NAME:200000:4294967296\n",
    "NAME:4294967290:20\n",
    "NAME:200000\0\n:10\n",
];

/// Asks newuidmap and newgidmap for the ids `$2` with the content `$1` in both files, then the
/// program for its map.
const JUDGE: &str = r#"
mount --bind "$1" /etc/subuid
mount --bind "$1" /etc/subgid
exec setpriv --reuid isar-test --regid isar-test --init-groups --reset-env -- bash -c '
    unshare --user sleep 60 & pid=$!
    until [ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
    newuidmap $pid 0 ${1%:*} ${1#*:} 2>/dev/null && newgidmap $pid 0 ${1%:*} ${1#*:} 2>/dev/null
    echo $?
    kill $pid
    exec "$0" idmap --json' "$3" "$2" 2>"$4"
"#;

/// The answers of newuidmap and of this program, and what the latter says.
fn ask(scratch: &Scratch, content: &str, asked: &str) -> (bool, bool, String) {
    let uid = user().uid.to_string();
    let fill = |text: &str| text.replace("NAME", world::USER).replace("UID", &uid);
    fs::write(scratch.join("subid"), fill(content)).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-ec", JUDGE, "bash"]);
    command.arg(scratch.join("subid")).arg(fill(asked));
    command.arg(world::program()).arg(scratch.join("stderr"));
    let output = run(&mut command);
    let (judged, map) = text(&output.stdout)
        .split_once('\n')
        .map(|(a, b)| (a == "0", b.to_owned()))
        .unwrap();
    let said = fs::read_to_string(scratch.join("stderr")).unwrap();
    let map: Value = serde_json::from_str(&map).unwrap_or_default();
    let (base, count) = asked.split_once(':').unwrap();
    let (base, count): (u64, u64) = (base.parse().unwrap(), count.parse().unwrap());
    let is_mapped = |kind: &str, id: u64| {
        map[kind].as_array().unwrap().iter().any(|extent| {
            let first = extent["outside"].as_u64().unwrap();
            (first..first + extent["count"].as_u64().unwrap()).contains(&id)
        })
    };
    // A map of a small range leaves its last id unused.
    let are_mapped = |kind| {
        (base..base + count)
            .filter(|id| !is_mapped(kind, *id))
            .count()
            <= 1
    };
    let accepted = !map.is_null() && are_mapped("uids") && are_mapped("gids");
    (judged, accepted, said)
}

#[test]
fn a_line_counts_if_newuidmap_accepts_it() {
    let scratch = Scratch::new();
    for (content, asked, granted) in SAME {
        let (judged, accepted, said) = ask(&scratch, content, asked);
        assert_eq!(judged, *granted, "newuidmap: {content:?} {asked}");
        assert_eq!(accepted, *granted, "{content:?} {asked}: {said}");
        let is_about_user = content.contains("NAME:") && !content.contains(['#', 'x']);
        if !granted && is_about_user && !asked.ends_with(":11") {
            assert!(said.contains("line 1 is skipped"), "{content:?}: {said}");
        }
    }
}

#[test]
fn a_line_that_only_some_versions_of_newuidmap_accept_is_reported() {
    let scratch = Scratch::new();
    for content in VERSIONS {
        let (_, accepted, said) = ask(&scratch, content, "200000:5");
        assert!(
            !accepted && said.contains("line 1 is skipped"),
            "{content:?}: {said}"
        );
    }
}

/// Commands as the test user, in a mount namespace in which `setup` (a shell script) has changed
/// what is in `/etc`.
fn with_etc(scratch: &Scratch, setup: &str, commands: &str) -> String {
    let program = world::program().display();
    let script = format!(
        "{setup}\nexec setpriv --reuid {} --regid {0} --init-groups --reset-env -- sh -c 'PATH=$PATH:/usr/sbin; B={program}; {commands}' 2>&1",
        world::USER
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", &script])
        .current_dir(scratch.path());
    text(&run(&mut command).stdout)
}

#[test]
fn every_map_of_odd_ranges_is_one_that_newuidmap_sets() {
    let scratch = Scratch::new();
    let uid = user().uid;
    for (content, first) in [
        (
            format!("{uid}:300000:65536\nisar-test:300000:65536\n"),
            "0 300000 65536",
        ),
        (
            format!("isar-test:{uid}:1\nisar-test:300000:65536\n"),
            "0 300000 65536",
        ),
        (
            "isar-test:310000:20\nisar-test:300000:65536\n".into(),
            "0 300000 65536",
        ),
        (
            "isar-test:300000:40000\nisar-test:320000:65536\n".into(),
            "0 300000 40000",
        ),
        // What the entrypoint of kas's container writes.
        ("isar-test:0:4294967295\n".into(), "0 100000 65536"),
        (
            "isar-test:0:4294967295\nisar-test:300000:65536\n".into(),
            "0 300000 65536",
        ),
    ] {
        fs::write(scratch.join("subid"), &content).unwrap();
        let mount = "mount --bind subid /etc/subuid; mount --bind subid /etc/subgid";
        let said = with_etc(&scratch, mount, "$B unshare cat /proc/self/uid_map");
        let words: Vec<&str> = said.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(words.join(" "), first, "{content}");
    }
}

#[test]
fn what_makes_newuidmap_refuse_every_map_is_named_beforehand_and_afterwards() {
    let scratch = Scratch::new();
    // A directory that stands for /etc with its files, to have a link there.
    let link = "mkdir up work; mount -t tmpfs none up; mkdir up/u up/w
        mount -t overlay none -o lowerdir=/etc,upperdir=up/u,workdir=up/w /etc
        mv /etc/subuid /etc/subuid.real; ln -s subuid.real /etc/subuid";
    let said = with_etc(&scratch, link, "$B unshare true; $B -q doctor /tmp");
    let named = "/etc/subuid is a symbolic link, which newuidmap does not follow";
    assert_eq!(said.matches(named).count(), 2, "{said}");

    let user = world::USER;
    let as_others = [
        (
            format!("--reuid {user} --regid 7"),
            "works only with the primary group of the user",
        ),
        (
            "--reuid 4321 --regid 4321".into(),
            "uid 4321 has no entry in the user database",
        ),
        (
            format!("--reuid {user} --regid {user} --bounding-set -sys_admin"),
            "--cap-add=SYS_ADMIN",
        ),
    ];
    for (ids, named) in as_others {
        for command in [&["unshare", "true"][..], &["-q", "doctor", "/tmp"]] {
            let mut setpriv = Command::new("setpriv");
            setpriv
                .args(ids.split(' '))
                .arg("--clear-groups")
                .arg(world::program());
            let output = run(setpriv.args(command));
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(
                said.contains(named) && !output.status.success(),
                "{ids} {command:?}: {said}"
            );
        }
    }
}

/// A module of libsubid that gives every user the ids 5000000:65536.
const MODULE: &str = "
#include <stdbool.h>
#include <stdlib.h>
struct range { unsigned long start, count; };
int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int type, bool *result)
{ *result = start >= 5000000 && start + count <= 5065536; return 0; }
int shadow_subid_list_owner_ranges(const char *owner, int type, struct range **ranges, int *count)
{ *ranges = malloc(sizeof **ranges); **ranges = (struct range){5000000, 65536}; *count = 1; return 0; }
int shadow_subid_find_subid_owners(unsigned long id, int type, unsigned **uids, int *count)
{ *count = 0; return 0; }
void shadow_subid_free(void *pointer) { free(pointer); }
";

#[test]
fn the_service_of_nsswitch_gives_the_ids_and_a_line_in_the_file_does_not() {
    if require(&["cc", "getsubids"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    fs::write(scratch.join("module.c"), MODULE).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o", "module.so", "module.c"]);
    succeed(cc.current_dir(scratch.path()));
    fs::write(
        scratch.join("nsswitch"),
        "passwd: files\nsubid: isartest files\n",
    )
    .unwrap();
    // newuidmap loads modules from the system's directories alone.
    let setup =
        "mkdir up; mount -t tmpfs none up; mkdir up/u up/w; cp module.so up/u/libsubid_isartest.so
        mount -t overlay none -o lowerdir=/usr/lib,upperdir=up/u,workdir=up/w /usr/lib
        mount --bind nsswitch /etc/nsswitch.conf";
    let commands = "$B unshare cat /proc/self/uid_map /proc/self/gid_map; $B doctor /tmp";
    let said = with_etc(&scratch, setup, commands);
    let words: Vec<&str> = said.split_whitespace().take(6).collect();
    assert_eq!(
        words,
        ["0", "5000000", "65536", "0", "5000000", "65536"],
        "{said}"
    );
    let found = "isar-test has 5000000:65536 from the service isartest";
    assert_eq!(said.matches(found).count(), 2, "{said}");
    // A service whose module is missing: newuidmap reads the files.
    fs::write(scratch.join("nsswitch"), "subid: nosuchmodule\n").unwrap();
    let setup = "mount --bind nsswitch /etc/nsswitch.conf";
    let said = with_etc(&scratch, setup, "$B unshare cat /proc/self/uid_map");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", &user().base.to_string(), "65536"], "{said}");
}

#[test]
fn in_a_container_only_ids_of_its_map_count() {
    // The namespace of the test user is the container: it maps 0 to 65535.
    let scratch = Scratch::new();
    fs::write(
        scratch.join("subid"),
        "isar-test:1501:64035\nisar-test:100000:65536\n",
    )
    .unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inside = format!(
        "mount --bind subid /etc/subuid; mount --bind subid /etc/subgid
        exec setpriv --reuid {uid} --regid {gid} --clear-groups {program} doctor /tmp",
        uid = user().uid,
        gid = user().gid,
        program = world::program().display()
    );
    let mut command = isar_as_user(["unshare", "sh", "-ec", &inside]);
    let output = run(command.current_dir(scratch.path()));
    let said = text(&output.stdout);
    let found = "isar-test has 1501:64035, 100000:65536, of which 1501:64035 can be used here: fewer than 65536";
    assert_eq!(said.matches(found).count(), 2, "{said}");
    assert!(
        said.contains("on the host, give the user who starts the container"),
        "{said}"
    );
    assert!(!said.contains("usermod"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn root_without_the_right_to_mount_learns_it() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("tree")).unwrap();
    let as_root = |options: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
        command
            .arg(world::program())
            .args(options)
            .current_dir(scratch.path());
        let output = run(&mut command);
        (
            text(&output.stdout) + &text(&output.stderr),
            output.status.code(),
        )
    };
    fs::write(scratch.join("a.tar"), [0; 10240]).unwrap();
    for command in [
        &["unshare", "true"][..],
        &["chroot", "tree", "true"],
        &["imager", "--cache", "cache", "a.tar", "--", "true"],
    ] {
        let (said, status) = as_root(command);
        let named = said.contains("lacks CAP_SYS_ADMIN") && said.contains("--userns NAME");
        assert!(named && status == Some(125), "{said}");
    }
    assert!(!scratch.join("cache").exists());
    let (said, status) = as_root(&["-q", "doctor", "."]);
    assert!(
        said.contains("lacks CAP_SYS_ADMIN") && status == Some(1),
        "{said}"
    );
    assert!(
        !said.contains("systempaths") && !said.contains("overlay"),
        "{said}"
    );
}

#[test]
fn without_pid_namespaces_the_limit_is_named() {
    let script = "echo 0 >/proc/sys/user/max_pid_namespaces; $0 unshare true; $0 -q doctor /tmp";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    let output = run(command.arg(world::program()));
    assert!(text(&output.stderr).contains("sysctls user.max_pid_namespaces"));
    assert!(text(&output.stdout).contains("sysctl -w user.max_pid_namespaces=15000"));
    assert_eq!(output.status.code(), Some(1));
    // The program as it is works there.
    succeed(&mut isar(["idmap"]));
}
