//! `imager --cache`: one copy for many runs, and packages in a real chroot.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::imager::{BORROWED, eventually, pack_small, signal, start, traces};
use crate::world::{self, Mounted, Scratch, as_user, isar_as_user, names, run, succeed, text};

struct Bench {
    scratch: Scratch,
}

impl Bench {
    /// With an archive that the cache may rely on not being written to any more.
    fn new(files: usize) -> Bench {
        let scratch = Scratch::new();
        pack_small(&scratch, "a.tar", files);
        std::thread::sleep(Duration::from_secs(3));
        Bench { scratch }
    }

    fn imager(&self, options: &[&str], archive: &str, script: &str) -> Command {
        let mut imager = isar_as_user(["-v", "imager", "--cache", "cache"]);
        imager
            .args(BORROWED)
            .args(options)
            .args([archive, "--", "sh", "-ec", script]);
        imager.current_dir(self.scratch.path());
        imager
    }

    /// What a successful run says on stderr.
    fn said(&self, options: &[&str], archive: &str, script: &str) -> String {
        let output = run(&mut self.imager(options, archive, script));
        assert!(output.status.success());
        text(&output.stderr)
    }

    /// The only directory in the cache.
    fn area(&self) -> PathBuf {
        let areas = names(&self.scratch.join("cache"));
        assert_eq!(areas.len(), 1, "{areas:?}");
        self.scratch.join("cache").join(&areas[0])
    }

    /// The inode of a file in each copy, by what is in it.
    fn copies(&self) -> HashMap<String, u64> {
        let copies = self.area().join("copies");
        let of = |name: &String| {
            let file = copies.join(name).join("tree/data/name");
            (
                fs::read_to_string(&file).unwrap(),
                fs::metadata(&file).unwrap().ino(),
            )
        };
        names(&copies).iter().map(of).collect()
    }

    fn index(&self) -> String {
        fs::read_to_string(self.area().join("index")).unwrap_or_default()
    }

    fn has_no_runs(&self) -> bool {
        names(&self.area().join("runs")).is_empty()
    }
}

#[test]
fn an_archive_is_unpacked_once_and_no_run_sees_what_another_has_written() {
    let bench = Bench::new(10);
    assert!(
        bench
            .said(
                &[],
                "a.tar",
                "rm /data/1; echo x >/data/2; touch /new; chmod 700 /data"
            )
            .contains("unpacked into")
    );
    let (copies, index) = (bench.copies(), bench.index());
    assert_eq!((copies.len(), index.lines().count()), (1, 1));
    let script = "[ ! -e /new ]; cmp /data/1 /data/1; [ $(cat /data/2 | wc -c) = 100 ]; stat -c %u:%g:%a / /data; [ -f /etc/resolv.conf ]";
    let output = run(&mut bench.imager(&[], "a.tar", script));
    assert_eq!(text(&output.stdout), "0:0:755\n0:0:755\n");
    assert!(text(&output.stderr).contains("the copy in the cache is used"));
    assert_eq!((bench.copies(), bench.index()), (copies, index));
    assert!(bench.has_no_runs() && traces(bench.scratch.path()).is_empty());
}

#[test]
fn a_copy_is_compared_packed_and_exported_like_any_tree() {
    let bench = Bench::new(3);
    bench.said(&[], "a.tar", "true");
    let copies = bench.area().join("copies");
    let tree = copies.join(&names(&copies)[0]).join("tree");
    let tree = tree.to_str().unwrap();
    // Only root of the namespace may enter the directories above it.
    assert!(!run(as_user("test").arg("-d").arg(tree)).status.success());
    for args in [
        &["diff", tree, "a.tar"][..],
        &["diff", "a.tar", tree],
        &["diff", tree, tree],
        &["pack", tree, "b.tar"],
        &["diff", "a.tar", "b.tar"],
        &["export", tree, "data/name", "exported"],
    ] {
        succeed(isar_as_user(args).current_dir(bench.scratch.path()));
    }
    assert_eq!(
        fs::read_to_string(bench.scratch.join("exported")).unwrap(),
        "a.tar"
    );
    let nothing = copies.join("nothing");
    let args = ["diff", nothing.to_str().unwrap(), "a.tar"];
    let said = world::fail(2, isar_as_user(args).current_dir(bench.scratch.path()));
    assert!(said.contains("open: Permission denied"), "{said}");
}

#[test]
fn a_touched_archive_is_hashed_again_and_a_changed_one_is_another() {
    let bench = Bench::new(1);
    bench.said(&[], "a.tar", "true");
    let (copies, index) = (bench.copies(), bench.index());
    fs::File::open(bench.scratch.join("a.tar"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    // Right after a change nobody can tell whether another one follows, so that is not relied upon
    // yet.
    assert!(
        bench
            .said(&[], "a.tar", "true")
            .contains("the copy in the cache is used")
    );
    assert_eq!(
        (bench.copies(), bench.index()),
        (copies.clone(), index.clone())
    );
    std::thread::sleep(Duration::from_secs(3));
    bench.said(&[], "a.tar", "true");
    let later = bench.index();
    assert_eq!((bench.copies(), later.lines().count()), (copies.clone(), 1));
    assert!(
        later != index && later.ends_with(&index[index.len() - 65..]),
        "{index}{later}"
    );

    // The same bytes elsewhere.
    fs::copy(bench.scratch.join("a.tar"), bench.scratch.join("again.tar")).unwrap();
    assert!(
        bench
            .said(&[], "again.tar", "true")
            .contains("the copy in the cache is used")
    );
    assert_eq!(bench.copies(), copies);

    // Other bytes of the same length in the same file, with the time set back.
    let mut bytes = fs::read(bench.scratch.join("a.tar")).unwrap();
    let place = bytes
        .windows(5)
        .position(|window| window == b"a.tar")
        .unwrap();
    bytes[place] = b'b';
    fs::write(bench.scratch.join("a.tar"), bytes).unwrap();
    fs::File::open(bench.scratch.join("a.tar"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    bench.said(&[], "a.tar", "[ $(cat /data/name) = b.tar ]");
    assert_eq!(bench.copies().len(), 2);
}

#[test]
fn the_limit_removes_what_no_run_uses_and_was_not_used_for_the_longest_time() {
    let bench = Bench::new(5);
    for name in ["b.tar", "c.tar"] {
        pack_small(&bench.scratch, name, 5);
    }
    for archive in ["a.tar", "b.tar"] {
        bench.said(&[], archive, "true");
    }
    let mut user = start(
        bench
            .imager(&[], "a.tar", "echo ready; read line; cat /data/name")
            .stdin(Stdio::piped()),
    );
    // Used before b, but in use.
    bench.said(&["--cache-limit", "1M"], "c.tar", "true");
    assert_eq!(bench.copies().len(), 3);
    bench.said(
        &["--cache-limit", "none", "--cache-copies", "1"],
        "c.tar",
        "true",
    );
    let mut left: Vec<_> = bench.copies().into_keys().collect();
    left.sort();
    assert_eq!(left, ["a.tar", "c.tar"]);
    drop(user.stdin.take());
    assert!(!user.wait().unwrap().success(), "read finds the end");
    bench.said(&[], "a.tar", "true");
    bench.said(
        &["--cache-limit", "1"],
        "a.tar",
        "[ $(cat /data/name) = a.tar ]",
    );
    assert_eq!(bench.copies().into_keys().collect::<Vec<_>>(), ["a.tar"]);
    assert!(bench.has_no_runs());
}

#[test]
fn copies_are_listed_with_their_holders_and_removed_unless_in_use() {
    let bench = Bench::new(5);
    pack_small(&bench.scratch, "b.tar", 5);
    for archive in ["a.tar", "b.tar"] {
        bench.said(&["--cache-copies", "none"], archive, "true");
    }
    let cache = |words: &[&str]| {
        let mut command = isar_as_user(["cache"]);
        command.args(words).current_dir(bench.scratch.path());
        let output = run(&mut command);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output
    };
    let listed =
        |words: &[&str]| -> Value { serde_json::from_slice(&cache(words).stdout).unwrap() };
    let mut user = start(
        bench
            .imager(&[], "a.tar", "echo ready; read line")
            .stdin(Stdio::piped()),
    );
    let copies = listed(&["list", "--json", "cache"]);
    let copies = copies["copies"].as_array().unwrap();
    // The one that is in use was used last.
    assert_eq!(
        copies
            .iter()
            .map(|copy| &copy["in_use"])
            .collect::<Vec<_>>(),
        [false, true]
    );
    assert!(
        copies
            .iter()
            .all(|copy| copy["xattrs"] == true && copy["bytes"].as_u64() > Some(0))
    );
    let holders = copies[1]["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 1, "{holders:?}");
    let holder = fs::read_link(format!("/proc/{}/exe", holders[0])).unwrap();
    assert_eq!(holder, fs::canonicalize(world::program()).unwrap());
    let lines = text(&cache(&["list", "cache"]).stdout);
    assert_eq!(lines.lines().count(), 2);
    assert!(
        lines.ends_with(&format!("  in use by {}\n", holders[0])),
        "{lines}"
    );
    // Another id map has no copies here.
    let other = listed(&["--id-layout", "caller", "list", "--json", "cache"]);
    assert_eq!(other["copies"], serde_json::json!([]));

    let removed = listed(&["prune", "--json", "cache"]);
    assert_eq!(removed["copies"].as_array().unwrap().len(), 1);
    assert_eq!(bench.copies().into_keys().collect::<Vec<_>>(), ["a.tar"]);
    drop(user.stdin.take());
    assert!(!user.wait().unwrap().success(), "read finds the end");

    bench.said(&[], "b.tar", "true");
    cache(&["prune", "--archive", "a.tar", "cache"]);
    assert_eq!(bench.copies().into_keys().collect::<Vec<_>>(), ["b.tar"]);
    bench.said(&[], "a.tar", "true");
    cache(&["prune", "--copies", "1", "cache"]);
    assert_eq!(bench.copies().into_keys().collect::<Vec<_>>(), ["a.tar"]);
    assert!(bench.has_no_runs());
    world::fail(
        2,
        isar_as_user(["cache", "list", "missing"]).current_dir(bench.scratch.path()),
    );
}

#[test]
fn without_an_overlay_each_run_has_a_tree_of_its_own_and_it_is_said() {
    let bench = Bench::new(5);
    for directory in ["lower", "upper", "work", "over"] {
        bench.scratch.user_dir(directory, 0o755);
    }
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        bench.scratch.path().display()
    );
    let over = bench.scratch.join("over");
    let _mounted = Mounted::new(["-t", "overlay", "-o", &options, "none"], &over);
    std::os::unix::fs::chown(&over, Some(world::user().uid), Some(world::user().gid)).unwrap();
    for _ in 0..2 {
        let mut imager = isar_as_user(["imager", "--cache", "over/cache"]);
        imager
            .args(BORROWED)
            .args(["a.tar", "--", "sh", "-ec", "rm /data/1; cat /data/name"]);
        let output = run(imager.current_dir(bench.scratch.path()));
        assert_eq!(text(&output.stdout), "a.tar");
        assert!(text(&output.stderr).contains("no overlay can be mounted in \"over/cache\""));
    }
    let area = over.join("cache").join(&names(&over.join("cache"))[0]);
    assert!(names(&area.join("runs")).is_empty() && names(&area.join("copies")).is_empty());
}

#[test]
fn a_stopped_run_leaves_nothing_but_the_copy() {
    let bench = Bench::new(5);
    let mut child =
        start(&mut bench.imager(&[], "a.tar", "touch /made; echo ready; exec sleep 60"));
    assert!(!bench.has_no_runs());
    signal(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(bench.has_no_runs() && traces(bench.scratch.path()).is_empty());
}

#[test]
fn twenty_runs_at_once_of_which_a_third_is_killed_at_any_moment() {
    let bench = Bench::new(2000);
    let script = "[ $(ls /data | wc -l) = 2001 ]; echo $$ >/data/name; for n in 1 2 3; do cat /data/7 /data/1999 >/dev/null; done; sleep 0.2; echo right";
    let mut runs = Vec::new();
    for number in 0..20_u64 {
        let child = bench
            .imager(&[], "a.tar", script)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        runs.push((number, child));
    }
    // Some while they hash and unpack, some while they wait for that, some with their command.
    let killed = |number: u64| number.is_multiple_of(3);
    for (number, child) in runs.iter_mut().filter(|(number, _)| killed(*number)) {
        std::thread::sleep(Duration::from_millis(*number * 17 % 90));
        child.kill().unwrap();
    }
    for (number, child) in runs {
        let output = child.wait_with_output().unwrap();
        if !killed(number) {
            assert_eq!(
                (text(&output.stdout), output.status.code()),
                ("right\n".to_owned(), Some(0)),
                "run {number}"
            );
        }
    }
    eventually("no process is left", || {
        traces(bench.scratch.path()).is_empty()
    });
    bench.said(&[], "a.tar", "[ $(cat /data/name) = a.tar ]");
    assert_eq!(bench.copies().len(), 1);
    assert!(
        bench.has_no_runs(),
        "{:?}",
        names(&bench.area().join("runs"))
    );
    assert_eq!(names(&bench.area()), ["copies", "index", "runs"]);
    assert!(traces(bench.scratch.path()).is_empty());
}

/// A real chroot, packed once for all tests here.
fn packed() -> Option<&'static PathBuf> {
    static PACKED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = PACKED.get_or_init(|| {
        let chroot = world::chroot("bookworm")?;
        let place = chroot.with_file_name(format!("imager-{}.tar", std::process::id()));
        succeed(isar_as_user(["pack"]).arg(chroot).arg(&place));
        crate::chroot::clean_up_at_exit(&place);
        Some(place)
    });
    made.as_ref()
}

#[test]
fn packages_with_file_capabilities_are_installed_with_root_and_with_cache() {
    let Some(archive) = packed() else { return };
    let scratch = Scratch::new();
    fs::write(
        scratch.join("isar-apt.list"),
        "deb http://deb.debian.org/debian bookworm main\n",
    )
    .unwrap();
    let script = "echo on stdout; getcap /usr/bin/ping; stat -c %u /usr/bin/ping; ls /var/cache/apt/archives";
    for place in [["--root", "place"], ["--cache", "place"]] {
        let mut imager = isar_as_user([
            "imager",
            "--install",
            "iputils-ping  libcap2-bin",
            "--download-dir",
            "debs",
        ]);
        imager.args([
            "--apt-lock",
            "lock",
            "--bind",
            "isar-apt.list:/etc/apt/sources.list.d/isar-apt.list:ro",
        ]);
        imager
            .args(place)
            .arg(archive)
            .args(["--", "bash", "-ec", script])
            .current_dir(scratch.path());
        let output = run(&mut imager);
        if text(&output.stderr).contains("Temporary failure resolving") {
            return world::skip("the mirror cannot be reached").unwrap_or_default();
        }
        let said = text(&output.stdout);
        assert!(
            said.starts_with("on stdout\n/usr/bin/ping cap_net_raw=ep\n0\n")
                && said.contains("iputils-ping"),
            "{said}"
        );
        let packages = names(&scratch.join("debs"));
        assert!(
            packages.len() == 2 && packages[0].starts_with("iputils-ping"),
            "{packages:?}"
        );
        let owner = fs::metadata(scratch.join("debs").join(&packages[0]))
            .unwrap()
            .uid();
        assert_eq!(owner, world::user().uid);
        let fetched =
            text(&output.stderr).contains("Get:1 http://deb.debian.org/debian bookworm/main");
        assert_eq!(
            fetched,
            place[0] == "--root",
            "the second run has the packages of the first"
        );
    }
    let mut missing = isar_as_user(["imager", "--root", "root", "--install", "no-such-package"]);
    let said = world::fail(
        125,
        missing
            .arg(archive)
            .args(["--", "true"])
            .current_dir(scratch.path()),
    );
    assert!(
        said.contains("apt-get install --download-only failed with status 100"),
        "{said}"
    );
    assert!(!scratch.join("root").exists());
}

#[test]
fn the_repository_is_not_read_while_somebody_changes_it() {
    let Some(archive) = packed() else { return };
    let scratch = Scratch::new();
    let mut holder = as_user("flock");
    holder
        .args([
            "lock",
            "sh",
            "-c",
            "echo ready; read line; echo done >released",
        ])
        .current_dir(scratch.path());
    let mut holder = start(holder.stdin(Stdio::piped()));
    let mut imager = isar_as_user([
        "-v",
        "imager",
        "--cache",
        "cache",
        "--apt-lock",
        "lock",
        "--install",
        "dpkg",
    ]);
    imager
        .arg(archive)
        .args(["--", "true"])
        .current_dir(scratch.path())
        .stderr(Stdio::piped());
    let mut waiting = imager.spawn().unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(waiting.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("waiting for the lock")));
    drop(holder.stdin.take());
    assert!(lines.any(|line| line.unwrap().contains("apt-get install --download-only")));
    assert!(scratch.join("released").exists());
    assert!(waiting.wait().unwrap().success());
    assert!(holder.wait().is_ok());
}

#[test]
fn attributes_of_overlays_change_nothing_with_a_cache_or_without() {
    let scratch = Scratch::new();
    pack_small(&scratch, "plain.tar", 2);
    let script = "import os, sys, tarfile
with tarfile.open('plain.tar') as old, tarfile.open('a.tar', 'w', format=tarfile.PAX_FORMAT) as new:
    for member in old:
        if member.name == './data/1':
            for name in ('metacopy', 'redirect', 'opaque'):
                member.pax_headers['SCHILY.xattr.user.overlay.' + name] = 'y'
            member.pax_headers['SCHILY.xattr.user.kept'] = 'k'
        new.addfile(member, old.extractfile(member) if member.isfile() else None)";
    succeed(
        Command::new("python3")
            .args(["-c", script])
            .current_dir(scratch.path()),
    );
    let script = "cat /data/1; python3 -c 'import os; print(os.listxattr(\"/data/1\"))'";
    let said = [["--root", "root"], ["--cache", "cache"]].map(|options| {
        let mut imager = isar_as_user(["imager"]);
        imager.args(BORROWED).args(options);
        imager.args(["a.tar", "--", "sh", "-ec", script]);
        succeed(imager.current_dir(scratch.path()))
    });
    assert_eq!(said[0], said[1]);
    assert!(said[0].ends_with("['user.kept']\n"), "{}", said[0]);
}
