//! The comparisons on an ordinary chroot, and the list of all.

use std::path::PathBuf;

use crate::machine::{Machine, shown};
use crate::row::{Row, Side};
use crate::{large, repack};

/// All rows. Those that need an untouched file system come first.
pub fn rows(machine: &Machine) -> Vec<Row> {
    let mut rows = unpack(machine);
    rows.extend(pack(machine));
    rows.extend(read(machine));
    rows.extend(rest(machine));
    rows.extend(repack::rows(machine));
    rows.extend(large::rows(machine));
    rows
}

fn pack(machine: &Machine) -> Vec<Row> {
    let side = |command, path: &PathBuf| Side {
        command,
        before: format!("rm -f {}", shown(path)),
        clean: format!("rm -f {}", shown(path)),
        reads: vec![machine.tree.clone()],
        writes: Some(shown(path)),
        equal: Some([shown(&machine.tree), shown(path)]),
    };
    let row = |name: &str, peer, faster, size, level: &[&str], compressor: &str, suffix: &str| {
        let (ours, theirs) = (
            machine.disk.join(format!("ours{suffix}")),
            machine.disk.join(format!("theirs{suffix}")),
        );
        let pipeline = machine.script(&machine.pipeline(compressor, &theirs));
        Row {
            name: String::from(name),
            peer,
            faster,
            size,
            is_quick: !level.contains(&"19"),
            most_pairs: level.contains(&"19").then_some(1),
            ours: side(machine.pack(&ours, level), &ours),
            theirs: side(pipeline, &theirs),
            ..Row::default()
        }
    };
    let (ours, theirs) = (
        machine.disk.join("ours.tar.zst"),
        machine.disk.join("theirs.tar.zst"),
    );
    let named = |name: &str, peer, size| Row {
        name: String::from(name),
        peer,
        size,
        faster: 1.0,
        ..Row::default()
    };
    let tree = shown(&machine.tree);
    let by_mmdebstrap = format!(
        "tar --sort=name --numeric-owner --one-file-system --format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
         -c --exclude=./dev --xattrs -C {tree} . | zstd -q > {}",
        shown(&theirs)
    );
    // Neither keeps all that the tree has.
    let by_bsdtar = format!(
        "bsdtar -C {tree} --exclude=./var/cache/apt/archives --zstd -cf {} .",
        shown(&theirs)
    );
    // As safe as ours: a machine that goes down a moment later has it whole.
    let mut synced = row(
        "pack to .tar, tar synced",
        "tar to a file, sync of it",
        1.0,
        None,
        &[],
        "cat",
        ".tar",
    );
    let tar = machine.disk.join("theirs.tar");
    synced.theirs.command = machine.script(&format!(
        "{}; sync {}",
        machine.pipeline("cat", &tar),
        shown(&tar)
    ));
    vec![
        row(
            "pack",
            "tar \\| zstd -8 -T2 (the seed)",
            3.8,
            Some(0.82),
            &[],
            "zstd -q -8 -T2",
            ".tar.zst",
        ),
        row(
            "pack --level 1",
            "tar \\| zstd -1 -T2",
            1.3,
            Some(1.0),
            &["--level", "1"],
            "zstd -q -1 -T2",
            ".tar.zst",
        ),
        row(
            "pack --level 19",
            "tar \\| zstd -19 --long=27 -T2",
            1.0,
            Some(1.0),
            &["--level", "19"],
            "zstd -q -19 --long=27 -T2",
            ".tar.zst",
        ),
        row(
            "pack to .tar",
            "tar to a file",
            1.5,
            None,
            &[],
            "cat",
            ".tar",
        ),
        synced,
        Row {
            ours: side(machine.pack(&ours, &[]), &ours),
            theirs: Side {
                equal: None,
                ..side(machine.script(&by_mmdebstrap), &theirs)
            },
            ..named(
                "pack, mmdebstrap for tar",
                "tar \\| zstd as mmdebstrap runs them",
                Some(1.0),
            )
        },
        Row {
            ours: side(machine.pack(&ours, &[]), &ours),
            theirs: Side {
                equal: None,
                ..side(machine.script(&by_bsdtar), &theirs)
            },
            ..named("pack, bsdtar for tar", "bsdtar --zstd", Some(1.0))
        },
    ]
}

fn unpack(machine: &Machine) -> Vec<Row> {
    let Machine {
        disk,
        memory,
        fresh,
        ours,
        seed,
        ..
    } = machine;
    let row = |name: &str,
               peer,
               faster,
               archive: &PathBuf,
               theirs: &PathBuf,
               place: &PathBuf,
               recycled: bool| {
        let dir = |whose: &str| {
            format!(
                "{}/{whose}-{}-{{n}}",
                shown(place),
                if recycled { "recycled" } else { "clean" }
            )
        };
        let side = |command, dir: String, archive: &PathBuf| Side {
            command,
            before: if recycled {
                // A tree that has just been removed from the same place.
                format!(
                    "mkdir {dir}.old; tar -xf {} -C {dir}.old; rm -rf {dir}.old",
                    shown(archive)
                )
            } else if place == memory {
                // There it does not spoil the next run, and there is not room for many.
                format!("rm -rf {}/*", shown(memory))
            } else {
                String::new()
            },
            equal: Some([shown(archive), dir.clone()]),
            clean: format!("rm -rf {dir} {dir}.old"),
            reads: vec![archive.clone()],
            writes: None,
        };
        let (unpacked, tar) = (dir("ours"), dir("tar"));
        let by_tar = machine.script(&format!("mkdir {tar}; tar -xf {} -C {tar}", shown(theirs)));
        Row {
            name: String::from(name),
            peer,
            faster,
            size: None,
            is_quick: name == "unpack, clean ext4",
            is_fresh: place == fresh,
            ours: side(
                machine.isar(&["unpack", "-q", &shown(archive), &unpacked]),
                unpacked.clone(),
                archive,
            ),
            theirs: side(by_tar, tar.clone(), theirs),
            ..Row::default()
        }
    };
    let bsdtar = format!("{}/bsdtar-{{n}}", shown(fresh));
    let mut by_bsdtar = row(
        "unpack, bsdtar for tar",
        "bsdtar -xf of the same",
        1.0,
        ours,
        ours,
        fresh,
        false,
    );
    by_bsdtar.theirs.command = machine.script(&format!(
        "mkdir {bsdtar}; bsdtar -C {bsdtar} -xpf {}",
        shown(ours)
    ));
    by_bsdtar.theirs.clean = format!("rm -rf {bsdtar}");
    by_bsdtar.theirs.equal = Some([shown(ours), bsdtar]);
    vec![
        row(
            "unpack, clean ext4",
            "tar -xf of the same",
            1.9,
            ours,
            ours,
            fresh,
            false,
        ),
        row(
            "unpack, clean ext4, seed for tar",
            "tar -xf of the seed's",
            1.9,
            ours,
            seed,
            fresh,
            false,
        ),
        row(
            "unpack the seed's, clean ext4",
            "tar -xf of the same",
            1.3,
            seed,
            seed,
            fresh,
            false,
        ),
        by_bsdtar,
        row(
            "unpack, tmpfs",
            "tar -xf of the same",
            1.9,
            ours,
            ours,
            memory,
            false,
        ),
        row(
            "unpack, recycled ext4",
            "tar -xf of the same",
            8.0,
            ours,
            ours,
            disk,
            true,
        ),
        row(
            "unpack the seed's, recycled ext4",
            "tar -xf of the same",
            5.0,
            seed,
            seed,
            disk,
            true,
        ),
    ]
}

fn read(machine: &Machine) -> Vec<Row> {
    let archive = shown(&machine.ours);
    let row = |name: &str, peer, faster, ours: Vec<String>, theirs: String| Row {
        name: String::from(name),
        peer,
        faster,
        size: None,
        is_quick: true,
        ours: Side {
            command: ours,
            reads: vec![machine.ours.clone()],
            ..Side::default()
        },
        theirs: Side {
            command: machine.script(&theirs),
            reads: vec![machine.ours.clone(), machine.seed.clone()],
            ..Side::default()
        },
        ..Row::default()
    };
    let table = format!("tar -tf {archive}");
    let decode = |path: &PathBuf| format!("zstd -q -d --stdout {} > /dev/null", shown(path));
    vec![
        row(
            "list",
            "tar -tf",
            1.7,
            machine.isar(&["list", &archive]),
            table.clone(),
        ),
        row(
            "info",
            "tar -tf",
            1.7,
            machine.isar(&["info", &archive]),
            table.clone(),
        ),
        row(
            "check",
            "tar -tf",
            1.7,
            machine.isar(&["check", &archive]),
            table,
        ),
        row(
            "zstd -d of ours",
            "zstd -d of the seed's",
            1.0,
            machine.script(&decode(&machine.ours)),
            decode(&machine.seed),
        ),
    ]
}

fn rest(machine: &Machine) -> Vec<Row> {
    let Machine { disk, ours, .. } = machine;
    let archive = shown(ours);
    let tree = |whose: &str| format!("{}/remove-{whose}-{{n}}", shown(disk));
    let removed = |command, tree: &str| Side {
        command,
        before: format!("mkdir {tree}; tar -xf {archive} -C {tree}"),
        clean: format!("rm -rf {tree}"),
        ..Side::default()
    };
    // Beside the scratch directory: isar-tarball uses no cache where another user could exchange it.
    let cache = format!("{}-cache", shown(disk));
    let root = format!("{}/imager-{{n}}", shown(disk));
    let by_shell = format!(
        "mkdir {root}; tar -xf {archive} -C {root}; /usr/sbin/chroot {root} true; rm -rf {root}"
    );
    vec![
        Row {
            name: String::from("remove"),
            peer: "rm -rf",
            faster: 1.0,
            size: None,
            is_quick: true,
            ours: removed(machine.isar(&["remove", &tree("ours")]), &tree("ours")),
            theirs: removed(
                machine.script(&format!("rm -rf {}", tree("rm"))),
                &tree("rm"),
            ),
            ..Row::default()
        },
        Row {
            name: String::from("imager --cache, second run"),
            peer: "tar -xf, chroot true, rm -rf",
            faster: 20.0,
            size: None,
            is_quick: true,
            ours: Side {
                command: machine.isar(&["imager", "--cache", &cache, &archive, "--", "true"]),
                reads: vec![ours.clone()],
                ..Side::default()
            },
            theirs: Side {
                command: machine.script(&by_shell),
                // What a run that was stopped has left.
                before: format!("rm -rf {root}"),
                reads: vec![ours.clone()],
                ..Side::default()
            },
            ..Row::default()
        },
    ]
}
