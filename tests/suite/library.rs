//! The library as other programs use it: the examples, and what a program with threads gets.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use isar_tarball::{Chroot, Diff, ErrorKind, Notice, Observer, Pack, Remove, Unpack};

use crate::world::{self, Scratch, as_user, namespace_python, succeed, user};

/// An example of this crate, where the test user can run it. Cargo builds it with the tests.
fn example(scratch: &Scratch, name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_isar-tarball"));
    let built = built.parent().unwrap().join("examples").join(name);
    let copy = scratch.join(name);
    fs::copy(built, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// A tree of the namespace with a file that only its root can read, and one of its user 5.
fn tree(scratch: &Scratch) -> PathBuf {
    let tree = scratch.namespace_dir("tree");
    let script = "import os, sys; os.chdir(sys.argv[1]); os.mkdir('etc'); \
        open('etc/secret', 'w').write('secret'); os.chmod('etc/secret', 0o600); \
        open('mine', 'w').write('mine'); os.chown('mine', 5, 6); \
        [os.mkdir(d) for d in ('usr', 'lib64', 'dev', 'proc', 'sys')]; \
        [os.symlink('usr/' + d, d) for d in ('bin', 'lib')]";
    succeed(namespace_python(script).arg(&tree));
    tree
}

#[test]
fn the_examples_pack_and_unpack_a_rootless_tree_and_run_a_command_in_it() {
    let scratch = Scratch::new();
    let (tree, archive) = (tree(&scratch), scratch.join("a.tar.zst"));
    let [pack, unpack, imager] = ["pack", "unpack", "imager"].map(|name| example(&scratch, name));
    let said = succeed(as_user(pack).args([&tree, &archive]));
    assert!(said.starts_with("11 members, "), "{said}");
    assert_eq!(fs::metadata(&archive).unwrap().uid(), user().uid);

    let copy = scratch.join("copy");
    for _ in 0..2 {
        let said = succeed(as_user(&unpack).args([&archive, &copy]));
        assert_eq!(said, "11 members, 10 bytes\n");
    }
    let owner = |path: &str| fs::metadata(copy.join(path)).unwrap().uid() - user().base;
    assert_eq!((owner("etc/secret"), owner("mine")), (0, 5));

    if let Some(chroot) = world::mmdebstrap_archive("bookworm") {
        let words = ["cat", "/etc/debian_version"];
        let version = succeed(as_user(&imager).arg(chroot).args(words));
        assert!(version.starts_with("12."), "{version}");
    }
    // This tree has no programs, which the example reports.
    let output = world::run(as_user(&imager).arg(&archive).arg("/no/such/command"));
    let said = world::text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("CommandNotFound"),
        "{said}"
    );
    assert_eq!(
        scratch.names(),
        ["a.tar.zst", "copy", "imager", "pack", "tree", "unpack"]
    );
}

#[test]
fn an_example_has_fewer_than_twenty_lines() {
    for name in ["pack", "unpack", "imager"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs"));
        let lines = fs::read_to_string(path).unwrap().lines().count();
        assert!(lines < 20, "{name}: {lines}");
    }
}

/// Keeps what it hears.
#[derive(Default)]
struct Heard(Vec<Notice>);

impl Observer for Heard {
    fn notice(&mut self, notice: &Notice) {
        self.0.push(notice.clone());
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

/// The test harness has several threads, as many a program has.
#[test]
fn a_program_with_threads_gets_a_typed_error_and_nothing_is_changed() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("tree")).unwrap();
    let (tree, archive) = (scratch.join("tree"), scratch.join("a.tar"));
    let mut heard = Heard::default();
    let errors = [
        Pack::new(&tree, archive.as_path())
            .run(&mut heard)
            .unwrap_err(),
        Unpack::new(archive_of(&scratch), scratch.join("new"))
            .run(&mut heard)
            .unwrap_err(),
        Chroot::new(&tree, ["true"]).run(&mut heard).unwrap_err(),
        Remove::new(&tree).run(&mut heard).unwrap_err(),
        Diff::new(tree.as_path(), tree.as_path())
            .run(&mut heard)
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::MultiThreaded, "{error}");
        assert!(error.to_string().contains("threads"), "{error}");
    }
    assert_eq!(scratch.names(), ["in.tar", "tree"]);
}

fn archive_of(scratch: &Scratch) -> PathBuf {
    let path = scratch.join("in.tar");
    fs::write(&path, [0; 1024]).unwrap();
    path
}

#[test]
fn what_needs_no_child_works_in_a_program_with_threads() {
    let scratch = Scratch::new();
    let archive = archive_of(&scratch);
    let equal = Diff::new(archive.as_path(), archive.as_path())
        .run(&mut ())
        .unwrap();
    assert!(equal.differences.is_empty());
    let report = isar_tarball::Check::new(archive.as_path())
        .run(&mut ())
        .unwrap();
    assert!(report.intact);
    assert!(isar_tarball::Info::new(archive.as_path()).run().is_ok());
}

/// The operation of a library must leave the signals of its program as they were.
#[test]
fn an_operation_leaves_the_signal_mask_as_it_was() {
    let mask = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let lines = status.lines().filter(|line| line.starts_with("SigBlk"));
        lines.collect::<Vec<_>>().join("")
    };
    let scratch = Scratch::new();
    let before = mask();
    let _ = Remove::new(scratch.join("missing")).run(&mut ());
    let _ = Unpack::new(archive_of(&scratch), scratch.join("new")).run(&mut ());
    assert_eq!(mask(), before);
    // The file is there: the test has looked at something.
    assert!(File::open(scratch.join("in.tar")).is_ok() && before.contains("SigBlk"));
}
