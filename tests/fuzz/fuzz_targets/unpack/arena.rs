//! Where archives are unpacked, and the canary beside it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use isar_tarball::internals::unpack::TargetState;
use isar_tarball::internals::workdir::removal;

/// A directory in memory with `canary` and, while something is unpacked, `tree`.
pub struct Arena {
    place: PathBuf,
    canary: BTreeMap<PathBuf, Seen>,
}

/// All that could change of a file; the time of its last change of any kind says it best.
#[derive(Debug, PartialEq)]
struct Seen {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Arena {
    pub fn new() -> Arena {
        let map = fs::read_to_string("/proc/self/uid_map").expect("a map");
        assert!(
            !map.trim().ends_with("4294967295") && map.trim().starts_with("0 "),
            "to be run as root of a user namespace: see tests/fuzz/README.md"
        );
        let place = Path::new("/dev/shm").join(format!("isar-tarball-fuzz.{}", std::process::id()));
        // Left by a run before: nothing runs at the end of one.
        let _ = fs::remove_dir_all(&place);
        let canary = place.join("canary");
        fs::create_dir_all(canary.join("dir")).expect("made");
        fs::write(canary.join("file"), "canary").expect("made");
        fs::write(canary.join("dir/file"), "canary").expect("made");
        fs::set_permissions(canary.join("file"), Permissions::from_mode(0o600)).expect("changed");
        symlink("file", canary.join("link")).expect("made");
        Arena {
            canary: seen(&canary),
            place,
        }
    }

    /// The path of the directory above the canary, for members that would like to reach it.
    pub fn place(&self) -> &[u8] {
        self.place.as_os_str().as_bytes()
    }

    /// A directory to unpack into, with something in it when it is to be.
    pub fn tree(&self, found: TargetState) -> File {
        let tree = self.place.join("tree");
        fs::create_dir(&tree).expect("made");
        if found == TargetState::Tree {
            fs::create_dir(tree.join("a")).expect("made");
            fs::write(tree.join("a/b"), "found").expect("made");
            fs::write(tree.join("f"), "found").expect("made");
            symlink("../canary", tree.join("l")).expect("made");
            symlink("../../canary/file", tree.join("a/l")).expect("made");
        }
        File::open(&tree).expect("opened")
    }

    pub fn assert_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.place.join("tree"))
            .expect("listed")
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    pub fn assert_unchanged(&self) {
        assert_eq!(seen(&self.place.join("canary")), self.canary);
        let mut names: Vec<_> = fs::read_dir(&self.place)
            .expect("listed")
            .map(|entry| entry.expect("listed").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["canary", "tree"]);
    }

    pub fn remove(&self, tree: &File) {
        let options = removal::Options::all(1);
        removal::contents(tree.as_fd(), &options)
            .unwrap_or_else(|failed| panic!("remove: {failed}"));
        fs::remove_dir(self.place.join("tree")).expect("removed");
    }
}

fn seen(path: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let meta = fs::symlink_metadata(path).expect("is there");
    let kind = meta.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("listed") {
            all.append(&mut seen(&entry.expect("listed").path()));
        }
    }
    let content = match () {
        () if kind.is_file() => fs::read(path).expect("read"),
        () if kind.is_symlink() => fs::read_link(path)
            .expect("read")
            .as_os_str()
            .as_bytes()
            .to_vec(),
        () => Vec::new(),
    };
    let seen = Seen {
        inode: meta.ino(),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        changed: (meta.ctime(), meta.ctime_nsec()),
        content,
    };
    all.insert(path.to_owned(), seen);
    all
}
