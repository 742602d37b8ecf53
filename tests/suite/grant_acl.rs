//! `grant-acl` beside setfacl and useradd, and what a build may do afterwards.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::world::{
    Scratch, as_namespace_root, as_user, chroot, fail, isar, isar_as_user, require, run, succeed,
    user,
};

/// A directory of the test user.
fn directory(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.join(name);
    fs::create_dir(&path).unwrap();
    chown(&path, Some(user().uid), Some(user().gid)).unwrap();
    path
}

fn file(path: PathBuf, mode: u32) -> PathBuf {
    fs::write(&path, "old\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(user().uid), Some(user().gid)).unwrap();
    path
}

fn getfacl(path: &Path) -> String {
    succeed(
        Command::new("getfacl")
            .args(["--numeric", "--absolute-names", "--omit-header"])
            .arg(path),
    )
}

/// The entries of the access ACL that name a user, in its order.
fn named_users(path: &Path) -> Vec<String> {
    let is_named = |line: &&str| line.starts_with("user:") && !line.starts_with("user::");
    let acl = getfacl(path);
    acl.lines().filter(is_named).map(str::to_owned).collect()
}

fn setfacl(options: &str, path: &Path) {
    succeed(as_user("setfacl").args(options.split(' ')).arg(path));
}

/// Runs `grant-acl` as the test user.
fn grant(options: &str, path: &Path) -> String {
    let options = options.split(' ').filter(|option| !option.is_empty());
    succeed(isar_as_user(["grant-acl"]).args(options).arg(path))
}

fn build_uid() -> u32 {
    user().base + 999
}

/// The build user of sbuild 0.85.
fn build_uid_of_0_85() -> u32 {
    user().base + 998
}

/// A shell script as a user of the namespace.
fn in_namespace(uid: u32, script: &str) -> Command {
    let id = uid.to_string();
    let mut command = as_namespace_root("setpriv");
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--",
        "sh",
        "-ec",
        script,
    ]);
    command
}

/// What a directory may have before: the options of setfacl that make it, and its mode.
const BEFORE: &[(&str, u32)] = &[
    ("", 0o755),
    ("", 0o700),
    ("", 0o600),
    ("", 0o2775),
    ("-m u:7:r-x,g:8:-wx", 0o750),
    ("-m u:7:rwx,m::r-x", 0o750),
    ("-m m::---", 0o775),
    ("-m u:7:rw-,d:u:7:r-x,d:o::---", 0o755),
    ("-m d:u::rwx,d:g::---,d:o::---", 0o755),
];

fn before(scratch: &Scratch, name: &str, (options, mode): (&str, u32)) -> PathBuf {
    let path = directory(scratch, name);
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    if !options.is_empty() {
        setfacl(options, &path);
    }
    path
}

#[test]
fn the_acl_is_what_setfacl_makes() {
    let scratch = Scratch::new();
    let (base, build, older, own) = (user().base, build_uid(), build_uid_of_0_85(), user().uid);
    let default = format!("-m u:{base}:rwX -m u:{build}:rwx -m u:{older}:rwx");
    let shared = format!(
        "{default} -m d:u:{base}:rwX -m d:u:{build}:rwX -m d:u:{older}:rwX -m d:u:{own}:rwX"
    );
    for (options, like) in [
        ("", default),
        ("--parent", format!("-m u:{base}:rwX")),
        (
            "--sbuild-uid 7",
            format!("-m u:{base}:rwX -m u:{}:rwx", base + 7),
        ),
        ("--share", shared),
    ] {
        for (index, state) in BEFORE.iter().enumerate() {
            let name = format!("{}{index}", options.replace([' ', '-'], ""));
            let (ours, theirs) = (
                before(&scratch, &name, *state),
                before(&scratch, &format!("{name}.setfacl"), *state),
            );
            grant(options, &ours);
            setfacl(&like, &theirs);
            assert_eq!(
                getfacl(&ours),
                getfacl(&theirs),
                "{options} after {state:?}"
            );
            let mode = |path: &Path| fs::metadata(path).unwrap().mode();
            assert_eq!(mode(&ours), mode(&theirs), "{options} after {state:?}");
        }
    }
}

#[test]
fn files_below_get_execution_only_where_somebody_has_it() {
    let scratch = Scratch::new();
    let (base, build, older) = (user().base, build_uid(), build_uid_of_0_85());
    let cases = [
        (0o644, ""),
        (0o600, ""),
        (0o755, ""),
        (0o640, "-m g:7:r-x"),
        (0o444, ""),
        (0o640, "-m g:7:rwx,m::r--"),
    ];
    for (index, (mode, acl)) in cases.into_iter().enumerate() {
        let top = directory(&scratch, &index.to_string());
        let (ours, theirs) = (
            file(top.join("ours"), mode),
            file(scratch.join(format!("{index}.theirs")), mode),
        );
        if !acl.is_empty() {
            setfacl(acl, &ours);
            setfacl(acl, &theirs);
        }
        grant("--share", &top);
        let like = format!("-m u:{base}:rwX,u:{build}:rwX,u:{older}:rwX");
        setfacl(&like, &theirs);
        assert_eq!(getfacl(&ours), getfacl(&theirs), "{mode:o} {acl}");
    }
}

#[test]
fn a_second_run_changes_nothing_not_even_ctimes() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let below = [
        directory(&scratch, "top/sub"),
        file(top.join("a"), 0o644),
        file(top.join("sub/b"), 0o755),
    ];
    let ctimes = || -> Vec<(i64, i64)> {
        let paths = below.iter().map(PathBuf::as_path).chain([top.as_path()]);
        paths
            .map(|path| fs::metadata(path).unwrap())
            .map(|data| (data.ctime(), data.ctime_nsec()))
            .collect()
    };
    for options in ["", "--share", "--revoke --share"] {
        grant(options, &top);
        let before = ctimes();
        let said = grant(&format!("{options} --json"), &top);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["directories"][0]["changed"], 0, "{said}");
        assert_eq!(ctimes(), before, "{options}");
    }
}

#[test]
fn revoking_gives_back_the_acl_that_was_there() {
    let scratch = Scratch::new();
    // The mask is recalculated both times, so one that hid permissions does not come back.
    for (index, state) in BEFORE
        .iter()
        .filter(|(options, _)| !options.contains("m::"))
        .enumerate()
    {
        for options in ["", "--parent", "--share"] {
            let top = before(&scratch, &format!("{index}{options}"), *state);
            let inner = file(top.join("file"), 0o640);
            // What it inherited hides permissions.
            succeed(Command::new("setfacl").arg("-b").arg(&inner));
            let was = [getfacl(&top), getfacl(&inner)];
            grant(options, &top);
            assert_ne!(getfacl(&top), was[0]);
            grant(&format!("{options} --revoke"), &top);
            // A default ACL without names keeps the mask that it got.
            let now = [getfacl(&top), getfacl(&inner)].map(|text| {
                if state.0.starts_with("-m d:u::") {
                    text.replace("default:mask::---\n", "")
                } else {
                    text
                }
            });
            assert_eq!(now, was, "{options} after {state:?}");
        }
    }
}

#[test]
fn revoking_takes_only_the_entries_of_the_same_options() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    grant("", &top);
    grant("--parent --revoke", &top);
    let acl = getfacl(&top);
    assert!(
        !acl.contains(&format!("user:{}:", user().base))
            && acl.contains(&format!("user:{}:rwx", build_uid()))
    );
    let said = grant("--revoke", &scratch.join("missing"));
    assert!(
        said.contains("nothing to revoke") && !scratch.join("missing").exists(),
        "{said}"
    );
}

#[test]
fn root_and_the_build_users_of_both_versions_of_sbuild_may_write() {
    let Some(()) = require(&["mmdebstrap"]) else {
        return;
    };
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let write = |uid, name: &str| {
        in_namespace(
            uid,
            &format!("mkdir {0}/{name}; rmdir {0}/{name}", top.display()),
        )
    };
    let may = || [0, 999, 998, 997].map(|uid| run(&mut write(uid, "made")).status.success());
    assert_eq!(may(), [false, false, false, false]);
    grant("--parent", &top);
    assert_eq!(may(), [true, false, false, false]);
    let said = grant("", &top);
    assert_eq!(may(), [true, true, true, false]);
    for words in [
        "uid 999: builds of sbuild 0.89",
        "uid 998: builds of sbuild 0.85",
    ] {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn what_is_shared_is_written_and_removed_by_builds_and_caller_alike() {
    let Some(()) = require(&["mmdebstrap"]) else {
        return;
    };
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let at = top.display();
    // What was there before: the caller's, and a build's in a directory that keeps everybody out.
    fs::create_dir(top.join("mine")).unwrap();
    chown(top.join("mine"), Some(user().uid), Some(user().gid)).unwrap();
    file(top.join("mine/file"), 0o600);
    grant("", &top);
    for uid in [0, 999] {
        let script = format!(
            "umask 077; mkdir -p {at}/by{uid}/deep; echo old > {at}/by{uid}/deep/file; ln -s /etc {at}/by{uid}/link"
        );
        succeed(&mut in_namespace(uid, &script));
    }
    succeed(as_user("sh").args(["-ec", &format!("test ! -r {at}/by999")]));

    let said = grant("--share", &top);
    assert!(said.contains("ACLs changed"), "{said}");

    let append = |path: &str| format!("echo more >> {at}/{path}");
    let old = ["mine/file", "by0/deep/file", "by999/deep/file"];
    let each = |script: String| -> Vec<Command> {
        let mut own = as_user("sh");
        own.args(["-ec", &script]);
        vec![in_namespace(0, &script), in_namespace(999, &script), own]
    };
    for path in old {
        for mut command in each(append(path)) {
            succeed(&mut command);
        }
    }
    // New ones of each, in the directories of each other; then everybody removes what somebody else
    // has made.
    for (number, directory) in ["mine", "by0/deep", "by999/deep"].into_iter().enumerate() {
        for (who, mut command) in each(format!("umask 077; mkdir {at}/{directory}/$0.d"))
            .into_iter()
            .enumerate()
        {
            succeed(command.arg(format!("{number}{who}")));
        }
        for (who, mut command) in each(format!("echo x > {at}/{directory}/$0.d/f"))
            .into_iter()
            .enumerate()
        {
            succeed(command.arg(format!("{number}{}", (who + 1) % 3)));
        }
        for (who, mut command) in each(format!("rm -r {at}/{directory}/$0.d"))
            .into_iter()
            .enumerate()
        {
            succeed(command.arg(format!("{number}{}", (who + 2) % 3)));
        }
    }
    let acls: Vec<String> = old.iter().map(|path| getfacl(&top.join(path))).collect();
    grant("--share", &top);
    assert_eq!(old.map(|path| getfacl(&top.join(path))).to_vec(), acls);

    grant("--share --revoke", &top);
    let left = succeed(
        Command::new("getfacl")
            .args(["-RPs", "--numeric", "--absolute-names"])
            .arg(&top),
    );
    assert_eq!(left, "", "an ACL is left");
}

#[test]
fn only_a_link_on_the_command_line_is_followed() {
    let scratch = Scratch::new();
    let (top, other) = (directory(&scratch, "top"), directory(&scratch, "other"));
    let inner = file(other.join("file"), 0o644);
    let was = [getfacl(&other), getfacl(&inner)];
    symlink(&other, top.join("directory")).unwrap();
    symlink(&inner, top.join("file")).unwrap();
    symlink(&top, scratch.join("link")).unwrap();
    grant("--share", &scratch.join("link"));
    assert!(
        getfacl(&top).contains(&format!("user:{}:rwx", build_uid())),
        "a link on the command line is followed"
    );
    assert_eq!(
        [getfacl(&other), getfacl(&inner)],
        was,
        "links below are not"
    );
}

#[test]
fn no_mount_below_is_entered() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let (mounted, elsewhere) = (
        directory(&scratch, "top/mounted"),
        directory(&scratch, "elsewhere"),
    );
    let program = isar_as_user(["grant-acl", "--share"]);
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-ec",
            r#"mount --bind "$0" "$1"; shift; exec "$@""#,
        ])
        .arg(&elsewhere)
        .arg(&mounted);
    command
        .arg(program.get_program())
        .args(program.get_args())
        .arg(&top);
    succeed(&mut command);
    assert!(getfacl(&top).contains("default:user:"));
    assert_eq!(
        named_users(&elsewhere),
        Vec::<String>::new(),
        "a bind mount of the same file system"
    );
}

#[test]
fn missing_directories_are_made_with_the_umask() {
    let scratch = Scratch::new();
    let program = isar_as_user(["grant-acl"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"umask 027; exec "$@""#, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    succeed(command.arg(scratch.join("a/b")));
    let parent = fs::metadata(scratch.join("a")).unwrap();
    assert_eq!((parent.mode() & 0o7777, parent.uid()), (0o750, user().uid));
    assert!(getfacl(&scratch.join("a/b")).contains("group::r-x\nmask::rwx\nother::---"));
}

#[test]
fn in_layout_caller_root_is_the_caller_and_needs_no_entry() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let said = grant("--id-layout caller", &top);
    assert!(said.contains("root inside is the caller"), "{said}");
    let builds = [build_uid_of_0_85(), build_uid()].map(|uid| format!("user:{uid}:rwx"));
    assert_eq!(named_users(&top), builds);
}

#[test]
fn what_cannot_be_granted_is_said_with_its_remedy() {
    let scratch = Scratch::new();
    let plain = file(scratch.join("plain"), 0o644);
    let foreign = scratch.join("foreign");
    fs::create_dir(&foreign).unwrap();
    let on = |path: &Path| fail(2, isar_as_user(["grant-acl"]).arg(path));
    assert!(on(&plain).contains("Not a directory"));
    let error = on(&foreign);
    assert!(
        error.contains("foreign")
            && error.contains("Operation not permitted")
            && error.contains("owner"),
        "{error}"
    );
    let error = on(Path::new("/proc/self/task"));
    assert!(
        error.contains("stores no ACLs") && error.contains("remount,acl"),
        "{error}"
    );
    let error = fail(
        2,
        isar_as_user(["grant-acl", "--sbuild-uid", "70000"]).arg(scratch.path()),
    );
    assert!(
        error.contains("uid 70000") && error.contains("/etc/subuid"),
        "{error}"
    );
    // A foreign file in a shared tree: the rest is done, and the file is named.
    let top = directory(&scratch, "top");
    fs::write(top.join("a\nb"), "").unwrap();
    let after = file(top.join("z"), 0o644);
    let error = fail(2, isar_as_user(["grant-acl", "--share"]).arg(&top));
    assert!(error.contains(r"top/a\nb: change the ACL"), "{error}");
    assert!(getfacl(&after).contains(&format!("user:{}:rw-", build_uid())));
}

/// The uids that `--chroot` finds: of builds by sbuild 0.89 and by 0.85.
fn found(mut command: Command) -> (u64, u64) {
    let said: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
    let users = said["users"].as_array().unwrap();
    let of = |role: &str| {
        let has = |user: &&Value| {
            user["roles"]
                .as_array()
                .unwrap()
                .iter()
                .any(|own| own == role)
        };
        users
            .iter()
            .find(has)
            .and_then(|user| user["inside"].as_u64())
            .unwrap()
    };
    (of("sbuild-0.89"), of("sbuild-0.85"))
}

fn with_chroot(chroot: &Path, top: &Path) -> Command {
    let mut command = isar_as_user(["grant-acl", "--json", "--chroot"]);
    command.arg(chroot).arg(top);
    command
}

#[test]
fn a_real_chroot_says_its_build_users() {
    let Some(chroot) = chroot("bookworm") else {
        return;
    };
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    assert_eq!(found(with_chroot(&chroot, &top)), (999, 998));
    let acl = getfacl(&top);
    for id in [0, 998, 999] {
        assert!(
            acl.contains(&format!("user:{}:rwx", user().base + id)),
            "{acl}"
        );
    }
}

#[test]
fn a_chroot_that_only_the_namespace_may_read_is_read_there() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let (root, base) = (scratch.join("root"), user().base);
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "x:x:105:1::/:/bin/sh\n").unwrap();
    for path in [root.join("etc/passwd"), root.join("etc"), root.clone()] {
        chown(&path, Some(base), Some(base)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(found(with_chroot(&root, &top)), (104, 103));
    fs::remove_file(root.join("etc/passwd")).unwrap();
    let error = fail(2, &mut with_chroot(&root, &top));
    assert!(
        error.contains("no file etc/passwd") && error.contains("sbuild cannot build"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_archive_says_the_build_users_of_its_last_passwd() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let (tree, archive) = (scratch.join("tree"), scratch.join("chroot.tar.zst"));
    fs::create_dir_all(tree.join("etc")).unwrap();
    let pack = |passwd: &str, options: &str| {
        fs::write(tree.join("etc/passwd"), passwd).unwrap();
        let tar = scratch.join("chroot.tar");
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&tree)
                .arg(options)
                .arg(&tar)
                .arg("./etc/passwd"),
        );
        succeed(
            Command::new("zstd")
                .args(["-q", "-f"])
                .arg(&tar)
                .arg("-o")
                .arg(&archive),
        );
    };
    pack("x:x:105:1::/:/bin/sh\n", "-cf");
    assert_eq!(found(with_chroot(&archive, &top)), (104, 103));
    pack("x:x:205:1::/:/bin/sh\n", "-rf");
    assert_eq!(found(with_chroot(&archive, &top)), (204, 203));
    fs::write(&archive, "no archive").unwrap();
    let error = fail(2, &mut with_chroot(&archive, &top));
    assert!(error.contains("chroot.tar.zst"), "{error}");
}

#[test]
fn the_uids_are_those_that_sbuild_has_useradd_make() {
    let Some(()) = require(&["useradd", "groupadd"]) else {
        return;
    };
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    let usual = "root:x:0:0::/:/bin/sh\n_apt:x:42:65534::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    for (number, (users, login_defs)) in [
        ("", ""),
        ("a:x:999:1::/:/bin/sh\n", ""),
        ("a:x:998:1::/:/bin/sh\n", ""),
        ("a:x:105:1::/:/bin/sh\n", ""),
        ("a:x:102:1::/:/bin/sh\n", ""),
        ("a:x:101:1::/:/bin/sh\nb:x:999:1::/:/bin/sh\n", ""),
        ("sbuild:x:120:1::/:/bin/sh\n", ""),
        ("sbuild:x:2000:1::/:/bin/sh\n", ""),
        ("isar-test:x:1000:1::/:/bin/sh\n", ""),
        ("", "SYS_UID_MAX 500\n"),
        ("", "SYS_UID_MAX\t500\nSYS_UID_MAX 400\n"),
        ("", "UID_MIN 500\n"),
        (
            "a:x:400:1::/:/bin/sh\n",
            "SYS_UID_MIN 400\nSYS_UID_MAX 500\n",
        ),
        ("", "SYS_UID_MAX \"0x1F0\" junk\nSYS_UID_MIN 0200\n"),
        ("", "SYS_UID_MAX 500 # see below\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let root = scratch.join(format!("root{number}"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), format!("{usual}{users}")).unwrap();
        fs::write(root.join("etc/login.defs"), login_defs).unwrap();
        for name in ["group", "shadow", "gshadow"] {
            fs::write(root.join("etc").join(name), "").unwrap();
        }
        let found = found(with_chroot(&root, &top));
        assert_eq!(found, made_by_sbuild(&root), "{users:?} {login_defs:?}");
    }
}

/// What `basesetup` of `Sbuild/ChrootSetup.pm` does: the users `sbuild` and the caller, where the
/// chroot has none of the name.
fn made_by_sbuild(root: &Path) -> (u64, u64) {
    let passwd = || fs::read_to_string(root.join("etc/passwd")).unwrap();
    let uid = |name: &str| {
        let passwd = passwd();
        let line = passwd
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:x:")));
        line.map(|rest| rest.split(':').next().unwrap().parse().unwrap())
    };
    succeed(
        Command::new("groupadd")
            .arg("--prefix")
            .arg(root)
            .args(["--system", "sbuild"]),
    );
    let ids = ["sbuild", "isar-test"].map(|name| {
        if uid(name).is_none() {
            let mut command = Command::new("useradd");
            command
                .arg("--no-log-init")
                .arg("--prefix")
                .arg(root)
                .args(["--system", "--home-dir", "/nonexistent"]);
            command.args([
                "--no-create-home",
                "--shell",
                "/bin/bash",
                "--gid",
                "sbuild",
                name,
            ]);
            succeed(&mut command);
        }
        uid(name).unwrap()
    });
    ids.into()
}

#[test]
fn root_grants_on_behalf_of_a_user() {
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    succeed(isar(["--userns", "isar-test", "grant-acl", "--share"]).arg(&top));
    let acl = getfacl(&top);
    assert!(
        acl.contains(&format!("\nuser:{}:rwx\n", build_uid())),
        "{acl}"
    );
    assert!(
        acl.contains(&format!("default:user:{}:rwx", user().uid)),
        "{acl}"
    );
}

#[test]
fn root_opens_no_directory_to_accounts_of_the_machine() {
    if fs::read_to_string("/proc/self/uid_map")
        .unwrap()
        .split_whitespace()
        .last()
        != Some("4294967295")
    {
        crate::world::skip::<()>(
            "the tests run in a user namespace, whose root has no such accounts",
        );
        return;
    }
    let scratch = Scratch::new();
    let top = directory(&scratch, "top");
    fs::create_dir(scratch.join("chroot")).unwrap();
    let without: [&[&str]; 5] = [
        &[],
        &["--share"],
        &["--parent"],
        &["--revoke"],
        &["--chroot", "chroot"],
    ];
    for options in without {
        let mut command = isar(["grant-acl"]);
        command.current_dir(scratch.path()).args(options).arg(&top);
        let said = fail(2, &mut command);
        assert!(
            said.contains("--userns") && said.contains("accounts of this machine"),
            "{said}"
        );
    }
    // Neither as an ordinary user who turns the namespace off.
    let off = ["--userns", "off", "grant-acl"];
    assert!(fail(2, isar_as_user(off).arg(&top)).contains("accounts of this machine"));
    assert_eq!(named_users(&top), Vec::<String>::new());
    succeed(isar(["grant-acl", "--sbuild-uid", "77"]).arg(&top));
    assert_eq!(named_users(&top), ["user:0:rwx", "user:77:rwx"]);
}
