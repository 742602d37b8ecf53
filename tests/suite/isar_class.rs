//! fixtures/isar/isar-tarball.bbclass: read and run by bitbake where there is one (tests/bitbake.sh
//! puts it where these tests look, BITBAKE_DIR names another), and always by tests/bitbake.py
//! alone.
//!
//! tests/fixtures/isar-layer has a recipe and classes that stand in for those of both of isar's
//! series. Everything runs as the test user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::imager::traces;
use crate::sbuild::source_package;
use crate::world::{
    Sbuild, Scratch, as_user, chroot, fail, isar_as_user, names, program, require, sbuild, skip,
    succeed, text, user,
};

const CLASS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/isar/isar-tarball.bbclass"
);
const BITBAKE: &str = "/var/tmp/isar-tarball-tests/bitbake";
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");

/// A build directory with a layer that inherits the class, and what reads it.
struct Build {
    scratch: Scratch,
    bitbake: Option<PathBuf>,
    series: &'static str,
}

/// What id 0 of a tree is on disk, and so the name of isar's series.
const SERIES: [&str; 2] = ["subid", "caller"];

/// Build directories for each bitbake and series; the last two are for the real one, if there is
/// one.
fn builds() -> impl Iterator<Item = Build> {
    let named = std::env::var_os("BITBAKE_DIR").map(PathBuf::from);
    let bitbake = named.unwrap_or_else(|| BITBAKE.into());
    let bitbake = bitbake
        .is_dir()
        .then_some(bitbake)
        .or_else(|| skip("there is no bitbake; tests/bitbake.sh fetches it"));
    let readers = [None].into_iter().chain(bitbake.map(Some));
    readers.flat_map(|bitbake| SERIES.map(|series| Build::new(bitbake.clone(), series)))
}

impl Build {
    fn new(bitbake: Option<PathBuf>, series: &'static str) -> Build {
        let build = Build {
            scratch: Scratch::new(),
            bitbake,
            series,
        };
        // The sources may lie where only root gets.
        succeed(
            Command::new("cp")
                .args(["-r", &format!("{TESTS}/fixtures/isar-layer")])
                .arg(build.join("isar")),
        );
        fs::copy(format!("{TESTS}/bitbake.py"), build.join("bitbake.py")).unwrap();
        fs::create_dir_all(build.join("layer/classes")).unwrap();
        fs::copy(CLASS, build.join("layer/classes/isar-tarball.bbclass")).unwrap();
        fs::create_dir(build.join("bin")).unwrap();
        symlink(program(), build.join("bin/isar-tarball")).unwrap();
        build.mkdir(&build.workdir());
        build
    }

    fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.join(name)
    }

    fn workdir(&self) -> PathBuf {
        self.join("top/tmp/work/debian-bookworm-amd64/stand-in")
    }

    fn rootfs(&self) -> PathBuf {
        self.workdir().join("rootfs")
    }

    fn repositories(&self) -> PathBuf {
        self.join("top/tmp/deploy/isar-apt/debian-bookworm-amd64/apt/debian-bookworm")
    }

    fn archive(&self) -> PathBuf {
        self.join("top/tmp/deploy/schroot-target/debian-bookworm-amd64.tar.zst")
    }

    /// A directory of the test user.
    fn mkdir(&self, path: &Path) {
        succeed(as_user("mkdir").arg("-p").arg(path));
    }

    /// A file of the test user.
    fn write(&self, path: &Path, text: &str) {
        self.mkdir(path.parent().unwrap());
        succeed(
            as_user("sh")
                .args(["-c", "printf %s \"$1\" > \"$0\""])
                .arg(path)
                .arg(text),
        );
    }

    /// bitbake with these variables and this command.
    fn bitbake(&self, inherit: &str, words: &[&str]) -> Command {
        let mut command = as_user("env");
        let dir = self.bitbake.as_deref().unwrap_or(Path::new(""));
        command.arg(format!("BITBAKE_DIR={}", dir.display()));
        let path = format!(
            "PATH={}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.scratch.path().display()
        );
        command
            .arg(&path)
            .arg("/usr/bin/python3")
            .arg(self.join("bitbake.py"))
            .arg(self.join("isar/stand-in.bb"));
        let bbpath = format!(
            "BBPATH={}:{}",
            self.join("layer").display(),
            self.join("isar").display()
        );
        command.args([
            bbpath,
            path,
            format!("INHERIT={inherit}"),
            format!("TOPDIR={}", self.join("top").display()),
            format!("ISAR_SERIES={}", self.series),
        ]);
        command.args(words);
        command
    }

    /// Runs a function of the recipe, which must succeed, and gives what it said.
    fn run(&self, variables: &[&str], function: &str) -> String {
        succeed(&mut self.bitbake(
            "base isar-tarball",
            &[variables, &["run", function]].concat(),
        ))
    }

    /// The uid and gid on disk of this one of a tree.
    fn outer(&self, id: u32) -> u32 {
        match (self.series, id) {
            ("caller", 0) => user().uid,
            _ => user().base + id,
        }
    }

    /// A command of namespace root.
    fn as_root(&self, program: &str) -> Command {
        let mut command = isar_as_user(["--id-layout", self.series, "unshare", "--", program]);
        command.current_dir("/");
        command
    }

    /// A small tree of namespace root where the recipe has its root file system.
    fn make_rootfs(&self) -> PathBuf {
        let rootfs = self.rootfs();
        let script = r#"
            mkdir "$1"
            cd "$1"
            mkdir -p etc/apt/preferences.d isar-apt var/cache/apt/archives usr/bin
            echo pin > etc/apt/preferences.d/isar-apt
            echo deb > isar-apt/package.deb
            echo deb > var/cache/apt/archives/package.deb
            printf '#!/bin/sh\necho "$@" > "$2/set-up"\n' > chroot-setup.sh
            chmod 4755 chroot-setup.sh
            chown 101:102 usr/bin
        "#;
        if self.series == "subid" {
            succeed(
                as_user("setfacl")
                    .args(["-m", &format!("u:{}:rwx", user().base)])
                    .arg(self.workdir()),
            );
        }
        succeed(self.as_root("sh").args(["-euc", script, "sh"]).arg(&rootfs));
        rootfs
    }

    /// The names in an archive.
    fn members(&self, archive: &Path) -> Vec<String> {
        let list = succeed(Command::new("tar").args(["--list", "--file"]).arg(archive));
        list.lines().map(String::from).collect()
    }

    /// A command in place of isar-tarball, which writes its arguments, one a line, and what
    /// `script` says to a file.
    fn record_calls(&self, script: &str) -> PathBuf {
        let record = self.join("top/calls");
        let tool = self.join("bin/isar-tarball");
        fs::remove_file(&tool).unwrap();
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >> '{0}'\n{{ {script}; }} >> '{0}'\n",
            record.display()
        );
        fs::write(&tool, text).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        record
    }
}

/// The names that the class replaces.
fn replaced() -> Vec<String> {
    let text = fs::read_to_string(CLASS).unwrap();
    let names = text
        .lines()
        .filter_map(|line| line.trim_start_matches("python ").split_once(":unshare"));
    let names: Vec<_> = names
        .map(|(name, _)| name)
        .filter(|name| !name.contains([' ', '#']))
        .map(String::from)
        .collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

fn members_named<'a>(members: &'a [String], part: &str) -> Vec<&'a String> {
    members.iter().filter(|name| name.contains(part)).collect()
}

#[test]
fn a_schroot_build_sees_nothing_of_the_class() {
    let names = replaced();
    for build in builds() {
        let show = |inherit: &str, mode: &str| -> String {
            let mut words = vec![mode, "show"];
            words.extend(names.iter().map(String::as_str));
            succeed(&mut build.bitbake(inherit, &words))
        };
        let own = show("base", "ISAR_CHROOT_MODE=schroot");
        assert_eq!(show("base isar-tarball", "ISAR_CHROOT_MODE=schroot"), own);
        assert_eq!(
            own.matches("isar's own").count(),
            names.len(),
            "the stand-in lacks a function that the class replaces"
        );
        let unshare = show("base isar-tarball", "ISAR_CHROOT_MODE=unshare");
        assert!(!unshare.contains("isar's own"), "{unshare}");
    }
}

#[test]
fn root_of_the_namespace_can_make_directories_in_a_parent_of_a_rootfs() {
    for build in builds().filter(|build| build.series == "subid") {
        build.run(&[], "do_make_parents");
        for tree in ["parent/tree", "other/parent/tree"] {
            assert_eq!(
                build.workdir().join(tree).metadata().unwrap().uid(),
                user().base
            );
        }
    }
}

#[test]
fn a_privileged_script_has_its_stdin_its_environment_and_its_descriptors() {
    for build in builds() {
        let said = build.run(&[], "do_privileged");
        assert_eq!(said, "0\ntwo words\n");
        let map = fs::read_to_string(build.workdir().join("three")).unwrap();
        assert!(
            map.split_whitespace()
                .any(|word| word == build.outer(0).to_string()),
            "{map}"
        );
    }
}

#[test]
fn a_privileged_command_that_fails_fails_its_task() {
    for build in builds() {
        let failed = build
            .bitbake("base isar-tarball", &["run", "do_privileged_failure"])
            .output()
            .unwrap();
        assert_eq!(failed.status.code(), Some(1));
        let said = String::from_utf8_lossy(&failed.stdout).into_owned();
        assert!(said.contains('7'), "the status of the command: {said}");
    }
}

#[test]
fn the_chroot_tarball_is_packed_with_progress_and_its_tree_removed() {
    for build in builds() {
        let rootfs = build.make_rootfs();
        let said = build.run(
            &["SSTATE_ZSTD_CLEVEL=3", "ZSTD_THREADS=1"],
            "do_sbuildchroot_deploy",
        );
        // Of percentages in quick succession bitbake reports the first only.
        let shown = if build.bitbake.is_some() {
            "progress: "
        } else {
            "progress: 100"
        };
        assert!(said.contains(shown) && said.contains("100%\n"), "{said}");
        assert!(!rootfs.exists());
        assert_eq!(build.archive().metadata().unwrap().uid(), user().uid);
        let members = build.members(&build.archive());
        assert!(
            members.contains(&String::from("./etc/apt/preferences.d/isar-apt")),
            "{members:?}"
        );
        assert!(
            members_named(&members, "package.deb").is_empty(),
            "{members:?}"
        );
    }
}

#[test]
fn a_chroot_tarball_that_cannot_be_written_fails_its_task_and_keeps_the_tree() {
    for build in builds() {
        let rootfs = build.make_rootfs();
        build.mkdir(&build.archive());
        fail(
            1,
            &mut build.bitbake("base isar-tarball", &["run", "do_sbuildchroot_deploy"]),
        );
        assert!(rootfs.join("chroot-setup.sh").exists());
    }
}

#[test]
fn level_threads_and_reuse_come_from_the_configuration() {
    let reuse = |path: &Path| format!("--reuse\n{}\n", path.display());
    for build in builds() {
        let record = build.record_calls("true");
        build.mkdir(&build.rootfs());
        build.run(
            &["SSTATE_ZSTD_CLEVEL=11", "ZSTD_THREADS=5"],
            "sbuildchroot_deploy_tar",
        );
        let calls = fs::read_to_string(&record).unwrap();
        assert!(
            calls.contains("--level\n11\n--threads\n5\n")
                && !calls.contains("--reuse")
                && !calls.contains("--frame-size"),
            "{calls}"
        );
        build.run(
            &["ISAR_TARBALL_REUSE=1", "ISAR_TARBALL_FRAME_SIZE=1M"],
            "sbuildchroot_deploy_tar",
        );
        let calls = fs::read_to_string(&record).unwrap();
        assert!(
            calls.contains(&reuse(&build.archive())) && calls.contains("--frame-size\n1M\n"),
            "{calls}"
        );
    }
}

#[test]
fn a_rootfs_is_unpacked_from_the_bootstrap_in_place_of_an_older_one() {
    for build in builds() {
        let rootfs = build.make_rootfs();
        let bootstrap = build.join("top/tmp/deploy/bootstrap.tar.zst");
        build.mkdir(bootstrap.parent().unwrap());
        let tar = [
            "--numeric-owner",
            "--zstd",
            "--create",
            "--file",
            "-",
            "--directory",
        ];
        let script = "file=$1; shift; exec \"$@\" > \"$file\"";
        let mut pack = as_user("sh");
        pack.args(["-euc", script, "sh"])
            .arg(&bootstrap)
            .arg(program())
            .args(["--id-layout", build.series, "unshare", "--", "tar"])
            .args(tar);
        succeed(pack.arg(&rootfs).arg("."));
        succeed(build.as_root("touch").arg(rootfs.join("left-over")));

        build.run(&[], "rootfs_prepare");
        assert_eq!(rootfs.metadata().unwrap().uid(), build.outer(0));
        assert_eq!(
            rootfs.join("usr/bin").metadata().unwrap().uid(),
            build.outer(101)
        );
        assert_eq!(
            rootfs.join("chroot-setup.sh").metadata().unwrap().mode() & 0o7777,
            0o4755
        );
        assert!(!rootfs.join("left-over").exists());
        assert_eq!(
            fs::read_to_string(rootfs.join("set-up")).unwrap(),
            format!("setup {}\n", rootfs.display())
        );
    }
}

#[test]
fn a_rootfs_goes_into_the_sstate_cache_and_comes_back() {
    let task = "SSTATE_CURRTASK=rootfs_install";
    for build in builds() {
        let rootfs = build.make_rootfs();
        let archive = build.workdir().join("sstate-build/rootfs.tar");

        build.run(
            &["SSTATE_CURRTASK=generate_initramfs"],
            "rootfs_install_sstate_prepare",
        );
        assert!(!archive.exists(), "another task's state has no rootfs");
        build.run(&[task], "rootfs_install_sstate_prepare");
        let members = build.members(&archive);
        assert!(
            members.contains(&String::from("./isar-apt/package.deb")),
            "an SDK needs its packages: {members:?}"
        );
        assert!(
            members_named(&members, "archives/").len() <= 1,
            "{members:?}"
        );

        succeed(build.as_root("touch").arg(rootfs.join("left-over")));
        build.run(&[task], "rootfs_install_sstate_finalize");
        assert!(!archive.exists());
        assert!(!rootfs.join("left-over").exists());
        assert_eq!(
            rootfs.join("usr/bin").metadata().unwrap().gid(),
            build.outer(102)
        );
        build.run(&[task], "rootfs_install_sstate_finalize");
        assert!(
            rootfs.join("usr/bin").exists(),
            "a rootfs that was just built stays as it is"
        );
    }
}

#[test]
fn sbuild_gets_its_mounts_and_its_build_user_the_compiler_cache() {
    let Some(()) = require(&["getfacl", "perl"]) else {
        return;
    };
    for build in builds() {
        build.make_rootfs();
        let passwd = "echo sbuild:x:997:997::/:/bin/sh > \"$1/etc/passwd\"";
        succeed(
            build
                .as_root("sh")
                .args(["-euc", passwd, "sh"])
                .arg(build.rootfs()),
        );
        let config = build.workdir().join("sbuild.conf");
        build.run(
            &[&format!("SBUILD_CHROOT={}", build.rootfs().display())],
            "sbuild_add_unshare_mounts",
        );

        let acl = succeed(
            Command::new("getfacl")
                .args(["-n", "-p"])
                .arg(build.join("top/tmp/ccache")),
        );
        for id in [user().base, user().base + 997] {
            assert!(
                acl.contains(&format!("\nuser:{id}:rw"))
                    && acl.contains(&format!("\ndefault:user:{id}:rw")),
                "{acl}"
            );
        }
        let script =
            "do $ARGV[0] or die $@; print join ',', map { $_->{mountpoint} } @$unshare_bind_mounts";
        let mounts = succeed(Command::new("perl").args(["-e", script]).arg(config));
        assert_eq!(
            mounts,
            "/home/builder/stand-in/rootfs,/isar-apt,/base-apt,/ccache"
        );
    }
}

#[test]
fn cleaning_removes_trees_of_subordinate_ids_and_this_recipe_s_stamps() {
    for build in builds() {
        let rootfs = build.make_rootfs();
        succeed(build.as_root("chmod").arg("0").arg(rootfs.join("usr")));
        let stamps = build.join("top/tmp/stamps");
        for stamp in ["stand-in/1.0-r0.do_rootfs", "other/1.0-r0.do_rootfs"] {
            build.write(&stamps.join(stamp), "");
        }
        build.run(&[], "do_clean");
        assert!(!build.workdir().exists());
        assert!(!stamps.join("stand-in/1.0-r0.do_rootfs").exists());
        assert!(stamps.join("other/1.0-r0.do_rootfs").exists());
    }
}

#[test]
fn root_cleandirs_are_emptied_for_python_and_shell_tasks() {
    let script = r#"mkdir -p "$1/full" && touch "$1/full/file" && chmod 0 "$1/full""#;
    for build in builds() {
        let work = build.join("top/tmp/work");
        for (variables, task) in [
            (
                vec!["ROOT_CLEANDIRS_DIRS=/work/tree /work/missing"],
                "do_root_cleandirs",
            ),
            (vec![], "do_root_cleandirs_shell"),
        ] {
            build.mkdir(&work.join("tree"));
            succeed(as_user("chmod").arg("0777").arg(work.join("tree")));
            succeed(
                build
                    .as_root("sh")
                    .args(["-euc", script, "sh"])
                    .arg(work.join("tree")),
            );
            build.run(&variables, task);
            assert_eq!(
                fs::read_dir(work.join("tree")).unwrap().count(),
                0,
                "{task}"
            );
        }
        assert!(work.join("missing").is_dir());
    }
}

#[test]
fn an_imager_task_gives_its_packages_the_lock_of_isar_apt_and_the_download_directory() {
    for build in builds() {
        build.mkdir(&build.join("top"));
        let record = build.record_calls("true");
        let task = [
            "BB_CURRENTTASK=image_wic",
            "INSTALL_image_wic= parted  dosfstools ",
        ];
        build.run(&task, "do_image");
        let deploy = build.join("top/tmp/deploy");
        let layout = format!("--id-layout\n{}", build.series);
        let expected = format!(
            "{layout}\ngrant-acl\n--parent\n{work}\n{layout}\nimager\n--cache\n{tmp}/isar-tarball\n--bind\n{work}:/work\n--bind\n{deploy}/isar-apt/debian-bookworm-amd64/apt/debian-bookworm:/isar-apt\n\
             --install\nparted  dosfstools\n--apt-lock\n{deploy}/isar-apt/debian-bookworm-amd64/apt/isar.lock\n--download-dir\n{top}/downloads/deb/debian-bookworm\n{archive}\n--\nsh\n-c\n\
             cat /etc/debian_version > /work/version; exit \"$1\"\nsh\n0\n",
            tmp = build.join("top/tmp").display(),
            work = build.workdir().display(),
            deploy = deploy.display(),
            top = build.join("top").display(),
            archive = build.archive().display(),
        );
        assert_eq!(fs::read_to_string(&record).unwrap(), expected);
    }
}

#[test]
fn an_imager_task_without_packages_hands_its_script_over_and_takes_no_lock() {
    for build in builds() {
        build.mkdir(&build.join("top"));
        let record = build.record_calls("cat");
        build.run(&["BB_CURRENTTASK=image_wic"], "do_image_script");
        let calls = fs::read_to_string(&record).unwrap();
        assert!(
            !calls.contains("--install") && !calls.contains("--apt-lock"),
            "{calls}"
        );
        assert!(
            calls.ends_with("--\n/bin/bash\n-s\n        cat /etc/debian_version > /work/version\n"),
            "{calls}"
        );
    }
}

/// Makes what stands in for isar-apt, with two repositories: `isar`, whose packages apt takes from
/// where they are, and `mirror`, whose packages it fetches.
///
/// The package `tool` gives a program a file capability when it is installed, and needs `part` from
/// the mirror. (setxattr is system call 188 on amd64.)
const REPOSITORIES: &str = r#"
    cd "$1"
    deb() {
        mkdir -p "pool/$1" "$2/DEBIAN" "$2/usr/share/$2"
        printf '%s\n' "Package: $2" 'Version: 1.0' 'Architecture: all' 'Maintainer: Nobody <nobody@example.org>' \
            "Description: $2" ${3:+"Depends: $3"} >"$2/DEBIAN/control"
        if [ "$2" = tool ]; then
            install -m 755 postinst "$2/DEBIAN/postinst"
        fi
        dpkg-deb --root-owner-group --build "$2" "pool/$1"
        rm -r "$2"
    }
    cat >postinst <<'END'
#!/bin/sh
set -e
cp /bin/cat /usr/bin/tool
perl -e '($file, $name, $v2) = ("/usr/bin/tool", "security.capability", pack("V5", 0x02000001, 1 << 13, 0, 0, 0));
    syscall(188, $file, $name, $v2, 20, 0) == 0 or die "setxattr: $!"'
END
    deb isar tool part
    for name in part extra; do
        deb mirror "$name"
    done
    rm postinst
    for suite in isar mirror; do
        index=dists/$suite/main/binary-amd64/Packages
        mkdir -p "${index%/*}"
        dpkg-scanpackages "pool/$suite" >"$index"
        printf '%s\n' "Codename: $suite" 'Architectures: amd64' 'Components: main' 'SHA256:' \
            " $(sha256sum "$index" | cut -d ' ' -f 1) $(stat -c %s "$index") main/binary-amd64/Packages" >"dists/$suite/Release"
    done
"#;

/// What the chroot of mmdebstrap lacks of isar's.
const CONFIGURE: &str = r#"
    cd "$1"
    printf '#!/bin/sh\ntouch "$2/set-up"\n' > chroot-setup.sh
    chmod 755 chroot-setup.sh
    ln -sf ../run/resolv.conf etc/resolv.conf
    echo 'deb [trusted=yes] file:///isar-apt isar main' > etc/apt/sources.list.d/isar-apt.list
    echo 'deb [trusted=yes] copy:///isar-apt mirror main' >> etc/apt/sources.list.d/isar-apt.list
"#;

/// A build of each series with a packed chroot of bookworm as its bootstrap, and its packages; by
/// bitbake where there is one.
fn real_build(series: &str) -> Option<Build> {
    let tree = chroot("bookworm")?;
    require(&["dpkg-scanpackages"])?;
    let build = builds()
        .filter(|build| build.series == series)
        .last()
        .unwrap();
    build.mkdir(&build.repositories());
    succeed(
        as_user("sh")
            .args(["-euc", REPOSITORIES, "sh"])
            .arg(build.repositories()),
    );
    let bootstrap = build.join("top/tmp/deploy/bootstrap.tar.zst");
    succeed(
        as_user(program())
            .args(["pack", "--level", "1"])
            .arg(&tree)
            .arg(&bootstrap),
    );
    // There is no set-up script in it.
    fail(
        1,
        &mut build.bitbake("base isar-tarball", &["run", "rootfs_prepare"]),
    );
    succeed(
        build
            .as_root("sh")
            .args(["-euc", CONFIGURE, "sh"])
            .arg(build.rootfs()),
    );
    Some(build)
}

#[test]
fn a_real_chroot_goes_from_the_bootstrap_through_the_tarball_to_an_image_if_its_id_0_is_a_subid() {
    from_the_bootstrap_to_an_image("subid");
}

#[test]
fn a_real_chroot_goes_from_the_bootstrap_through_the_tarball_to_an_image_if_its_id_0_is_the_caller()
{
    from_the_bootstrap_to_an_image("caller");
}

/// Everything that isar does with a build chroot, in its order.
fn from_the_bootstrap_to_an_image(series: &str) {
    let Some(build) = real_build(series) else {
        return;
    };
    install_packages(&build);
    let run = |function: &str| build.run(&["SSTATE_CURRTASK=rootfs_install"], function);
    run("rootfs_install_sstate_prepare");
    run("root_cleandirs");
    run("rootfs_install_sstate_finalize");
    run("do_sbuildchroot_deploy");
    let members = build.members(&build.archive());
    for member in ["./marker", "./usr/bin/dpkg", "./usr/share/extra/"] {
        assert!(members.iter().any(|name| name == member), "{member}");
    }
    assert!(!build.rootfs().exists());

    build_package(&build);
    make_image(&build);
    fetch_sources(&build);
    let cache = build.join("top/tmp/isar-tarball");
    let copies = || names(&cache.join(&names(&cache)[0]).join("copies"));
    assert_eq!(copies().len(), 1);
    run("do_clean");
    assert!(!build.workdir().exists());
    assert_eq!(
        copies(),
        Vec::<String>::new(),
        "the copy of the chroot goes with its recipe"
    );
    assert_eq!(
        names(&build.join("top/tmp")),
        ["deploy", "isar-tarball", "work"]
    );
    assert_eq!(traces(build.scratch.path()), Vec::<String>::new());
}

/// The functions that work in the root file system, which must leave nothing mounted in it.
fn install_packages(build: &Build) {
    let rootfs = build.rootfs();
    let run = |function: &str| build.run(&["ROOTFS_PACKAGES=extra tool"], function);
    let said = run("rootfs_install_pkgs_update");
    assert!(said.contains("file:/isar-apt isar Release"), "{said}");
    run("rootfs_install_pkgs_download");
    let fetched = || {
        let mut names = names(&rootfs.join("var/cache/apt/archives"));
        names.retain(|name| name.ends_with(".deb"));
        names
    };
    assert_eq!(fetched(), ["extra_1.0_all.deb", "part_1.0_all.deb"]);
    run("rootfs_install_pkgs_isar_download");
    assert_eq!(
        fetched(),
        ["extra_1.0_all.deb", "part_1.0_all.deb", "tool_1.0_all.deb"]
    );
    assert!(!rootfs.join("usr/share/extra").exists());
    build.run(&["ROOTFS_PACKAGES=extra"], "rootfs_install_pkgs_install");
    assert!(rootfs.join("usr/share/extra").exists());
    run("rootfs_do_umounts_priv");

    assert!(run("do_in_chroot").contains("base-files"));
    assert_eq!(
        fs::read_to_string(rootfs.join("marker")).unwrap(),
        "an argument\n"
    );
    assert!(run("do_privileged_words").contains("0\n"));
    run("do_own_mounts");
    assert!(
        names(&rootfs.join("dev")).is_empty(),
        "a device is left behind"
    );
    assert!(
        !rootfs.join("isar-apt").exists(),
        "a mount point is left behind"
    );
    assert_eq!(traces(build.scratch.path()), Vec::<String>::new());
}

/// sbuild in the chroot tarball, with what the class adds to its configuration.
fn build_package(build: &Build) {
    let Some(mut sbuild) = sbuild(Sbuild::V0_85, &build.scratch) else {
        return;
    };
    let config = build.join("sbuild.conf");
    chown(&config, Some(user().uid), None).unwrap();
    let packages = build.workdir().join("isar-apt/debian-bookworm-amd64/apt");
    for mounted in [
        &packages,
        &build.rootfs(),
        &build.join("top/tmp/deploy/base-apt/debian-bookworm/apt"),
    ] {
        build.mkdir(mounted);
    }
    succeed(
        as_user("cp")
            .arg("-r")
            .arg(build.repositories())
            .arg(packages),
    );
    build.run(
        &[&format!("SBUILD_CONFIG={}", config.display())],
        "sbuild_add_unshare_mounts",
    );

    let check = "ls /isar-apt/pool /base-apt /home/builder/stand-in/rootfs && runuser -u sbuild -- touch /ccache/object";
    sbuild
        .arg(format!("--chroot={}", build.archive().display()))
        .arg(format!("--starting-build-commands={check}"));
    succeed(
        sbuild
            .arg("--dist=bookworm")
            .arg(source_package(&build.scratch)),
    );
    assert!(build.join("hello-isar_1.0_amd64.deb").exists());
    let cache = build.join("top/tmp/ccache");
    let owner = cache.join("object").metadata().unwrap().uid();
    assert!(owner > user().base, "{owner} is not the build user");
    succeed(as_user("rm").arg("-r").arg(cache));
}

/// Imager tasks in the chroot tarball.
fn make_image(build: &Build) {
    let lock = r#"
        APT::Update::Post-Invoke { "flock --exclusive --nonblock /apt/isar.lock echo update: free || echo update: held"; };
        DPkg::Post-Invoke { "flock --exclusive --nonblock /apt/isar.lock echo install: free || echo install: held"; };
    "#;
    build.write(&build.join("top/lock.conf"), lock);
    let mounts = format!(
        "SCHROOT_MOUNTS={}:/work {repositories}:/isar-apt {repositories}/..:/apt {}:/etc/apt/apt.conf.d/90lock",
        build.workdir().display(),
        build.join("top/lock.conf").display(),
        repositories = build.repositories().display(),
    );
    let task = [
        "BB_CURRENTTASK=image_wic",
        "INSTALL_image_wic=tool",
        &mounts,
    ];
    let script = r#"IMAGE_SCRIPT=
        flock --exclusive --nonblock /apt/isar.lock echo command: free
        setpriv --reuid 1000 --regid 1000 --clear-groups tool /proc/self/status | grep CapEff
        test -d /usr/share/part && test -c /dev/null && id -u > /work/id"#;
    let said = build.run(&[&task[..], &[script]].concat(), "do_image_script");
    // cap_net_raw is bit 13.
    for line in [
        "update: held",
        "install: free",
        "command: free",
        "CapEff:\t0000000000002000",
    ] {
        assert!(said.contains(&format!("\n{line}\n")), "{line}: {said}");
    }
    assert_eq!(
        fs::read_to_string(build.workdir().join("id")).unwrap(),
        "0\n"
    );
    assert!(!build.workdir().join("imager.manifest").exists());

    // What apt has fetched is kept, and what it can take from isar-apt is not.
    let downloads = build.join("top/downloads/deb/debian-bookworm");
    assert_eq!(names(&downloads), ["part_1.0_all.deb"]);
    assert_eq!(
        downloads.join("part_1.0_all.deb").metadata().unwrap().uid(),
        user().uid
    );
    fs::remove_file(build.repositories().join("pool/mirror/part_1.0_all.deb")).unwrap();
    let failing = [&task[..], &["IMAGE_STATUS=7", "run", "do_image"]].concat();
    fail(1, &mut build.bitbake("base isar-tarball", &failing));
    assert!(
        build.workdir().join("version").exists(),
        "the command has run, and failed"
    );

    name_packages(build, &task);
    let cache = build.join("top/tmp/isar-tarball");
    let area = cache.join(&names(&cache)[0]);
    assert_eq!(
        (
            names(&area.join("copies")).len(),
            names(&area.join("runs")).len()
        ),
        (1, 0)
    );
    assert_eq!(traces(build.scratch.path()), Vec::<String>::new());
}

/// An image that contains packages of the chroot: its manifest, and what the SBOM generator reads.
fn name_packages(build: &Build, task: &[&str]) {
    let bom = [
        "BOM_image_wic=base-files libc-bin",
        "ROOTFS_FEATURES=generate-sbom",
    ];
    let said = build.run(&[task, &bom].concat(), "do_image");
    let packages: u32 = said.lines().find_map(|line| line.parse().ok()).unwrap();
    assert!(packages > 50, "{said}");
    assert!(
        said.contains("/usr/share/doc/base-files/copyright\n"),
        "{said}"
    );
    assert!(
        said.contains("the chroot of the generator is removed"),
        "{said}"
    );
    let manifest = fs::read_to_string(build.workdir().join("imager.manifest")).unwrap();
    let lines: Vec<&str> = manifest.lines().collect();
    assert_eq!(lines.len(), 2, "{manifest}");
    assert!(lines[0].starts_with("base-files|12."), "{manifest}");
    assert!(lines[1].contains("|libc-bin:amd64|2.36"), "{manifest}");
    let state = |name: &String| name.contains("tarball-state");
    assert!(!names(&build.workdir()).iter().any(state));

    // A command that fails fails the task, and no manifest says otherwise.
    fs::remove_file(build.workdir().join("imager.manifest")).unwrap();
    let failing = [task, &bom, &["IMAGE_STATUS=7", "run", "do_image"]].concat();
    fail(1, &mut build.bitbake("base isar-tarball", &failing));
    assert!(!build.workdir().join("imager.manifest").exists());
    assert!(!names(&build.workdir()).iter().any(state));
}

/// The chroots that other functions of isar unpack for themselves.
fn fetch_sources(build: &Build) {
    let said = build.run(&[], "do_fetch");
    assert!(said.contains("/rootfs-fetcher/etc/resolv.conf"), "{said}");
    let devshell = build.workdir().join("rootfs-devshell");
    build.run(&[], "devshell_prepare_unshare_chroot");
    assert_eq!(
        devshell.join("etc").metadata().unwrap().uid(),
        build.outer(0)
    );
    build.run(&[], "devshell_cleanup_unshare_chroot");
    assert_eq!(
        names(&build.workdir())
            .into_iter()
            .filter(|name| name.starts_with("rootfs"))
            .collect::<Vec<_>>(),
        ["rootfs"]
    );
}

#[test]
fn a_chroot_that_is_deployed_again_is_packed_from_its_tarball() {
    for build in builds() {
        build.make_rootfs();
        let deploy = |variables: &[&str]| build.run(variables, "do_sbuildchroot_deploy");
        deploy(&[]);
        let first = fs::read(build.archive()).unwrap();
        // The same options give the same bytes, others what they would have given at once.
        let said = deploy(&[]);
        assert!(said.contains("packing the tree in"), "{said}");
        assert_eq!(fs::read(build.archive()).unwrap(), first);
        deploy(&["SSTATE_ZSTD_CLEVEL=1"]);
        let other = fs::read(build.archive()).unwrap();
        assert_ne!(other, first);
        assert!(!build.rootfs().exists());
        deploy(&[]);
        assert_eq!(fs::read(build.archive()).unwrap(), first);

        fs::remove_file(build.archive()).unwrap();
        let words = ["BB_CURRENT_MC=qemuamd64", "run", "do_sbuildchroot_deploy"];
        let failed = build.bitbake("base isar-tarball", &words).output().unwrap();
        assert_eq!(failed.status.code(), Some(1));
        let said = String::from_utf8_lossy(&failed.stdout).into_owned();
        let command = "Run: bitbake -C rootfs_install mc:qemuamd64:stand-in";
        assert!(said.contains(command), "{said}");
    }
}

#[test]
fn the_chroot_of_the_sbom_generator_is_packed_without_var_and_unpacked_for_each_use() {
    for build in builds() {
        build.make_rootfs();
        build.mkdir(&build.join("top/tmp/deploy/sbom"));
        build.run(&[], "do_sbomchroot_deploy");
        assert!(!build.rootfs().exists());
        let members = build.members(&build.join("top/tmp/deploy/sbom/sbom-chroot.tar.zst"));
        assert!(members.contains(&String::from("./var/")), "{members:?}");
        assert!(
            !members.iter().any(|name| name.starts_with("./var/c")),
            "{members:?}"
        );

        let chroot = build.workdir().join("sbom-chroot");
        build.run(&[], "prepare_sbom_chroot");
        build.run(&[], "prepare_sbom_chroot");
        assert_eq!(chroot.metadata().unwrap().uid(), build.outer(0));
        build.run(&[], "cleanup_sbom_chroot");
        assert!(!chroot.exists());
    }
}

#[test]
fn files_that_a_layer_adds_belong_to_root_of_the_tree() {
    for build in builds() {
        let rootfs = build.make_rootfs();
        build.write(&build.workdir().join("payload"), "content");
        build.run(&[], "rootfs_add_files");
        build.run(&[], "rootfs_add_files");
        for (name, content) in [("payload", "content"), ("empty", "")] {
            let file = rootfs.join("install").join(name);
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
            assert_eq!(file.metadata().unwrap().uid(), build.outer(0));
        }
    }
}

#[test]
fn the_layout_is_that_of_isar_or_of_the_layer() {
    for build in builds() {
        assert_eq!(build.run(&[], "do_layout"), format!("{}\n", build.series));
        let mut others = SERIES.iter().filter(|series| **series != build.series);
        let other = others.next().unwrap();
        let setting = format!("ISAR_TARBALL_ID_LAYOUT={other}");
        assert_eq!(build.run(&[&setting], "do_layout"), format!("{other}\n"));
        let said = build
            .bitbake(
                "base isar-tarball",
                &["ISAR_SERIES=neither", "run", "do_layout"],
            )
            .output()
            .unwrap();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        let said = text(&said.stdout) + &text(&said.stderr);
        assert!(said.contains("Set ISAR_TARBALL_ID_LAYOUT"), "{said}");
    }
}

#[test]
fn a_schroot_build_runs_isars_own_python_functions() {
    for build in builds() {
        for task in ["do_privileged_words", "do_fetch"] {
            let words = ["ISAR_CHROOT_MODE=schroot", "run", task];
            let said = succeed(&mut build.bitbake("base isar-tarball", &words));
            assert!(said.contains("isar's own"), "{said}");
            assert_eq!(said, succeed(&mut build.bitbake("base", &words)));
        }
    }
}
