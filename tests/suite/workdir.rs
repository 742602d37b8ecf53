//! Directories that commands work in: whose they are, what is beside them, and names of all kinds.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use crate::imager::pack_small;
use crate::world::{
    Mounted, Scratch, as_user, fail, isar, isar_as_user, names, program, succeed, user,
};

/// The hidden name of `name` while it is filled.
fn hidden(name: &str) -> String {
    format!(".{name}.isar-tarball-new")
}

#[test]
fn remove_takes_names_of_any_bytes_any_number_of_trees_and_trees_within_each_other() {
    let scratch = Scratch::new();
    scratch.user_dir("top", 0o755);
    let odd = OsStr::from_bytes(b"top/n\xff\n");
    for path in ["top/a/b/c", "top/d"] {
        succeed(as_user("mkdir").arg("-p").arg(scratch.join(path)));
    }
    succeed(as_user("mkdir").arg(scratch.join(odd)));
    let mut remove = isar_as_user(["remove", "top/a", "top/a/b", "top/d", "top/a"]);
    succeed(remove.arg(odd).current_dir(scratch.path()));
    assert!(names(&scratch.join("top")).is_empty());

    let script = "mkdir top/{1..300}; ulimit -n 128; exec \"$0\" remove top/*";
    let mut many = as_user("bash");
    many.args(["-c", script]).arg(program());
    succeed(many.current_dir(scratch.path()));
    assert!(names(&scratch.join("top")).is_empty());
}

#[test]
fn what_else_has_the_hidden_name_is_named_and_stays() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 3);
    let place = hidden("new");
    let unpack = || {
        let mut command = isar_as_user(["unpack"]);
        command.arg(&archive).arg("new").current_dir(scratch.path());
        command
    };
    fs::write(scratch.join(&place), "mine").unwrap();
    let said = fail(2, &mut unpack());
    assert!(
        said.contains(&place) && said.contains("no directory"),
        "{said}"
    );
    assert_eq!(fs::read(scratch.join(&place)).unwrap(), b"mine");
    fs::remove_file(scratch.join(&place)).unwrap();

    symlink("/", scratch.join(&place)).unwrap();
    let said = fail(2, &mut unpack());
    assert!(
        said.contains(&place) && said.contains("symbolic link"),
        "{said}"
    );
    fs::remove_file(scratch.join(&place)).unwrap();

    // What is mounted there must not be emptied.
    scratch.user_dir("precious", 0o755);
    fs::write(scratch.join("precious/kept"), "x").unwrap();
    scratch.user_dir(&place, 0o755);
    let mounted = Mounted::new(
        ["--bind".as_ref(), scratch.join("precious").as_os_str()],
        &scratch.join(&place),
    );
    let said = fail(2, &mut unpack());
    assert!(said.contains("something is mounted"), "{said}");
    drop(mounted);
    assert_eq!(names(&scratch.join("precious")), ["kept"]);
    succeed(&mut unpack());
    assert!(!scratch.join(&place).exists());
}

#[test]
fn root_fills_no_directory_that_another_user_has_put_there() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 3);
    let sticky = scratch.join("sticky");
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).unwrap();
    succeed(
        as_user("mkdir")
            .args(["-m", "777"])
            .arg(sticky.join(hidden("new"))),
    );
    let said = fail(2, isar(["unpack"]).arg(&archive).arg(sticky.join("new")));
    let owner = format!("belongs to uid {}", user().uid);
    assert!(
        said.contains(&owner) && said.contains(&hidden("new")),
        "{said}"
    );
    assert!(!sticky.join("new").exists());
}

#[test]
fn a_merge_finishes_a_tree_whose_unpack_was_killed() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 3);
    let tree = scratch.namespace_dir("tree");
    let mark = ["-n", "user.isar-tarball.unfinished"];
    succeed(Command::new("setfattr").args(mark).arg(&tree));
    let said = fail(
        2,
        isar_as_user(["pack"]).args([&tree, &scratch.join("x.tar")]),
    );
    assert!(said.contains("the tree is incomplete"), "{said}");
    succeed(isar_as_user(["unpack", "--merge"]).args([&archive, &tree]));
    let said = fail(2, isar_as_user(["unpack"]).args([&archive, &tree]));
    assert!(said.contains("not empty"), "{said}");
    // The mark says nothing about a tree, so no archive has it.
    succeed(Command::new("setfattr").args(mark).arg(tree.join("data")));
    let packed = scratch.join("y.tar");
    succeed(isar_as_user(["pack"]).args([&tree, &packed]));
    let listed = succeed(isar_as_user(["list", "--json"]).arg(&packed));
    assert!(!listed.contains("unfinished"), "{listed}");
}

#[test]
fn a_source_that_was_exchanged_while_it_was_packed_is_not_removed() {
    let scratch = Scratch::new();
    for tree in ["tree", "other"] {
        succeed(as_user("mkdir").arg(scratch.join(tree)));
        fs::write(scratch.join(tree).join("file"), tree).unwrap();
        chown(
            scratch.join(tree).join("file"),
            Some(user().base),
            Some(user().base),
        )
        .unwrap();
        chown(scratch.join(tree), Some(user().base), Some(user().base)).unwrap();
    }
    succeed(as_user("mkfifo").arg(scratch.join("digest")));
    // The digest goes to a pipe: pack waits for its reader before it has looked at the tree again.
    let mut pack = isar_as_user(["pack", "--remove-source", "--digest", "digest"]);
    pack.args(["tree", "a.tar"]).current_dir(scratch.path());
    let pack = pack.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    fs::rename(scratch.join("tree"), scratch.join("moved")).unwrap();
    fs::rename(scratch.join("other"), scratch.join("tree")).unwrap();
    succeed(Command::new("cat").arg(scratch.join("digest")));
    let status = pack.wait_with_output().unwrap().status;
    // What is packed is what is removed: the tree that has the name by then.
    assert!(status.success());
    let content = succeed(
        Command::new("tar")
            .args(["-xOf"])
            .arg(scratch.join("a.tar"))
            .arg("./file"),
    );
    assert_eq!(content, "other");
    assert!(!scratch.join("tree").exists());
    assert_eq!(fs::read(scratch.join("moved/file")).unwrap(), b"tree");
}

#[test]
fn replace_works_where_directories_cannot_be_exchanged() {
    let scratch = Scratch::new();
    let archive = pack_small(&scratch, "a.tar", 3);
    for name in ["lower", "upper", "work", "over"] {
        scratch.user_dir(name, 0o755);
    }
    let old = scratch.namespace_dir("lower/tree");
    fs::write(old.join("old"), "x").unwrap();
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        scratch.join("lower").display(),
        scratch.join("upper").display(),
        scratch.join("work").display()
    );
    let mounted = Mounted::new(
        ["-t", "overlay", "-o", &layers, "none"],
        &scratch.join("over"),
    );
    // A directory of the lower layer cannot be renamed.
    let tree = scratch.join("over/tree");
    succeed(isar_as_user(["unpack", "--replace"]).args([&archive, &tree]));
    assert!(tree.join("data").exists() && !tree.join("old").exists());
    assert_eq!(fs::metadata(&tree).unwrap().uid(), user().base);
    assert_eq!(names(&scratch.join("over")), ["tree"]);
    drop(mounted);
}

#[test]
fn a_command_cannot_look_into_the_process_that_started_it() {
    let script = "! ls /proc/1/fd && ! cat /proc/1/environ && ! readlink /proc/1/exe && id -u";
    let said = succeed(&mut isar_as_user(["unshare", "--", "sh", "-c", script]));
    assert_eq!(said, "0\n");
}
