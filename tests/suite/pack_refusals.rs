//! What `pack` refuses: status 2, a message with the reason and the remedy, and nothing written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rootfs::made_by;
use crate::world::{
    Scratch, USER, as_user, fail, isar, isar_as_user, names, program, succeed, text, user,
};

/// A scratch directory with a small tree.
fn small() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    let tree = made_by(&scratch, "tree", "mkdir -m 1777 tmp; echo content >file");
    (scratch, tree)
}

/// Runs `pack`, which must refuse, say all of `expected`, and leave the scratch directory as it
/// was.
fn refuse(command: &mut Command, scratch: &Scratch, expected: &[&str]) {
    let before = listing(scratch.path());
    let said = fail(2, command);
    for text in expected {
        assert!(said.contains(text), "{text:?} is missing from {said:?}");
    }
    assert!(said.starts_with("isar-tarball: "), "{said}");
    assert_eq!(listing(scratch.path()), before, "something was written");
}

/// All names with their sizes; in the tree with their times too.
fn listing(dir: &Path) -> String {
    let format = [
        "-path",
        "*/tree*",
        "-printf",
        "%p %s %T@ %C@\\n",
        "-o",
        "-printf",
        "%p %s\\n",
    ];
    let output = Command::new("find").arg(dir).args(format).output().unwrap();
    assert!(output.status.success());
    text(&output.stdout)
}

#[test]
fn a_tree_that_is_missing_not_a_directory_or_unreadable() {
    let (scratch, tree) = small();
    fs::create_dir(scratch.join("closed")).unwrap();
    fs::set_permissions(scratch.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(scratch.join("closed/tree")).unwrap();
    let archive = scratch.join("x.tar.zst");
    for (tree, cause) in [
        (scratch.join("missing"), "No such file or directory"),
        (
            tree.join("file"),
            "it is not a directory; unpack an archive first",
        ),
        (scratch.join("closed/tree"), "Permission denied"),
    ] {
        let named = format!("cannot pack {tree:?}: ");
        refuse(
            isar_as_user(["pack"]).args([&tree, &archive]),
            &scratch,
            &[&named, cause],
        );
    }
}

#[test]
fn a_file_or_directory_in_the_tree_that_cannot_be_read() {
    let (scratch, tree) = small();
    fs::create_dir(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/secret"), "x").unwrap();
    fs::set_permissions(tree.join("etc/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let archive = scratch.join("x.tar");
    // Both belong to the real root, to whom no id of the namespace corresponds.
    let squash = ["--unmapped=squash", "pack"];
    refuse(
        isar_as_user([squash[1], squash[0]]).args([&tree, &archive]),
        &scratch,
        &["etc/secret: open: Permission denied"],
    );
    fs::set_permissions(tree.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    refuse(
        isar_as_user([squash[1], squash[0]]).args([&tree, &archive]),
        &scratch,
        &["etc: open: Permission denied"],
    );
}

#[test]
fn a_place_where_nothing_can_be_written() {
    let (scratch, tree) = small();
    scratch.user_dir("read-only", 0o555);
    fs::create_dir(scratch.join("x.tar.zst")).unwrap();
    for (place, expected) in [
        (
            "missing/x.tar.zst",
            "missing: open the directory: No such file or directory",
        ),
        ("tree/file/x.tar.zst", "Not a directory"),
        ("read-only/x.tar.zst", "Permission denied"),
        ("x.tar.zst", "is a directory, not a file"),
    ] {
        refuse(
            isar_as_user(["pack"]).arg(&tree).arg(scratch.join(place)),
            &scratch,
            &[expected],
        );
        // A digest that cannot be written counts as much, before any work is done.
        let mut digest = isar_as_user(["pack", "--digest"]);
        digest
            .arg(scratch.join(place))
            .arg(&tree)
            .arg(scratch.join("y.tar"));
        refuse(&mut digest, &scratch, &[expected]);
    }
}

#[test]
fn a_read_only_file_system() {
    let (scratch, tree) = small();
    let place = scratch.join("place");
    fs::create_dir(&place).unwrap();
    let _mounted =
        crate::world::Mounted::new(["-t", "tmpfs", "-o", "ro,mode=0777", "none"], &place);
    refuse(
        isar_as_user(["pack"]).arg(&tree).arg(place.join("x.tar")),
        &scratch,
        &["Read-only file system"],
    );
}

#[test]
fn an_archive_inside_the_tree_whichever_way_it_is_named() {
    let (scratch, tree) = small();
    symlink(tree.join("tmp"), scratch.join("link")).unwrap();
    for place in [
        tree.join("tmp/x.tar"),
        scratch.join("link/x.tar"),
        tree.join("tmp/../tmp/x.tar"),
    ] {
        refuse(
            isar_as_user(["pack"]).args([&tree, &place]),
            &scratch,
            &["lies inside the tree"],
        );
        let mut digest = isar_as_user(["pack", "--digest"]);
        digest.arg(&place).arg(&tree).arg(scratch.join("x.tar"));
        refuse(&mut digest, &scratch, &["lies inside the tree"]);
    }
    succeed(
        isar_as_user(["pack"])
            .arg(&tree)
            .arg(tree.join("../beside.tar")),
    );
}

#[test]
fn a_digest_that_would_replace_the_archive() {
    let (scratch, tree) = small();
    let archive = scratch.join("x.tar");
    for digest in [archive.clone(), scratch.join("tree/../x.tar")] {
        let mut command = isar_as_user(["pack", "--digest"]);
        refuse(
            command.arg(digest).args([&tree, &archive]),
            &scratch,
            &["the digest would replace the archive itself"],
        );
    }
}

#[test]
fn a_name_that_sbuild_would_not_detect() {
    let (scratch, tree) = small();
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "x", "must end in .tar.zst or .tar"),
        (&[], "x.zst", "must end in .tar.zst or .tar"),
        (&[], "x.tzst", "must end in .tar.zst or .tar"),
        (&[], "x.tar.zstd", "must end in .tar.zst or .tar"),
        (&[], "x.TAR.ZST", "must end in .tar.zst or .tar"),
        (&[], "x.tar.gz", "must end in .tar.zst or .tar"),
        (&["--format=zst"], "x.tar", "must end in .tar.zst"),
        (&["--format=zst"], "x.tzst", "must end in .tar.zst"),
        (&["--format=tar"], "x.tar.zst", "must not be named .tar.zst"),
        (&[], "-", "give the format of stdout"),
    ];
    for (options, name, expected) in cases {
        let mut command = isar_as_user(["pack"]);
        refuse(
            command
                .args(*options)
                .arg(&tree)
                .arg(name)
                .current_dir(scratch.path()),
            &scratch,
            &[expected],
        );
    }
}

#[test]
fn options_that_mean_nothing() {
    let (scratch, tree) = small();
    let cases: &[(&[&str], &str)] = &[
        (&["--format=gz"], "gz"),
        (&["--level=0"], "no level from 1 to 22"),
        (&["--level=23"], "no level from 1 to 22"),
        (&["--level=high"], "no level from 1 to 22"),
        (&["--threads=-1"], "-1"),
        (&["--threads=many"], "many"),
        (&["--memory=1X"], "no unit of size"),
        (&["--memory=1M"], "M is needed; see --memory"),
        (&["--exclude", "a["], "pattern \"a[\""),
        (&["--exclude", "/"], "names the root of the tree"),
        (&["--exclude", ""], "names the root of the tree"),
        (&["--devices=some"], "some"),
        (&["--unmapped=yes"], "yes"),
        (&["--mtime-precision=ms"], "ms"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--progress=loud"], "loud"),
        (&["--userns=no-such-user"], "there is no user"),
        (
            &["--userns=root"],
            "only root may use the subordinate ids of another user",
        ),
    ];
    for (options, expected) in cases {
        let mut command = isar_as_user(["pack"]);
        refuse(
            command.args(*options).arg(&tree).arg(scratch.join("x.tar")),
            &scratch,
            &[expected],
        );
    }
    for epoch in ["yesterday", "1.5", "99999999999999999999"] {
        let mut command = as_user("env");
        command
            .arg(format!("SOURCE_DATE_EPOCH={epoch}"))
            .arg(program())
            .arg("pack")
            .arg(&tree);
        refuse(
            command.arg(scratch.join("x.tar")),
            &scratch,
            &["SOURCE_DATE_EPOCH is ", "not a number of seconds"],
        );
    }
}

#[test]
fn ids_that_sbuild_cannot_map() {
    let (scratch, tree) = small();
    // Outside of the namespace: no id inside stands for it, and the kernel shows 65534 for it.
    // Inside, 65534 itself is fine.
    for name in ["a", "b", "c", "d", "e", "f", "nobody"] {
        fs::write(tree.join(name), "").unwrap();
        chown(tree.join(name), Some(user().uid), Some(user().gid)).unwrap();
    }
    chown(
        tree.join("nobody"),
        Some(user().base + 65534),
        Some(user().base + 65534),
    )
    .unwrap();
    let archive = scratch.join("x.tar");
    let expected = [
        "6 of its files",
        "a (an owner from outside of the namespace), b (",
        "e (",
        ", …;",
        "--unmapped squash",
    ];
    refuse(
        isar_as_user(["pack"]).args([&tree, &archive]),
        &scratch,
        &expected,
    );
    // The root itself counts as well.
    let own = scratch.join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(user().uid), Some(user().gid)).unwrap();
    refuse(
        isar_as_user(["pack", "--any-root-owner"]).args([&own, &archive]),
        &scratch,
        &[
            "1 of its files",
            ". (an owner from outside of the namespace)",
        ],
    );
    // Without a namespace those of the tree itself are too large.
    let expected = ["4 of its files", &format!(". ({0}:{0})", user().base)];
    refuse(
        isar(["--userns=off", "pack", "--any-root-owner"]).args([&tree, &archive]),
        &scratch,
        &expected,
    );
    for (id, refused) in [(65535, false), (65536, true)] {
        let place = Scratch::new();
        fs::create_dir(place.join("tree")).unwrap();
        fs::write(place.join("tree/file"), "").unwrap();
        chown(place.join("tree/file"), None, Some(id)).unwrap();
        let mut command = isar(["pack"]);
        command.args([place.join("tree"), place.join("x.tar")]);
        if refused {
            refuse(&mut command, &place, &["1 of its files", "file (0:65536)"]);
        } else {
            succeed(&mut command);
        }
    }
}

#[test]
fn a_tree_of_another_id_map_is_refused_with_the_map_that_it_was_made_under() {
    let (scratch, _) = small();
    let (uid, gid, base) = (user().uid, user().gid, user().base);
    let archive = scratch.join("x.tar");
    let foreign = base + 1500;
    let pack = |as_root: bool, options: &[&str]| {
        let mut command = match as_root {
            true => isar(options),
            false => isar_as_user(options),
        };
        command.arg("pack");
        command
    };
    type Case = (
        &'static str,
        (u32, u32),
        bool,
        &'static [&'static str],
        &'static [&'static str],
    );
    let cases: [Case; 7] = [
        // As in a container, whose id 0 is another id of the host.
        (
            "container",
            (foreign, foreign),
            false,
            &[],
            &["1500:1500", "whose id 0 is", "--any-root-owner"],
        ),
        (
            "group",
            (base, base + 7),
            false,
            &[],
            &["0:7 in the id map", "chgrp"],
        ),
        (
            "own",
            (uid, gid),
            false,
            &[],
            &["id layout `caller`", "ordinary directory", "--id-layout"],
        ),
        (
            "subid",
            (base, base),
            false,
            &["--id-layout=caller"],
            &["id layout `subid`", "--id-layout"],
        ),
        (
            "root",
            (0, 0),
            false,
            &[],
            &["which the id map lacks", "work as root"],
        ),
        (
            "user",
            (base, base),
            true,
            &[],
            &["the user namespace of isar-test", "--userns"],
        ),
        (
            "stranger",
            (5, 5),
            true,
            &[],
            &["5:5 in the id map", "whose id 0 is 5"],
        ),
    ];
    for (name, (uid, gid), as_root, options, expected) in cases {
        let tree = scratch.join(name);
        fs::create_dir(&tree).unwrap();
        chown(&tree, Some(uid), Some(gid)).unwrap();
        refuse(
            pack(as_root, options).args([&tree, &archive]),
            &scratch,
            expected,
        );
    }
    let mut all_the_same = isar_as_user(["pack", "--any-root-owner"]);
    succeed(all_the_same.args([&scratch.join("container"), &archive]));
    let root = &crate::rootfs::tarfile_snapshot(&archive)["."];
    assert_eq!((&root["uid"], &root["gid"]), (&1500.into(), &1500.into()));
}

#[test]
fn no_subordinate_ids() {
    let (scratch, tree) = small();
    let place = scratch.join("place");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
        .arg(program())
        .arg("pack");
    let expected = ["no subordinate user ids", "usermod --add-subuids"];
    refuse(
        command.arg(&tree).arg(place.join("x.tar")),
        &scratch,
        &expected,
    );
    assert!(names(&place).is_empty());
}

/// `pack` as the test user in a mount namespace of its own, where root has run `setup` before.
fn pack_after(setup: &str, tree: &Path, archive: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = format!(
        "{setup}\nexec setpriv --reuid {USER} --regid {USER} --init-groups \"$0\" pack \"$1\" \"$2\""
    );
    command
        .args(["--mount", "sh", "-euc", &script])
        .arg(program())
        .args([tree, archive]);
    command
}

#[test]
fn no_newuidmap_or_one_without_its_privilege() {
    let (scratch, tree) = small();
    let archive = scratch.join("x.tar");
    // A copy loses the setuid bit.
    for program in ["newuidmap", "newgidmap"] {
        fs::copy(format!("/usr/bin/{program}"), scratch.join(program)).unwrap();
        fs::set_permissions(scratch.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        let hidden = format!("mount --bind /dev/null /usr/bin/{program}");
        refuse(
            &mut pack_after(&hidden, &tree, &archive),
            &scratch,
            &[program, "uidmap"],
        );
        let powerless = format!(
            "mount --bind {} /usr/bin/{program}",
            scratch.join(program).display()
        );
        refuse(
            &mut pack_after(&powerless, &tree, &archive),
            &scratch,
            &[program, "setuid"],
        );
    }
    let nosuid = "mount --bind /usr/bin /usr/bin; mount -o remount,bind,nosuid /usr/bin";
    refuse(
        &mut pack_after(nosuid, &tree, &archive),
        &scratch,
        &["newuidmap", "nosuid"],
    );
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--init-groups",
            "--no-new-privs",
        ])
        .arg(program())
        .arg("pack");
    refuse(
        command.args([&tree, &archive]),
        &scratch,
        &["newuidmap", "no_new_privs"],
    );
}

#[test]
fn namespaces_forbidden() {
    let (scratch, tree) = small();
    let archive = scratch.join("x.tar");
    // The kernel makes no user namespace for a process in a chroot.
    let root = scratch.join("root");
    fs::create_dir(&root).unwrap();
    let script = format!(
        "mount --rbind / {0}; exec chroot {0} setpriv --reuid {USER} --regid {USER} --init-groups \"$0\" pack \"$1\" \"$2\"",
        root.display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-euc", &script])
        .arg(program())
        .args([&tree, &archive]);
    refuse(
        &mut command,
        &scratch,
        &["user namespace", "Operation not permitted", "chroot"],
    );

    // A namespace with all ids, in which the number of further ones is limited to none: the
    // machine's own limit stays as it is.
    let script = "
import ctypes, os, sys
ready, done = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())
    os.write(ready[1], b'x'), os.read(done[0], 1)
    with open('/proc/sys/user/max_user_namespaces', 'w') as limit:
        limit.write('0')
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for kind in 'uid', 'gid':
    with open('/proc/%d/%s_map' % (child, kind), 'w') as map:
        map.write('0 0 4294967295')
os.write(done[1], b'x')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))";
    let mut command = Command::new("python3");
    command.args([
        "-c",
        script,
        "setpriv",
        "--reuid",
        USER,
        "--regid",
        USER,
        "--init-groups",
    ]);
    command.arg(program()).arg("pack").args([&tree, &archive]);
    refuse(
        &mut command,
        &scratch,
        &["user.max_user_namespaces is 0", "sysctl -w"],
    );
}
