#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::*;

/// A machine of files below `dir`, where all is well.
fn machine(dir: &Path) -> Machine {
    for sub in ["sys/kernel", "sys/user", "bin", "tree"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::write(dir.join("sys/kernel/unprivileged_userns_clone"), "1\n").unwrap();
    fs::write(
        dir.join("sys/kernel/apparmor_restrict_unprivileged_userns"),
        "0\n",
    )
    .unwrap();
    fs::write(dir.join("sys/user/max_user_namespaces"), "1000\n").unwrap();
    fs::write(dir.join("sys/user/max_mnt_namespaces"), "1000\n").unwrap();
    fs::write(dir.join("sys/user/max_pid_namespaces"), "1000\n").unwrap();
    // Other users do not get to the tree.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    let programs = ["sbuild", "ip", "mmdebstrap"].map(|name| (name, 0o755));
    for (program, mode) in [("newuidmap", 0o4755), ("newgidmap", 0o4755)]
        .into_iter()
        .chain(programs)
    {
        fs::write(dir.join("bin").join(program), "").unwrap();
        fs::set_permissions(
            dir.join("bin").join(program),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
    }
    let source = SubidFiles {
        subuid: dir.join("subuid"),
        subgid: dir.join("subgid"),
        nsswitch: dir.join("nsswitch.conf"),
        getsubids: "/no/getsubids".into(),
        uid_map: dir.join("id_map"),
        gid_map: dir.join("id_map"),
    };
    fs::write(&source.subuid, "anna:100000:65536\n").unwrap();
    fs::write(&source.subgid, "anna:100000:65536\n").unwrap();
    fs::write(&source.uid_map, "0 0 4294967295\n").unwrap();
    Machine {
        sysctls: dir.join("sys"),
        lacks_admin: false,
        search: vec![dir.join("bin")],
        source,
        account: Some(Account {
            name: Some("anna".into()),
            uid: 1000,
            gid: 1000,
        }),
        layout: Layout::Subid,
        dir: dir.join("tree"),
    }
}

/// The findings that are not good, as `name: found: remedy`.
fn faults(machine: &Machine) -> Vec<String> {
    let findings = examine(machine);
    assert!(
        findings
            .iter()
            .all(|finding| (finding.state == State::Good) == finding.remedy.is_none())
    );
    let bad = findings
        .into_iter()
        .filter(|finding| finding.state != State::Good);
    bad.map(|finding| {
        format!(
            "{}: {}: {}",
            finding.name,
            finding.found,
            finding.remedy.unwrap()
        )
    })
    .collect()
}

#[test]
fn each_fault_is_found_with_its_remedy_and_nothing_else_is() {
    let is_root = rustix::process::geteuid().is_root();
    type Break = fn(&Path, &mut Machine);
    let cases: &[(Break, &str, &str)] = &[
        (
            |dir, _| fs::remove_file(dir.join("bin/newuidmap")).unwrap(),
            "newuidmap: not found",
            "package uidmap",
        ),
        (
            |dir, _| fs::remove_file(dir.join("bin/newgidmap")).unwrap(),
            "newgidmap: not found",
            "package uidmap",
        ),
        (
            |dir, _| {
                fs::set_permissions(dir.join("bin/newuidmap"), fs::Permissions::from_mode(0o755))
                    .unwrap()
            },
            "is neither setuid root nor has file capabilities",
            "chmod u+s",
        ),
        (
            |dir, _| fs::write(dir.join("sys/user/max_user_namespaces"), "0\n").unwrap(),
            "user.max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=15000",
        ),
        (
            |dir, _| fs::write(dir.join("sys/user/max_mnt_namespaces"), "0\n").unwrap(),
            "user.max_mnt_namespaces is 0",
            "sysctl -w user.max_mnt_namespaces=15000",
        ),
        (
            |dir, _| fs::write(dir.join("sys/user/max_pid_namespaces"), "0\n").unwrap(),
            "user.max_pid_namespaces is 0",
            "sysctl -w user.max_pid_namespaces=15000",
        ),
        (
            |dir, _| fs::write(dir.join("sys/kernel/unprivileged_userns_clone"), "0\n").unwrap(),
            "kernel.unprivileged_userns_clone is 0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            |dir, _| {
                fs::write(
                    dir.join("sys/kernel/apparmor_restrict_unprivileged_userns"),
                    "1\n",
                )
                .unwrap()
            },
            "apparmor: kernel.apparmor_restrict_unprivileged_userns is set",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            |dir, _| fs::write(dir.join("subuid"), "").unwrap(),
            "anna has no subordinate user ids",
            "usermod --add-subuids 165536-231071",
        ),
        (
            |dir, _| fs::write(dir.join("subgid"), "anna:100000:65000\n").unwrap(),
            "subordinate-gids: anna has 100000:65000: fewer than 65536",
            "usermod --add-subgids",
        ),
        (
            |dir, _| fs::write(dir.join("subuid"), "anna:0:65536\n").unwrap(),
            "begins with 0",
            "give the user a range above all ordinary ids",
        ),
        (
            |dir, _| fs::write(dir.join("subuid"), "anna:0:4294967295\n").unwrap(),
            "anna has 0:4294967295, of which 100000:65536 can be used here",
            "write anna:100000:65536 in its place",
        ),
        (
            |dir, _| fs::write(dir.join("nsswitch.conf"), "subid: sss\n").unwrap(),
            "come from the service sss",
            "package uidmap",
        ),
        // A container with a map of 65536 ids.
        (
            |dir, _| {
                for (file, text) in [
                    ("id_map", "0 1000 1\n1 100000 65536\n"),
                    ("subuid", "anna:1501:64036\nanna:100000:65536\n"),
                    ("subgid", "anna:1:999\nanna:1001:64536\n"),
                ] {
                    fs::write(dir.join(file), text).unwrap();
                }
            },
            "anna has 1501:64036, 100000:65536, of which 1501:64036 can be used here: fewer",
            "on the host, give the user who starts the container",
        ),
        (
            |dir, _| fs::write(dir.join("subuid"), "anna:100000:65536\nanna:x\n").unwrap(),
            "line 2 is skipped",
            "correct the line",
        ),
        (
            |dir, _| fs::remove_file(dir.join("bin/sbuild")).unwrap(),
            "sbuild: not found",
            "package sbuild",
        ),
        (
            |dir, _| fs::remove_file(dir.join("bin/ip")).unwrap(),
            "ip: not found",
            "package iproute2",
        ),
        (
            |dir, _| fs::remove_file(dir.join("bin/mmdebstrap")).unwrap(),
            "mmdebstrap: not found",
            "package mmdebstrap",
        ),
        (
            |_, machine| machine.dir = "/proc".into(),
            "nosuid: /proc lies on a mount with nosuid",
            "remount,suid",
        ),
        (
            |_, machine| machine.dir = "/no/such".into(),
            "/no/such: No such file",
            "use an existing directory",
        ),
    ];
    for (damage, found, remedy) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = machine(dir.path());
        if is_root {
            assert_eq!(faults(&machine), Vec::<String>::new());
        }
        damage(dir.path(), &mut machine);
        // This machine may mount /proc without nosuid; then there is nothing to find.
        if machine.dir == Path::new("/proc")
            && !statvfs("/proc")
                .unwrap()
                .f_flag
                .contains(StatVfsMountFlags::NOSUID)
        {
            continue;
        }
        let faults = faults(&machine);
        assert!(
            faults
                .iter()
                .any(|fault| fault.contains(found) && fault.contains(remedy)),
            "{found}: {faults:?}"
        );
        // The container lacks ids of both kinds.
        let count = 1 + usize::from(found.contains("1501:64036"));
        assert!(!is_root || faults.len() == count, "{faults:?}");
    }
}

#[test]
fn two_ids_leave_nobody_unmapped() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(dir.path());
    fs::write(dir.path().join("subuid"), "anna:100000:2\n").unwrap();
    assert!(
        faults(&machine)
            .iter()
            .any(|fault| fault.starts_with("nobody: the map of user ids has no 65534"))
    );
}

#[test]
fn root_needs_no_user_namespace_but_the_right_to_mount() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine {
        account: None,
        search: Vec::new(),
        ..machine(dir.path())
    };
    let names: Vec<_> = examine(&machine)
        .into_iter()
        .map(|finding| finding.name)
        .collect();
    let programs = ["sbuild", "ip", "mmdebstrap"];
    let others = [
        "sysctls",
        "user-namespace",
        "nosuid",
        "noexec",
        "architectures",
    ];
    assert_eq!(names, [&others[..], &programs].concat());
    machine.lacks_admin = true;
    let faults = faults(&machine);
    assert!(
        faults.iter().any(
            |fault| fault.starts_with("user-namespace: root lacks CAP_SYS_ADMIN")
                && fault.contains("--cap-add=SYS_ADMIN")
        ),
        "{faults:?}"
    );
}

#[test]
fn setuid_files_are_warned_of_where_other_users_get() {
    for (layout, owner) in [
        (Layout::Caller, "as anna "),
        (Layout::Subid, "as root of anna's"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine {
            layout,
            ..machine(dir.path())
        };
        let warned = || {
            let faults = faults(&machine);
            faults
                .iter()
                .any(|fault| fault.starts_with("setuid: ") && fault.contains(owner))
        };
        assert!(!warned());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(warned());
    }
}
