//! Packing again what has changed a little.

use std::path::PathBuf;

use crate::machine::{Machine, shown};
use crate::row::{Row, Side};

/// What happens to the tree.
enum Change<'a> {
    /// A script as root of the namespace, with `{tree}` for the tree.
    Script(&'a str),
    /// A script in the chroot that the tree is.
    Chroot(String),
}

/// A tree that was packed, has changed, and is packed again. The state beside the first archive
/// knows its frames; the peer reads and compresses everything.
pub fn rows(machine: &Machine) -> Vec<Row> {
    let edits = "cd {tree}; find usr etc var -type f -size -60k | sort | awk 'NR % 997 == 5' | head -10 | while read -r file; do echo >> $file; done; \
        for n in $(seq 20); do seq $((n * 500)) > $(find usr etc var -type d | sort | awk -v n=$((n * 53 + 7)) 'NR == n')/added-$n; done";
    // As isar leaves a root file system: without apt's packages and lists.
    let apt = |words: &str| {
        format!(
            "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends {words} \
             && apt-get -qq clean && rm -rf /var/lib/apt/lists/*"
        )
    };
    let newer =
        "echo deb http://deb.debian.org/debian trixie main > /etc/apt/sources.list.d/newer.list";
    // What is said to the tree: a script as root of the namespace, or a command in the chroot.
    let (edited, installed) = (Change::Script(edits), Change::Chroot(apt("zsh")));
    let upgraded = Change::Chroot(format!("{newer}; {}", apt("-t trixie libc6")));
    let row = |name: &str, slug: &str, faster, change: &Change<'_>, options: &[&str]| {
        let tree = machine.disk.join(format!("repack-{slug}"));
        let changed = machine.with_tree(&tree);
        let (old, new) = (
            machine.disk.join(format!("old-{slug}.tar.zst")),
            machine.disk.join("new.tar.zst"),
        );
        let sized: Vec<&str> = options
            .iter()
            .copied()
            .filter(|option| *option != "--trust-metadata")
            .collect();
        let state = shown(&machine.disk);
        let (tree_shown, old_shown) = (shown(&tree), shown(&old));
        let copied = machine.script(&format!(
            "rm -rf {tree_shown}; cp -a {} {tree_shown}",
            shown(&machine.tree)
        ));
        // Changes within two seconds of a pack would not be trusted.
        let waited = vec!["sleep".to_owned(), "3".to_owned()];
        let packed = changed.pack(&old, &[&sized[..], &["--state", &state]].concat());
        let changes = match change {
            Change::Script(text) => machine.script(&text.replace("{tree}", &tree_shown)),
            Change::Chroot(text) => machine.isar(&[
                "chroot",
                "--resolv-conf",
                &tree_shown,
                "--",
                "sh",
                "-c",
                text,
            ]),
        };
        let reusing = [options, &["--state", &state, "--reuse", &old_shown]].concat();
        let clean = format!("rm -rf {tree_shown} {old_shown}");
        let theirs = machine.disk.join("theirs.tar.zst");
        let side = |command, path: &PathBuf, clean: &str| Side {
            command,
            before: format!("rm -f {}", shown(path)),
            clean: format!("rm -f {}; {clean}", shown(path)),
            reads: vec![tree.clone(), old.clone()],
            writes: Some(shown(path)),
            equal: Some([tree_shown.clone(), shown(path)]),
        };
        Row {
            name: String::from(name),
            peer: "tar \\| zstd -8 -T2 (the seed)",
            setup: vec![copied, waited.clone(), packed, changes, waited],
            faster,
            ours: side(changed.pack(&new, &reusing), &new, ""),
            theirs: side(changed.pack_by_seed(&theirs), &theirs, &clean),
            ..Row::default()
        }
    };
    let fine = ["--frame-size", "1M"];
    let trusting = [&fine[..], &["--trust-metadata"]].concat();
    let mut rows = vec![
        row("repack, 30 edits", "edits", 10.0, &edited, &[]),
        row(
            "repack, 30 edits, --frame-size 1M",
            "edits",
            10.0,
            &edited,
            &fine,
        ),
        row(
            "repack, 30 edits, 1M, --trust-metadata",
            "edits",
            18.0,
            &edited,
            &trusting,
        ),
        row(
            "repack, package installed, 1M",
            "install",
            1.0,
            &installed,
            &fine,
        ),
    ];
    if machine.tree.ends_with("bookworm") {
        rows.push(row(
            "repack, libc6 upgraded, 1M",
            "upgrade",
            1.0,
            &upgraded,
            &fine,
        ));
    }
    rows
}
