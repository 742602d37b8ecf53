//! The machine that the tests run on: an ordinary user with subordinate ids, scratch directories
//! that it may write to, chroots by mmdebstrap.
//!
//! Tests start as root. What an ordinary user sees is run as the test user, which is made when it
//! is missing. Where something cannot be had, a test says so on stderr and returns; on the CI
//! machine (`CI` is set) that is a failure.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::Signal;

/// The ordinary user.
pub const USER: &str = "isar-test";

/// Where everything that lives for one run, or from run to run, stands: a place that every user can
/// reach, on a real file system.
const BASE: &str = "/var/tmp/isar-tarball-tests";

/// The ordinary user that the tests run as.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// The first subordinate uid and gid, of 65536 each.
    pub base: u32,
}

/// The test user; made when it is missing.
pub fn user() -> &'static User {
    static USER_ONCE: OnceLock<User> = OnceLock::new();
    USER_ONCE.get_or_init(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests start as root: they make a user and act as it"
        );
        if !Command::new("id")
            .arg(USER)
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(
                run(Command::new("useradd").args(["--create-home", "--shell", "/bin/bash", USER]))
                    .status
                    .success()
            );
        }
        let number = |option: &str| -> u32 {
            let output = Command::new("id").args([option, USER]).output().unwrap();
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        let base = |file: &str| -> u32 {
            let text = fs::read_to_string(file).unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("isar-test:"))
                .expect("a line of the test user");
            let (base, count) = line.split_once(':').unwrap();
            assert_eq!(count, "65536");
            base.parse().unwrap()
        };
        if !fs::read_to_string("/etc/subuid")
            .unwrap_or_default()
            .contains("isar-test:")
        {
            let ids = [
                "--add-subuids",
                "700000-765535",
                "--add-subgids",
                "700000-765535",
                USER,
            ];
            assert!(run(Command::new("usermod").args(ids)).status.success());
        }
        let user = User {
            uid: number("-u"),
            gid: number("-g"),
            base: base("/etc/subuid"),
        };
        assert_eq!(
            user.base,
            base("/etc/subgid"),
            "the tests count on equal ranges of uids and gids"
        );
        user
    })
}

fn base() -> &'static Path {
    static BASE_ONCE: OnceLock<()> = OnceLock::new();
    BASE_ONCE.get_or_init(|| {
        fs::create_dir_all(BASE).unwrap();
        // Sticky: the program refuses a cache below a directory where any user may rename it.
        fs::set_permissions(BASE, fs::Permissions::from_mode(0o1777)).unwrap();
    });
    Path::new(BASE)
}

/// The program, where every user can run it: the build directory may lie where only root gets.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        remove_old_programs();
        // Whoever started the tests may ignore some, as nohup does; the program leaves ignored
        // signals alone.
        for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT] {
            isar_tarball::internals::sys::set_default_action(signal.as_raw()).unwrap();
        }
        let built = Path::new(env!("CARGO_BIN_EXE_isar-tarball"));
        let place = base().join(format!("isar-tarball.{}", std::process::id()));
        fs::copy(built, &place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        place
    })
}

/// Removes the programs of test runs that have ended.
fn remove_old_programs() {
    for name in names(base()) {
        let run = name
            .strip_prefix("isar-tarball.")
            .filter(|pid| !Path::new("/proc").join(pid).exists());
        if run.is_some_and(|pid| pid.parse::<u32>().is_ok()) {
            // Another run may have been faster.
            let _ = fs::remove_file(base().join(name));
        }
    }
}

/// The program run as root.
pub fn isar<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(program());
    command
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null());
    command
}

/// The program run as the test user.
pub fn isar_as_user<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = as_user(program());
    command
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null());
    command
}

/// Any program run as the test user, in its home directory.
pub fn as_user(program: impl AsRef<OsStr>) -> Command {
    user();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--init-groups",
            "--reset-env",
            "--",
        ])
        .arg(program);
    command.current_dir(format!("/home/{USER}"));
    command
}

/// Any program run as root of the test user's namespace of subordinate ids. It goes through
/// `mmdebstrap --unshare-helper`, so that this program's own namespace is not what it is tested
/// with.
pub fn as_namespace_root(program: impl AsRef<OsStr>) -> Command {
    let mut command = as_user("mmdebstrap");
    command.arg("--unshare-helper").arg(program);
    command
}

/// A Python script run as root of the test user's namespace.
pub fn namespace_python(script: &str) -> Command {
    let mut command = as_namespace_root("python3");
    command.arg("-c").arg(script);
    command
}

/// Runs a command and says on stderr how it ended.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A script among the arguments would hide the rest.
    let shown: String = format!("{command:?}").chars().take(600).collect();
    eprintln!(
        "$ {shown}\n{}{}{}",
        text(&output.stdout),
        text(&output.stderr),
        output.status
    );
    output
}

/// Runs a command that must succeed, and gives what it printed.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", output.status);
    text(&output.stdout)
}

/// Runs a command that must end with `status`, and gives what it said on stderr.
pub fn fail(status: i32, command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(status), "{command:?}");
    text(&output.stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory of the test user, gone at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let path = tempfile::Builder::new()
            .prefix("scratch-")
            .tempdir_in(base())
            .unwrap()
            .keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(user().uid), Some(user().gid)).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The names in the directory, sorted.
    pub fn names(&self) -> Vec<String> {
        names(&self.0)
    }

    /// Makes a directory that root of the test user's namespace owns: where a tree goes.
    pub fn namespace_dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(user().base), Some(user().base)).unwrap();
        path
    }

    /// Makes a directory of the test user.
    pub fn user_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(user().uid), Some(user().gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Something mounted for the time of a test.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts at `place` as the options and the source say: `["-t", "tmpfs", "none"]`, `["--bind",
    /// "/a"]`.
    pub fn new<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>, place: &Path) -> Mounted {
        succeed(Command::new("mount").args(args).arg(place));
        Mounted(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Root removes what any id owns. A test that leaves a mount behind has failed already.
        let _ = Command::new("rm")
            .arg("-rf")
            .arg("--one-file-system")
            .arg(&self.0)
            .status();
    }
}

/// A buildd chroot of `suite`, made by mmdebstrap as the test user and owned by its subordinate
/// ids. It is kept from run to run: tests read it only.
///
/// With fakeroot, as isar's have it: sbuild wants it in there and would otherwise need a mirror
/// while it builds.
pub fn chroot(suite: &str) -> Option<PathBuf> {
    let options = [
        "--mode=unshare",
        "--variant=buildd",
        "--include=fakeroot",
        "--format=directory",
        suite,
    ];
    by_mmdebstrap(&format!("{suite}-sbuild"), &options.map(OsStr::new))
}

/// An archive that mmdebstrap itself writes as the test user: a small chroot of `suite` with the
/// tree of `fixtures/rich_tree.py` at `rich`, and the device nodes that mmdebstrap puts in front.
/// It is kept from run to run, as chroots are.
pub fn mmdebstrap_archive(suite: &str) -> Option<PathBuf> {
    // The checkout may lie where only root gets.
    let script = base().join("rich_tree.py");
    fs::write(&script, include_str!("../fixtures/rich_tree.py")).unwrap();
    let plant = format!(
        "--customize-hook=mkdir \"$1/rich\" && python3 {} \"$1/rich\"",
        script.display()
    );
    let options = [
        "--mode=unshare",
        "--variant=essential",
        "--format=tar",
        &plant,
        suite,
    ];
    by_mmdebstrap(&format!("{suite}-rich.tar.zst"), &options.map(OsStr::new))
}

/// True for the test user and its subordinate ids.
fn is_own(uid: u32) -> bool {
    let user = user();
    uid == user.uid || (user.base..user.base + 65536).contains(&uid)
}

/// What mmdebstrap makes with these options, kept as `name`.
fn by_mmdebstrap(name: &str, options: &[&OsStr]) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    require(&["mmdebstrap"])?;
    // An earlier test user may have had other ids.
    let is_foreign = |path: &Path| fs::metadata(path).is_ok_and(|found| !is_own(found.uid()));
    let name = match is_foreign(&base().join(name)) {
        true => format!("{name}.{}", user().base),
        false => name.to_owned(),
    };
    let (place, unfinished) = (
        base().join(&name),
        base().join(format!("unfinished.{name}")),
    );
    // Another run may be making it.
    let lock = File::create(base().join(format!("{name}.lock"))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    if !place.exists() {
        let _ = Command::new("rm").arg("-rf").arg(&unfinished).status();
        let made = run(as_user("mmdebstrap").args(options).arg(&unfinished));
        if !made.status.success() {
            return skip(&format!("mmdebstrap makes no {name}"));
        }
        fs::rename(&unfinished, &place).unwrap();
    }
    Some(place)
}

/// The versions of sbuild whose loaders differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sbuild {
    /// The machine's own (bookworm).
    V0_85,
    /// trixie's, see `tests/sbuild-0.89.sh`.
    V0_89,
}

/// sbuild as the test user, in unshare mode, with a configuration that needs no mirror and works
/// below `scratch`.
pub fn sbuild(version: Sbuild, scratch: &Scratch) -> Option<Command> {
    let mut command = with_sbuild(version, scratch)?;
    match version {
        Sbuild::V0_85 => command.arg("sbuild"),
        Sbuild::V0_89 => command.arg(base().join("sbuild-0.89/usr/bin/sbuild")),
    };
    Some(command)
}

/// `env` as the test user, so that what is run by it finds this version of sbuild's modules and
/// that configuration.
pub fn with_sbuild(version: Sbuild, scratch: &Scratch) -> Option<Command> {
    require(&["sbuild"])?;
    let config = scratch.join("sbuild.conf");
    let work = scratch.path().display();
    let text = format!(
        "$chroot_mode = 'unshare';
        $unshare_tmpdir_template = '{work}/tmp.sbuild.XXXXXXXXXX';
        $run_lintian = $run_autopkgtest = $run_piuparts = 0;
        $apt_update = $apt_upgrade = $apt_distupgrade = 0;
        $bd_uninstallable_explainer = '';
        $nolog = 1;
        1;\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = as_user("env");
    command.arg(format!("SBUILD_CONFIG={}", config.display()));
    match version {
        Sbuild::V0_85 => {
            let said = succeed(as_user("sbuild").arg("--version"));
            if !said.contains(" 0.85.") {
                return skip(&format!(
                    "the installed sbuild is not 0.85: {}",
                    said.lines().next().unwrap_or_default()
                ));
            }
        }
        Sbuild::V0_89 => {
            let place = base().join("sbuild-0.89");
            static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
            let _guard = ONE_AT_A_TIME
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sbuild-0.89.sh");
            if !place.exists() && !run(&mut Command::new(script)).status.success() {
                return skip("sbuild 0.89 cannot be had");
            }
            command.arg(format!(
                "PERL5LIB={}",
                place.join("usr/share/perl5").display()
            ));
        }
    }
    command.current_dir(scratch.path());
    Some(command)
}

/// `Some` when all programs are there, else a loud skip.
pub fn require(programs: &[&str]) -> Option<()> {
    let dirs = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let missing = programs.iter().find(|name| {
        !dirs
            .split(':')
            .any(|dir| Path::new(dir).join(name).is_file())
    });
    missing.map_or(Some(()), |name| skip(&format!("{name} is not installed")))
}

/// Says that a test cannot run, and why. On the CI machine none may be skipped.
pub fn skip<T>(why: &str) -> Option<T> {
    assert!(
        std::env::var_os("CI").is_none(),
        "no test may be skipped here: {why}"
    );
    eprintln!("SKIPPED: {why}");
    None
}
