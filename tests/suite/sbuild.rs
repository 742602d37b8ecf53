//! sbuild builds a package in a real chroot that `pack` has packed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{
    Sbuild, Scratch, as_user, chroot, isar_as_user, run, sbuild, succeed, text, user,
};

/// The source package of `fixtures/hello-isar`, made below `scratch`: its .dsc.
pub fn source_package(scratch: &Scratch) -> PathBuf {
    let source = scratch.join("hello-isar");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hello-isar");
    succeed(Command::new("cp").arg("-r").arg(fixture).arg(&source));
    let owner = format!("{0}:{1}", user().uid, user().gid);
    succeed(Command::new("chown").args(["-R", &owner]).arg(&source));
    succeed(
        as_user("dpkg-source")
            .args(["--build", "hello-isar"])
            .current_dir(scratch.path()),
    );
    scratch.join("hello-isar_1.0.dsc")
}

/// Packs bookworm's chroot to `archive` and has sbuild build the package in what it calls `name`.
fn builds(version: Sbuild, scratch: &Scratch, archive: &Path, name: &str) {
    let (Some(chroot), Some(mut sbuild)) = (chroot("bookworm"), sbuild(version, scratch)) else {
        return;
    };
    let source = source_package(scratch);
    succeed(isar_as_user(["pack"]).args([&chroot, archive]));
    let output = run(sbuild
        .arg(format!("--chroot={name}"))
        .arg("--dist=bookworm")
        .arg(source));
    assert!(output.status.success(), "{version:?}: {}", output.status);
    let log = text(&output.stdout) + &text(&output.stderr);
    assert!(
        log.contains("Hello from a chroot that isar-tarball has packed."),
        "the package's program was not run"
    );
    let package = fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let package: Vec<PathBuf> = package
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    assert_eq!(package.len(), 1, "{package:?}");
    assert!(
        succeed(Command::new("dpkg-deb").arg("--contents").arg(&package[0]))
            .contains("./usr/bin/hello-isar")
    );
}

#[test]
fn sbuild_0_85_builds_a_package_in_a_packed_chroot() {
    let scratch = Scratch::new();
    let archive = scratch.join("schroot.tar.zst");
    builds(Sbuild::V0_85, &scratch, &archive, archive.to_str().unwrap());
}

#[test]
fn sbuild_0_89_builds_a_package_in_a_packed_chroot() {
    let scratch = Scratch::new();
    let archive = scratch.join("schroot.tar.zst");
    builds(Sbuild::V0_89, &scratch, &archive, archive.to_str().unwrap());
}
