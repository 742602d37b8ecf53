#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A machine with files in `dir`, and `getsubids` as the script of its getsubids.
fn machine(dir: &Path, subuid: Option<&str>, subgid: Option<&str>, getsubids: &str) -> SubidFiles {
    let source = SubidFiles {
        subuid: dir.join("subuid"),
        subgid: dir.join("subgid"),
        nsswitch: dir.join("nsswitch.conf"),
        getsubids: dir.join("getsubids").into(),
        uid_map: dir.join("uid_map"),
        gid_map: dir.join("gid_map"),
    };
    let files = [(&source.subuid, subuid), (&source.subgid, subgid)];
    for (path, text) in files {
        if let Some(text) = text {
            fs::write(path, text).unwrap();
        }
    }
    fs::write(&source.uid_map, "0 0 4294967295\n").unwrap();
    fs::write(&source.gid_map, "0 0 4294967295\n").unwrap();
    fs::write(&source.getsubids, format!("#!/bin/sh\n{getsubids}\n")).unwrap();
    fs::set_permissions(&source.getsubids, fs::Permissions::from_mode(0o755)).unwrap();
    source
}

const SCRIPT: &str = "case \"$*\" in '-g anna') echo '0: anna 300000 10';; anna) echo '0: anna 250000 20';; *) exit 1;; esac";

#[test]
fn the_service_of_nsswitch_is_asked_instead_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = "anna:200000:20\nbroken\n";
    let source = machine(dir.path(), Some(files), Some(files), SCRIPT);
    let read = || source.ranges(&Account::anna()).unwrap();
    let in_files = Range {
        base: 200_000,
        count: 20,
    };
    // Nothing but the files counts without a service.
    for nsswitch in [None, Some("subid: files\n")] {
        if let Some(text) = nsswitch {
            fs::write(&source.nsswitch, text).unwrap();
        }
        let ranges = read();
        assert_eq!((ranges.uids, ranges.gids), (vec![in_files], vec![in_files]));
        let warnings: Vec<_> = ranges.passed_over.iter().map(ToString::to_string).collect();
        let skipped = "line 2 is skipped: not of the form NAME:BASE:COUNT";
        assert!(
            warnings.len() == 2 && warnings[0].ends_with(skipped),
            "{warnings:?}"
        );
    }
    fs::write(&source.nsswitch, "subid: sss\n").unwrap();
    let ranges = read();
    assert_eq!(
        (ranges.uids[0].base, ranges.gids[0].base),
        (250_000, 300_000)
    );
    assert_eq!(
        (ranges.passed_over.len(), ranges.service.as_deref()),
        (0, Some("sss"))
    );

    // newuidmap reads the files where it cannot load the module of the service.
    let script = "#!/bin/sh\necho 'Error opening libsubid_sss.so: none\nUsing files' >&2; exit 1\n";
    let asks = fs::read(&source.getsubids).unwrap();
    fs::write(&source.getsubids, script).unwrap();
    let ranges = read();
    assert_eq!((ranges.uids, ranges.service), (vec![in_files], None));
    fs::write(&source.getsubids, asks).unwrap();

    let other = Account {
        name: Some("bert".into()),
        ..Account::anna()
    };
    let message = source.ranges(&other).unwrap_err().to_string();
    assert!(
        message.starts_with("bert has no subordinate user ids in the service sss"),
        "{message}"
    );
    fs::remove_file(&source.getsubids).unwrap();
    let message = source.ranges(&other).unwrap_err().to_string();
    assert!(
        message.contains("service sss") && message.contains("package uidmap"),
        "{message}"
    );
}

#[test]
fn a_user_without_a_name_learns_that_newuidmap_never_works_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let line = Some("anna:100000:65536\n4321:100000:65536\n");
    let source = machine(dir.path(), line, line, "exit 1");
    let nameless = Account {
        name: None,
        uid: 4321,
        gid: 1,
    };
    let message = source.ranges(&nameless).unwrap_err().to_string();
    assert!(
        message.starts_with("uid 4321 has no entry in the user database"),
        "{message}"
    );
}

#[test]
fn lines_of_another_name_with_the_same_uid_count_if_there_are_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let source = machine(
        dir.path(),
        Some("root:5000:7\n"),
        Some("root:5000:7\nbert:1:1\nanna:9000:7\n"),
        "exit 1",
    );
    let toor = Account {
        uid: 0,
        ..Account::anna()
    };
    let ranges = source.ranges(&toor).unwrap();
    assert_eq!((ranges.uids[0].base, ranges.gids[0].base), (5000, 9000));
}

#[test]
fn a_user_without_ranges_learns_how_to_get_some() {
    let dir = tempfile::tempdir().unwrap();
    let source = machine(dir.path(), Some("bert:1:1\n"), Some("anna:1:1\n"), "exit 1");
    let message = source.ranges(&Account::anna()).unwrap_err().to_string();
    assert!(
        message.starts_with("anna has no subordinate user ids in "),
        "{message}"
    );
    assert!(
        message.contains("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 anna"),
        "{message}"
    );
    // The line that has the ids may be a broken one.
    fs::write(&source.subuid, "anna:100000:65536\r\n").unwrap();
    let message = source.ranges(&Account::anna()).unwrap_err().to_string();
    assert!(
        message.contains("line 1 is skipped: the count has a blank or a carriage return")
            && message.contains(": correct the line, or as root, run `usermod"),
        "{message}"
    );
    // A container whose map ends before those.
    fs::write(&source.uid_map, "0 1 65536\n").unwrap();
    let message = source.ranges(&Account::anna()).unwrap_err().to_string();
    assert!(
        message.contains("on the host, give the user who starts the container"),
        "{message}"
    );
    // Ids of other users are not offered, in whichever of the files they are.
    for (subuid, subgid, first) in [
        (
            "bert:100000:65536\ncarl:165536:65536\n",
            "bert:100000:65536\n",
            231_072,
        ),
        ("bert:100000:65536\n", "carl:500000:100\nbroken\n", 500_100),
        ("bert:4294900000:60000\n", "", 100_000),
    ] {
        let source = machine(dir.path(), Some(subuid), Some(subgid), "exit 1");
        let free = Range {
            base: first,
            count: 65536,
        };
        assert_eq!(source.free(), Some(free), "{subuid}");
        let message = source.ranges(&Account::anna()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("--add-subuids {first}-{} ", first + 65535)),
            "{message}"
        );
    }
}

#[test]
fn an_unreadable_file_is_an_error_and_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = SubidFiles {
        subuid: dir.path().into(),
        ..machine(dir.path(), None, None, "exit 1")
    };
    assert!(matches!(
        source.ranges(&Account::anna()),
        Err(SourceError::File(_))
    ));
}

#[test]
fn maps_tell_uids_from_gids() {
    let dir = tempfile::tempdir().unwrap();
    let source = machine(
        dir.path(),
        Some("anna:100000:65536\n"),
        Some("anna:200000:1000\n"),
        "exit 1",
    );
    let ranges = source.ranges(&Account::anna()).unwrap();
    let maps = source
        .maps(Layout::Subid, &Account::anna(), &ranges)
        .unwrap();
    assert_eq!(maps.uids.kernel_text(), "0 100000 65536\n");
    assert_eq!(maps.gids.kernel_text(), "0 200000 998\n65534 200998 1\n");
    let gid_in_range = Account {
        gid: 200_005,
        ..Account::anna()
    };
    let message = source
        .maps(Layout::Subid, &gid_in_range, &ranges)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with(
            "the subordinate group ids of anna: the range 200000:1000 contains 200005"
        ),
        "{message}"
    );
}

#[test]
fn without_proc_there_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = machine(
        dir.path(),
        Some("anna:100000:65536\n"),
        Some("anna:100000:65536\n"),
        "exit 1",
    );
    fs::remove_file(&source.uid_map).unwrap();
    let ranges = source.ranges(&Account::anna()).unwrap();
    let message = source
        .maps(Layout::Subid, &Account::anna(), &ranges)
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with("uid_map: read: No such file or directory"),
        "{message}"
    );
}
