//! fixtures/isar/check-isar: on the recorded lists of both series of isar in
//! tests/fixtures/isar-lists, and on a small checkout made up here.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::world::{Scratch, fail, run, skip, succeed, text};

const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/isar/check-isar");
const CLASS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/isar/isar-tarball.bbclass"
);
pub const LISTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/isar-lists");

/// The checker of the sources, if this machine's Python can run it.
fn checker() -> Option<Command> {
    checker_at(CHECKER)
}

pub fn checker_at(script: impl AsRef<OsStr>) -> Option<Command> {
    static CAN_RUN: OnceLock<bool> = OnceLock::new();
    let import = || run(Command::new("python3").args(["-c", "import tomllib"]));
    if !CAN_RUN.get_or_init(|| import().status.success()) {
        return skip("python3 is older than 3.11");
    }
    let mut command = Command::new("python3");
    command.arg(script);
    Some(command)
}

fn lists() -> impl Iterator<Item = PathBuf> {
    ["devel", "patch"]
        .map(|series| Path::new(LISTS).join(format!("{series}.tsv")))
        .into_iter()
}

#[test]
fn the_table_knows_every_function_of_both_series_and_the_class_replaces_what_it_says() {
    for list in lists() {
        let Some(mut checker) = checker() else { return };
        let said = succeed(checker.arg(&list));
        assert!(said.ends_with("problems: 0\n"), "{said}");
    }
}

#[test]
fn a_function_that_isar_adds_or_changes_is_a_problem_and_one_that_it_drops_is_not() {
    let scratch = Scratch::new();
    for list in lists() {
        let recorded = fs::read_to_string(list).unwrap();
        let (file, name) = ("meta/classes-recipe/rootfs.bbclass", "rootfs_prepare");
        let line = recorded
            .lines()
            .find(|line| line.starts_with(file) && line.contains(&format!("\t{name}\t")))
            .unwrap();
        let digest = line.split('\t').nth(3).unwrap();
        let added = format!("{recorded}{file}\t7\trootfs_new\t0123abcd\tunshare\n");
        let changed = recorded.replace(line, &line.replace(digest, "0123abcd"));
        let dropped = recorded.replace(&format!("{line}\n"), "");
        for (text_of_list, message, status) in [
            (
                added,
                format!("{file}:7: rootfs_new is new; it calls: unshare"),
                1,
            ),
            (changed, format!("{name} has changed; it calls: "), 1),
            (dropped, format!("{file}: {name} is gone"), 0),
        ] {
            let list = scratch.join("list.tsv");
            fs::write(&list, text_of_list).unwrap();
            let Some(mut checker) = checker() else { return };
            ends(status, &message, &run(checker.arg(list)));
        }
    }
}

#[test]
fn a_class_that_misses_a_function_is_a_problem() {
    let scratch = Scratch::new();
    let class = scratch.join("isar-tarball.bbclass");
    let text_of_class = fs::read_to_string(CLASS).unwrap();
    for name in ["root_cleandirs", "imager_run_unshare", "do_clean"] {
        let missing = text_of_class.replace(&format!("{name}:unshare("), &format!("{name}_other("));
        assert_ne!(missing, text_of_class);
        fs::write(&class, missing).unwrap();
        for list in lists() {
            let Some(mut checker) = checker() else { return };
            let output = run(checker.arg("--class").arg(&class).arg(list));
            ends(1, &format!("does not replace {name} of meta/"), &output);
        }
    }
}

fn ends(status: i32, message: &str, output: &Output) {
    let said = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{said}{}",
        text(&output.stderr)
    );
    assert!(said.contains(message), "no `{message}` in: {said}");
}

/// A checkout with a function of each kind, and a table and a class that fit it.
struct Checkout(Scratch);

const CONFIGURATION: &str = "meta/conf/bitbake.conf";
const BBCLASS: &str = "meta/classes/trees.bbclass";
const FETCHER: &str = "meta/lib/fetcher.py";
const FILES: [(&str, &str); 6] = [
    (
        CONFIGURATION,
        "OVERRIDES = \"${ISAR_CHROOT_MODE}:forcevariable\"\n",
    ),
    (
        BBCLASS,
        r#"# sudo in a comment is no command.
DEPENDS = "zstd, tar"
SRC_URI = "https://example.org/trees.tar.zst"
COMPRESS = "zstd -3"

pack_tree() {
    run_privileged tar -C "${ROOTFSDIR}" -c . > tree.tar
}

python do_sweep() {
    import subprocess
    subprocess.check_call(["sudo", "rm", "-rf", d.getVar('WORKDIR')])
}

def enter(d):
    if d.getVar('ISAR_ROOTLESS') == 'unshare':
        return '/usr/bin/unshare --user'

python() {
    bb.build.exec_func('root_cleandirs', d)
}

do_sweep[root_cleandirs] = "${WORKDIR}"

harmless() {
    echo "the tar.gz of sudo-rs"
}
"#,
    ),
    (
        FETCHER,
        "class Fetcher:\n    def name(self):\n        return 'trees'\n\n    def download(self, d):\n        run('bwrap --bind / /')\n",
    ),
    (
        "meta/recipes/trees.bb",
        "inherit sbuild\n\ndo_install() {\n    setfacl -m u:1:rwx tree\n}\n",
    ),
    ("meta/recipes/files/inside", "#!/bin/sh\nsudo true\n"),
    (
        "scripts/clean",
        "#!/bin/sh\nunshare --map-auto rm -rf \"$1\"\n",
    ),
];

const TABLE: &str = "[series]\nfirst = \"the first\"\n\n[reasons]\nserves = \"It serves.\"\n\n";
const CLASS_OF_CHECKOUT: &str = "def isar_tarball_own(d):\n    return ''\n\npack_tree:unshare() {\n    isar-tarball pack tree tree.tar.zst\n}\n";

impl Checkout {
    /// The lines of the table are those that the checker prints.
    fn new() -> Option<Checkout> {
        let checkout = Checkout(Scratch::new());
        for (name, text) in FILES {
            let path = checkout.0.join("isar").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(checkout.0.join("table.toml"), TABLE).unwrap();
        fs::write(checkout.0.join("isar-tarball.bbclass"), CLASS_OF_CHECKOUT).unwrap();
        let lines = succeed(checkout.checker()?.args(["--print", "first"]));
        let lines = lines.replace(
            "pack_tree = { does = \"?\", state = \"?\"",
            "pack_tree = { state = \"replaced\"",
        );
        let lines = lines.replace("state = \"?\"", "state = \"kept\", why = \"serves\"");
        fs::write(checkout.0.join("table.toml"), format!("{TABLE}{lines}")).unwrap();
        Some(checkout)
    }

    fn checker(&self) -> Option<Command> {
        let mut command = checker()?;
        command
            .arg(self.0.join("isar"))
            .arg("--table")
            .arg(self.0.join("table.toml"));
        command
            .arg("--class")
            .arg(self.0.join("isar-tarball.bbclass"));
        Some(command)
    }

    /// Replaces `from` by `to`, and returns the path and what was there before.
    fn edit(&self, name: &str, from: &str, to: &str) -> (PathBuf, String) {
        let path = self.0.join(name);
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(from), "no `{from}` in {name}");
        fs::write(&path, before.replacen(from, to, 1)).unwrap();
        (path, before)
    }
}

#[test]
fn the_list_has_functions_of_all_kinds_with_what_they_call() {
    let Some(checkout) = Checkout::new() else {
        return;
    };
    let list = succeed(checkout.checker().unwrap().arg("--list"));
    let places: Vec<Vec<&str>> = list
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect())
        .collect();
    let places: Vec<[&str; 4]> = places
        .iter()
        .map(|part| [part[0], part[1], part[2], part[4]])
        .collect();
    assert_eq!(
        places,
        [
            [BBCLASS, "19", "(anonymous)", "root_cleandirs"],
            [BBCLASS, "4", "COMPRESS", "zstd"],
            [BBCLASS, "10", "do_sweep", "sudo"],
            [BBCLASS, "15", "enter", "unshare"],
            [BBCLASS, "6", "pack_tree", "run_privileged tar"],
            [CONFIGURATION, "1", "OVERRIDES", "ISAR_CHROOT_MODE"],
            [FETCHER, "5", "Fetcher.download", "bwrap"],
            ["meta/recipes/trees.bb", "3", "do_install", "setfacl"],
            ["scripts/clean", "2", "(the rest of the file)", "unshare"],
        ]
    );
    let recorded = checkout.0.join("list.tsv");
    fs::write(&recorded, list).unwrap();
    let mut checker = checker().unwrap();
    checker
        .arg(recorded)
        .arg("--table")
        .arg(checkout.0.join("table.toml"));
    succeed(
        checker
            .arg("--class")
            .arg(checkout.0.join("isar-tarball.bbclass")),
    );
}

#[test]
fn every_difference_between_checkout_table_and_class_is_reported() {
    let Some(checkout) = Checkout::new() else {
        return;
    };
    let (bbclass, class) = (&format!("isar/{BBCLASS}"), "isar-tarball.bbclass");
    let harmless = "harmless() {";
    for (name, from, to, status, message) in [
        (class, "", "", 0, "problems: 0"),
        (
            bbclass,
            "    run_privileged",
            "# a comment\n\n\trun_privileged",
            0,
            "problems: 0",
        ),
        (
            bbclass,
            harmless,
            "harmless () {\n    echo 7",
            0,
            "problems: 0",
        ),
        (
            bbclass,
            harmless,
            "harmless() {\n    umoci",
            1,
            "trees.bbclass:25: harmless is new; it calls: umoci",
        ),
        (
            bbclass,
            "def enter",
            "NEW = \"sudo -E\"\ndef enter",
            1,
            "trees.bbclass:15: NEW is new; it calls: sudo",
        ),
        (
            bbclass,
            "'WORKDIR'",
            "'S'",
            1,
            "trees.bbclass:10: do_sweep has changed; it calls: sudo",
        ),
        (
            bbclass,
            "run_privileged tar",
            "true",
            1,
            "trees.bbclass:6: pack_tree has changed; it calls: -",
        ),
        (
            "isar/meta/lib/fetcher.py",
            "/ /",
            "/ /mnt",
            1,
            "fetcher.py:5: Fetcher.download has changed",
        ),
        (
            "isar/meta/recipes/trees.bb",
            "setfacl",
            "true",
            1,
            "trees.bb:3: do_install has changed; it calls: -",
        ),
        (
            "isar/meta/recipes/trees.bb",
            "do_install",
            "do_other",
            1,
            "trees.bb: do_install is gone; series first has it",
        ),
        (
            "isar/scripts/clean",
            "auto",
            "root-user",
            1,
            "clean:2: (the rest of the file) has changed",
        ),
        (
            class,
            "pack_tree:",
            "pack_other:",
            1,
            "does not replace pack_tree of meta/classes/trees.bbclass",
        ),
        (
            class,
            "def ",
            "def enter(d):\n    return ''\n\ndef ",
            1,
            "replaces enter of meta/classes/trees.bbclass, which the table calls kept",
        ),
        (
            class,
            "def ",
            "python do_new:unshare() {\n}\ndef ",
            1,
            "replaces do_new, which the table does not know",
        ),
        (
            "table.toml",
            "\"serves\"",
            "\"other\"",
            1,
            "why must be one of serves",
        ),
        (
            "table.toml",
            "\"replaced\"",
            "\"?\"",
            1,
            "pack_tree of meta/classes/trees.bbclass: state must be",
        ),
    ] {
        let (path, before) = checkout.edit(name, from, to);
        ends(status, message, &run(&mut checkout.checker().unwrap()));
        fs::write(path, before).unwrap();
    }
}

#[test]
fn isar_without_a_rootless_mode_is_no_problem_and_what_is_not_isar_is_an_error() {
    let Some(checkout) = Checkout::new() else {
        return;
    };
    checkout.edit("isar/meta/conf/bitbake.conf", "${ISAR_CHROOT_MODE}:", "");
    let said = succeed(&mut checkout.checker().unwrap());
    assert!(said.contains("has no rootless mode"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    fs::remove_file(checkout.0.join("isar/meta/conf/bitbake.conf")).unwrap();
    let said = fail(2, &mut checkout.checker().unwrap());
    assert!(
        said.contains("is no isar checkout: it has no meta/conf/bitbake.conf"),
        "{said}"
    );
}
