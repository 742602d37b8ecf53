//! `pack`: the same tree gives the same bytes, whatever the machine, its clock and its threads.

use std::fs;
use std::path::Path;
use std::process::Command;

use isar_tarball::internals::pack::plan::FrameSizing;
use isar_tarball::internals::pack::{Format, Memory, Options, Unmapped};
use isar_tarball::internals::zst::compress::Level;
use serde_json::Value;

use crate::pack::summary;
use crate::reuse_property::{full, options};
use crate::rootfs::{made_by, packed, rich, snapshot, tarfile_snapshot};
use crate::world::{
    Mounted, Scratch, as_namespace_root, as_user, isar_as_user, program, run, skip, succeed,
};

#[test]
fn the_bytes_are_the_same_at_any_number_of_threads() {
    let scratch = Scratch::new();
    // Small files, files larger than a frame, a large one beside its like, a sparse one.
    let tree = made_by(
        &scratch,
        "tree",
        "mkdir -p a/b c
         seq 1 2000000 >a/numbers; seq 7 4000000 >a/more; cp a/more a/b/more; seq 3 3 9000000 >c/large
         split --bytes=9999 --suffix-length=4 a/numbers a/b/part-
         truncate --size=1G c/sparse; seq 1 99999 >>c/sparse",
    );
    for options in [&["--level=1"][..], &["--memory=160M"], &["--format=tar"]] {
        let name = if options == ["--format=tar"] {
            "x.tar"
        } else {
            "x.tar.zst"
        };
        let mut digests = Vec::new();
        for threads in ["1", "2", "16"] {
            let out = scratch
                .user_dir(&format!("threads-{threads}{}", options[0]), 0o755)
                .join(name);
            digests.push(
                summary(&[options, &["--threads", threads]].concat(), &tree, &out)["sha256"]
                    .clone(),
            );
            fs::remove_file(out).unwrap();
        }
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{options:?}: {digests:?}"
        );
    }
    // The program starts no more threads than there are processors, the library as many as it is
    // told, where there is memory for them.
    let of_library = [1, 2, 16].map(|threads| {
        // Owners are those on the disk, which sbuild's map does not hold.
        let (format, unmapped) = (Format::Zstd(Level::new(1).unwrap()), Unmapped::Squash);
        let (memory, cuts) = (Memory::limit(2 << 30), FrameSizing::sized(1 << 20));
        full(
            &tree,
            &Options {
                format,
                unmapped,
                memory,
                cuts,
                ..options(threads)
            },
        )
        .0
    });
    assert!(of_library.iter().all(|archive| *archive == of_library[0]));
}

#[test]
fn the_bytes_do_not_depend_on_access_times_inode_numbers_or_the_order_of_directories() {
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let pack = |tree: &Path, name: &str| summary(&[], tree, &scratch.join(name))["sha256"].clone();
    let expected = pack(&tree, "expected.tar.zst");

    succeed(
        as_namespace_root("sh")
            .args(["-c", "find \"$0\" -exec touch -a -h {} +"])
            .arg(&tree),
    );
    assert_eq!(pack(&tree, "touched.tar.zst"), expected);

    let copy = scratch.join("copy");
    succeed(
        Command::new("cp")
            .args(["--archive", "--sparse=auto"])
            .args([&tree, &copy]),
    );
    assert_eq!(pack(&copy, "copied.tar.zst"), expected);

    // Another file system: other numbers, and directories in another order.
    let place = scratch.join("memory");
    fs::create_dir(&place).unwrap();
    let _mounted = Mounted::new(["-t", "tmpfs", "-o", "mode=0755", "none"], &place);
    fs::write(place.join("probe"), "").unwrap();
    if !run(Command::new("setfattr")
        .args(["-n", "user.x"])
        .arg(place.join("probe")))
    .status
    .success()
    {
        return skip::<()>("tmpfs has no user.* attributes before Linux 6.6").unwrap_or_default();
    }
    succeed(
        Command::new("cp")
            .args(["--archive", "--sparse=auto"])
            .arg(&tree)
            .arg(place.join("copy")),
    );
    let order = |tree: &Path| -> Vec<_> {
        fs::read_dir(tree.join("names"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    assert_ne!(
        order(&tree),
        order(&place.join("copy")),
        "the copy should list in another order"
    );
    assert_eq!(pack(&place.join("copy"), "elsewhere.tar.zst"), expected);
}

#[test]
fn times_are_clamped_to_source_date_epoch_and_cut_to_seconds_when_asked() {
    let scratch = Scratch::new();
    let tree = rich(&scratch, "tree");
    let before = packed(snapshot(&tree));
    let mtime = |file: &Value| {
        file["mtime"]
            .as_i64()
            .map_or_else(|| file["mtime"].as_u64().unwrap().into(), i128::from)
    };
    let clamp = 1_700_000_100;
    let second = 1_000_000_000;
    let cases: &[(&[&str], Option<i128>, bool)] = &[
        (&[], None, false),
        (&[], Some(clamp), false),
        (&["--mtime-precision=s"], None, true),
        (&["--mtime-precision", "s"], Some(clamp), true),
        (&["--mtime-precision", "ns"], Some(-1), false),
    ];
    for (options, epoch, whole) in cases {
        let archive = scratch.join("x.tar");
        let mut command = isar_as_user(["pack"]);
        command.args(*options).args([&tree, &archive]);
        // setpriv resets the environment.
        let mut with_epoch = as_user("env");
        with_epoch
            .args(epoch.map(|epoch| format!("SOURCE_DATE_EPOCH={epoch}")))
            .args(
                command
                    .get_args()
                    .skip_while(|arg| *arg != program().as_os_str()),
            );
        succeed(&mut with_epoch);
        for (path, file) in tarfile_snapshot(&archive) {
            let limit = epoch.map_or(i128::MAX, |epoch| epoch * second);
            let expected = mtime(&before[&path]).min(limit);
            let expected = if *whole {
                expected.div_euclid(second) * second
            } else {
                expected
            };
            assert_eq!(
                mtime(&file),
                expected,
                "{path} with {options:?} and {epoch:?}"
            );
        }
    }
}
