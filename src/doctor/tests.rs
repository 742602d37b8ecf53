#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::PermissionsExt;

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
        getsubids: "/no/getsubids".into(),
        uid_map: dir.join("id_map"),
        gid_map: dir.join("id_map"),
    };
    fs::write(&source.subuid, "anna:100000:65536\n").unwrap();
    fs::write(&source.subgid, "anna:100000:65536\n").unwrap();
    fs::write(&source.uid_map, "0 0 4294967295\n").unwrap();
    Machine {
        sysctls: dir.join("sys"),
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
        assert!(!is_root || faults.len() == 1, "{faults:?}");
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
fn root_needs_no_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine {
        account: None,
        search: Vec::new(),
        ..machine(dir.path())
    };
    let names: Vec<_> = examine(&machine)
        .into_iter()
        .map(|finding| finding.name)
        .collect();
    assert_eq!(
        names,
        ["user-namespace", "nosuid", "sbuild", "ip", "mmdebstrap"]
    );
}

#[test]
fn setuid_files_of_the_callers_layout_are_warned_of_where_others_get() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine {
        layout: Layout::Caller,
        ..machine(dir.path())
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(
        faults(&machine)
            .iter()
            .any(|fault| fault.starts_with("setuid-to-caller: "))
    );
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(
        !faults(&machine)
            .iter()
            .any(|fault| fault.starts_with("setuid-to-caller: "))
    );
}
