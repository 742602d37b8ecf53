//! The Debian package that fixtures/deb.sh builds: installed by apt into a fresh chroot by real
//! root, used there by a new user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::isar_checker::{LISTS, checker_at};
use crate::world::{Scratch, as_user, chroot, isar, program, skip, succeed};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The package, when it has been built from these very sources.
fn package() -> Option<PathBuf> {
    let packages = fs::read_dir(format!("{PROJECT}/target/debian"))
        .into_iter()
        .flatten();
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let Some(package) = packages.map(|entry| entry.unwrap().path()).find(is_package) else {
        return skip("there is no package; fixtures/deb.sh builds it");
    };
    let mut newer = Command::new("find");
    newer
        .args([
            "src",
            "fixtures/deb",
            "fixtures/isar",
            "Cargo.toml",
            "-type",
            "f",
            "-newer",
        ])
        .arg(&package);
    let newer = succeed(newer.current_dir(PROJECT));
    if !newer.is_empty() {
        return skip("the package is older than its sources; fixtures/deb.sh builds it");
    }
    Some(package)
}

/// A chroot of `suite` that belongs to real root, as on a machine of its own.
fn fresh_chroot(suite: &str, scratch: &Scratch) -> Option<PathBuf> {
    let (tree, archive, root) = (
        chroot(suite)?,
        scratch.join("chroot.tar.zst"),
        scratch.join("root"),
    );
    succeed(
        as_user(program())
            .args(["pack", "--level", "1"])
            .arg(tree)
            .arg(&archive),
    );
    fs::create_dir(&root).unwrap();
    let tar = [
        "--extract",
        "--zstd",
        "--numeric-owner",
        "--preserve-permissions",
        "--file",
    ];
    succeed(
        Command::new("tar")
            .args(tar)
            .arg(&archive)
            .arg("--directory")
            .arg(&root),
    );
    Some(root)
}

/// Runs a script as root of the chroot.
fn run_in(root: &Path, script: &str) -> String {
    let mut command = isar([
        "chroot",
        "--resolv-conf",
        "--env",
        "DEBIAN_FRONTEND=noninteractive",
    ]);
    succeed(command.arg(root).args(["--", "sh", "-euxc", script]))
}

const INSTALL: &str = "
    apt-get --quiet --option Acquire::Retries=3 update
    apt-get --quiet --yes --option Acquire::Retries=3 --no-install-recommends --option Dpkg::Options::=--force-unsafe-io \
        install apparmor /root/isar-tarball.deb
    useradd --create-home --shell /bin/bash builder
    grep ^builder: /etc/subuid /etc/subgid
";

const USE: &str = r#"
    runuser -u builder -- sh -euxc '
        cd
        isar-tarball grant-acl --parent "$PWD"
        isar-tarball unshare -- sh -euc "mkdir -p tree/bin; touch tree/bin/tool; chown 7:8 tree/bin; chmod 4755 tree/bin/tool"
        isar-tarball pack tree tree.tar.zst
        isar-tarball remove tree
        isar-tarball unpack tree.tar.zst again
        stat --format "%n %u:%g %a" again again/bin again/bin/tool tree.tar.zst
        isar-tarball remove again
        ls
    '
"#;

/// AppArmor's parser takes the profile.
const APPARMOR: &str = "
    apparmor_parser --skip-kernel-load --skip-cache --policy-features /etc/apparmor.d/abi/4.0 /etc/apparmor.d/isar-tarball
";

fn installs_and_works(suite: &str) -> Option<()> {
    let package = package()?;
    let scratch = Scratch::new();
    let root = fresh_chroot(suite, &scratch)?;
    fs::copy(package, root.join("root/isar-tarball.deb")).unwrap();
    run_in(&root, INSTALL);
    // Only AppArmor 4 knows the rule, and only there is the profile of use.
    if suite == "trixie" {
        run_in(&root, APPARMOR);
    } else {
        assert!(!root.join("etc/apparmor.d/isar-tarball").exists());
    }

    let class = fs::read(root.join("usr/share/isar-tarball/classes/isar-tarball.bbclass")).unwrap();
    assert_eq!(
        class,
        fs::read(format!("{PROJECT}/fixtures/isar/isar-tarball.bbclass")).unwrap()
    );
    // The checker finds its table and the class where the package puts them.
    if let Some(mut checker) = checker_at(root.join("usr/share/isar-tarball/check-isar")) {
        succeed(checker.arg(format!("{LISTS}/devel.tsv")));
    }
    for page in ["isar-tarball.1", "isar-tarball-pack.1"] {
        let text =
            succeed(Command::new("zcat").arg(root.join(format!("usr/share/man/man1/{page}.gz"))));
        assert!(text.contains(".TH isar-tarball"), "{text}");
    }
    let completions = root.join("usr/share/bash-completion/completions/isar-tarball");
    let complete = format!(". '{}' && complete -p isar-tarball", completions.display());
    assert!(succeed(Command::new("bash").args(["-c", &complete])).contains("isar-tarball"));

    let used = run_in(&root, USE);
    let owners =
        "again 100000:100000 755\nagain/bin 100007:100008 755\nagain/bin/tool 100000:100000 4755\n";
    assert!(
        used.contains(owners) && used.ends_with("tree.tar.zst\n"),
        "{used}"
    );

    run_in(&root, "apt-get --quiet --yes purge isar-tarball");
    let left = succeed(Command::new("find").arg(&root).args([
        "-xdev",
        "-name",
        "*isar-tarball*",
        "-not",
        "-path",
        "*/root/*.deb",
    ]));
    assert_eq!(left, "");
    Some(())
}

#[test]
fn the_package_installs_on_bookworm_and_works_for_a_new_user() {
    installs_and_works("bookworm");
}

#[test]
fn the_package_installs_on_trixie_and_works_for_a_new_user() {
    installs_and_works("trixie");
}
