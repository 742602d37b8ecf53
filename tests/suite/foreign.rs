//! Trees and caches that belong to none of the caller's ids: one message that says whose they are.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::world::{Scratch, as_user, fail, isar_as_user, run, succeed, text, user};

/// An id that is neither the test user's nor one of its subordinate ids.
fn foreign_id() -> u32 {
    user().base + 300_000
}

/// Gives the file and all below it to an id.
fn give(path: &Path, id: u32) {
    let owner = format!("{id}:{id}");
    succeed(Command::new("chown").args(["-Rh", &owner]).arg(path));
}

#[test]
fn a_foreign_tree_is_named_once_with_its_owner() {
    let scratch = Scratch::new();
    for number in 0..20 {
        let below = scratch.join(format!("tree/etc/d{number}"));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("f"), "").unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
    }
    succeed(as_user("mkdir").arg(scratch.join("mine")));
    give(&scratch.join("tree"), foreign_id());
    let expected = [
        format!(
            "\"tree\" belongs to uid {}, which is none of yours",
            foreign_id()
        ),
        format!("({}, {}-{})", user().uid, user().base, user().base + 65535),
    ];
    for mode in [0o755, 0o700] {
        fs::set_permissions(scratch.join("tree"), fs::Permissions::from_mode(mode)).unwrap();
        let commands: &[(i32, &[&str])] = &[
            (2, &["pack", "tree", "a.tar"]),
            (2, &["remove", "tree"]),
            (2, &["remove", "--dry-run", "tree"]),
            (125, &["chroot", "tree", "true"]),
            (2, &["diff", "tree", "mine"]),
            (2, &["diff", "mine", "tree"]),
            (2, &["export", "tree", "etc/d1/f", "out"]),
            (2, &["unpack", "--merge", "none.tar", "tree"]),
        ];
        fs::write(scratch.join("none.tar"), [0; 10240]).unwrap();
        for (status, command) in commands {
            let mut isar = isar_as_user(*command);
            let said = fail(*status, isar.current_dir(scratch.path()));
            let is_named = match ["pack", "chroot"].contains(&command[0]) {
                // They have more to say about the root of a tree.
                true => {
                    said.contains(&format!("belongs to uid {}", foreign_id()))
                        || said.contains(&format!("belongs to {0}:{0}", foreign_id()))
                }
                false => expected.iter().all(|words| said.contains(words)),
            };
            assert!(is_named && said.lines().count() == 1, "{command:?}: {said}");
        }
    }
    assert_eq!(scratch.names(), ["mine", "none.tar", "tree"]);
}

#[test]
fn a_part_of_a_cache_that_is_foreign_is_named() {
    let scratch = Scratch::new();
    succeed(as_user("mkdir").arg("-p").arg(scratch.join("tree/bin")));
    let archive = scratch.join("a.tar");
    succeed(
        isar_as_user(["--userns", "off", "pack", "--any-root-owner"])
            .arg(scratch.join("tree"))
            .arg(&archive),
    );
    let imager = || {
        let mut command = isar_as_user(["imager", "--cache"]);
        command
            .arg(scratch.join("cache"))
            .arg(&archive)
            .args(["--", "true"]);
        command
    };
    // The tree lacks the command, but the cache is filled.
    run(&mut imager());
    let part = fs::read_dir(scratch.join("cache")).unwrap();
    let part = part.map(|entry| entry.unwrap().path());
    let part = part
        .filter(|path| path.to_string_lossy().contains("/ids-"))
        .last()
        .unwrap();
    give(&part, foreign_id());
    let said = text(&run(&mut imager()).stderr);
    let expected = format!("{part:?} belongs to uid {}", foreign_id());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_program_of_another_architecture_is_named_with_what_runs_it() {
    let scratch = Scratch::new();
    let bin = scratch.join("tree/bin");
    fs::create_dir_all(&bin).unwrap();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    // A number that no architecture has, so no emulator is registered for it.
    elf.resize(18, 0);
    elf.extend([0x34, 0x12]);
    elf.resize(64, 0);
    fs::write(bin.join("tool"), elf).unwrap();
    fs::write(bin.join("script"), "#!/bin/tool\n").unwrap();
    fs::write(bin.join("orphan"), "#!/no/such/shell\n").unwrap();
    symlink("/no/such", bin.join("dangling")).unwrap();
    for name in ["tool", "script", "orphan"] {
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    give(&scratch.join("tree"), user().base);
    chown(scratch.path(), Some(user().uid), Some(user().gid)).unwrap();
    let another = "it is a program for another architecture";
    for (status, program, expected) in [
        (126, "tool", another),
        (126, "/bin/script", another),
        (126, "orphan", "its interpreter /no/such/shell is missing"),
        (127, "dangling", "run dangling: No such file or directory"),
    ] {
        let mut command = isar_as_user(["chroot", "tree", program]);
        let said = fail(status, command.current_dir(scratch.path()));
        assert!(said.contains(expected), "{program}: {said}");
    }
    // A file system without programs.
    let script = "mount -t tmpfs -o noexec none mount; cp -a tree mount
        exec setpriv --reuid isar-test --regid isar-test --init-groups --reset-env -- \"$0\" chroot mount/tree tool";
    fs::create_dir(scratch.join("mount")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]);
    command
        .arg(crate::world::program())
        .current_dir(scratch.path());
    let said = fail(126, &mut command);
    assert!(
        said.contains("mounted noexec: as root, run `mount -o remount,exec`"),
        "{said}"
    );
}
