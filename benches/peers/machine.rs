//! Where the runs take place: user, program, tree, scratch directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The ordinary user when root starts the benches; the tests make the same one.
const USER: &str = "isar-test";

#[derive(Clone)]
pub struct Machine {
    is_root: bool,
    /// The program, where the user can run it.
    pub program: PathBuf,
    /// The tree that is packed.
    pub tree: PathBuf,
    /// A scratch directory on the disk's file system.
    pub disk: PathBuf,
    /// A scratch directory in memory.
    pub memory: PathBuf,
    /// A scratch directory for what needs a file system that nothing was removed from: where root
    /// starts the benches one of its own, else that on the disk.
    pub fresh: PathBuf,
    /// Archives that rows read: ours, and the seed's pipeline's.
    pub ours: PathBuf,
    pub seed: PathBuf,
}

impl Machine {
    /// Makes what is missing: directories, the chroot by mmdebstrap, the two archives.
    pub fn prepare(suite: &str, tree: Option<&Path>) -> Machine {
        let is_root = rustix::process::geteuid().is_root();
        let disk = scratch(Path::new("/var/tmp/isar-tarball-bench"));
        let memory = scratch(Path::new("/dev/shm/isar-tarball-bench"));
        let program = disk.join("isar-tarball");
        fs::copy(env!("CARGO_BIN_EXE_isar-tarball"), &program).unwrap();
        let (ours, seed) = (
            disk.join(format!("{suite}.tar.zst")),
            disk.join(format!("{suite}-seed.tar.zst")),
        );
        let tree = tree.map_or_else(|| disk.join(suite), Path::to_owned);
        let fresh = if is_root {
            disk.join("fresh")
        } else {
            disk.clone()
        };
        let machine = Machine {
            is_root,
            program,
            tree,
            disk,
            memory,
            fresh,
            ours,
            seed,
        };
        if is_root && !machine.succeeds(Command::new("id").arg(USER)) {
            assert!(machine.succeeds(Command::new("useradd").args(["--create-home", USER])));
        }
        if !machine.tree.exists() {
            let options = [
                "--mode=unshare",
                "--variant=buildd",
                "--format=directory",
                suite,
            ];
            let made = machine
                .as_user("mmdebstrap")
                .args(options)
                .arg(&machine.tree)
                .status()
                .unwrap();
            assert!(made.success(), "mmdebstrap makes no chroot of {suite}");
        }
        for script in [
            machine.pack_by_seed(&machine.seed),
            machine.pack(&machine.ours, &[]),
        ] {
            assert!(
                machine.succeeds(machine.as_user(&script[0]).args(&script[1..])),
                "{script:?}"
            );
        }
        machine
    }

    /// The same, for another tree.
    pub fn with_tree(&self, tree: &Path) -> Machine {
        Machine {
            tree: tree.to_owned(),
            ..self.clone()
        }
    }

    /// Makes the file system at `fresh` anew: an ext4 as mkfs.ext4 makes it, with a journal, in a
    /// sparse file.
    pub fn make_fresh(&self) {
        if !self.is_root {
            return;
        }
        let image = self.disk.join("fresh.img");
        self.unmount_fresh();
        let _ = fs::remove_file(&image);
        fs::File::create(&image).unwrap().set_len(4 << 30).unwrap();
        let options = [
            "-q",
            "-F",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        ];
        assert!(self.succeeds(Command::new("mkfs.ext4").args(options).arg(&image)));
        fs::create_dir_all(&self.fresh).unwrap();
        assert!(
            self.succeeds(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&image)
                    .arg(&self.fresh)
            )
        );
        scratch(&self.fresh);
    }

    /// Unmounts it, if it is mounted.
    pub fn unmount_fresh(&self) {
        let _ = Command::new("umount")
            .arg("-q")
            .arg(&self.fresh)
            .stderr(Stdio::null())
            .status();
    }

    /// Any program as the ordinary user.
    pub fn as_user(&self, program: impl AsRef<OsStr>) -> Command {
        if !self.is_root {
            return Command::new(program);
        }
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
        command
    }

    /// A shell script as root of the namespace.
    pub fn script(&self, text: &str) -> Vec<String> {
        let text = format!("set -eo pipefail; {text}");
        ["unshare", "--", "bash", "-c", &text]
            .map(str::to_owned)
            .into_iter()
            .fold(vec![shown(&self.program)], push)
    }

    /// A command of isar-tarball.
    pub fn isar(&self, words: &[&str]) -> Vec<String> {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .fold(vec![shown(&self.program)], push)
    }

    pub fn pack(&self, archive: &Path, options: &[&str]) -> Vec<String> {
        self.isar(
            &[
                &["pack", "-q"],
                options,
                &[&*shown(&self.tree), &*shown(archive)],
            ]
            .concat(),
        )
    }

    /// The pipeline that isar has.
    pub fn pack_by_seed(&self, archive: &Path) -> Vec<String> {
        self.script(&self.pipeline("zstd -q -8 -T2", archive))
    }

    /// GNU tar into a compressor, with isar's options. The user must be able to create `archive`.
    pub fn pipeline(&self, compressor: &str, archive: &Path) -> String {
        let (tree, archive) = (shown(&self.tree), shown(archive));
        format!(
            "tar -C {tree} -cpS --one-file-system --xattrs --xattrs-include='*' --exclude=./var/cache/apt/archives . | {compressor} > {archive}"
        )
    }

    fn succeeds(&self, command: &mut Command) -> bool {
        command.stdout(Stdio::null()).status().unwrap().success()
    }
}

fn push(mut words: Vec<String>, word: String) -> Vec<String> {
    words.push(word);
    words
}

pub fn shown(path: &Path) -> String {
    path.to_str()
        .expect("a path of this bench is plain")
        .to_owned()
}

/// A directory that both the user and root of its namespace may write to.
fn scratch(path: &Path) -> PathBuf {
    fs::create_dir_all(path).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(path, Some(0), Some(0)).unwrap();
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    path.to_owned()
}
