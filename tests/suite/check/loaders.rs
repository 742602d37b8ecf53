//! The loaders themselves, and what they made of an archive.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use isar_tarball::internals::archive::reader::{Event, Limits, Reader};
use isar_tarball::internals::entry::{Kind, Timestamp};
use isar_tarball::internals::sbuild::extraction::safe_suffix;
use isar_tarball::internals::sbuild::rules::Loader;

use crate::world::{Sbuild, Scratch, require, succeed, with_sbuild};

/// A file of a tree, as far as archives of all kinds have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    /// Content, or target.
    content: Vec<u8>,
}

/// The files of a tree by their paths.
pub type Tree = BTreeMap<Vec<u8>, File>;

/// Lets a loader load archives: for each what it made of it, or `None` when it refused.
pub fn load(loader: Loader, archives: &[PathBuf], scratch: &Scratch) -> Option<Vec<Option<Tree>>> {
    require(&["mmdebstrap"])?;
    let version = match loader {
        Loader::V0_85 => Sbuild::V0_85,
        Loader::V0_89 => Sbuild::V0_89,
    };
    let mut command = with_sbuild(version, scratch)?;
    let script = scratch.join(format!("{}.pl", loader.name()));
    fs::write(&script, include_str!("loaders.pl")).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let results = succeed(
        command
            .arg("perl")
            .arg(&script)
            .arg(scratch.path())
            .args(archives),
    );
    let results: Vec<&str> = results.lines().collect();
    assert_eq!(results.len(), archives.len());
    let tree = |(archive, result): (&PathBuf, &str)| {
        let tree = PathBuf::from(format!("{}.tree", archive.display()));
        (result == "1").then(|| read(&fs::read(tree).unwrap()).unwrap())
    };
    Some(archives.iter().zip(results).map(tree).collect())
}

/// The tree that an archive says, device nodes left out; `None` when it cannot be read.
pub fn read(archive: &[u8]) -> Option<Tree> {
    let mut reader = Reader::new(Limits::default());
    let mut tree = Tree::new();
    let mut current = Vec::new();
    let mut input = archive;
    while let Some(event) = reader.next(&mut input).ok()? {
        match event {
            Event::Member(member) => {
                let entry = member.entry;
                current = resolved(&tree, &entry.path);
                let (kind, content) = match entry.kind {
                    Kind::Directory => ("directory", Vec::new()),
                    Kind::File { size, .. } => ("file", vec![0; usize::try_from(size).unwrap()]),
                    Kind::Fifo => ("pipe", Vec::new()),
                    Kind::Symlink { target } => ("symbolic link", target),
                    Kind::HardLink { target } => {
                        let target = resolved(&tree, safe_suffix(&target));
                        let linked = tree.get(&target).cloned()?;
                        tree.insert(current.clone(), linked);
                        continue;
                    }
                    Kind::CharDevice { .. } | Kind::BlockDevice { .. } => continue,
                };
                let mode = if kind == "symbolic link" {
                    0o777
                } else {
                    entry.mode
                };
                let file = File {
                    kind,
                    mode,
                    uid: entry.uid,
                    gid: entry.gid,
                    mtime: entry.mtime,
                    content,
                };
                tree.insert(current.clone(), file);
            }
            Event::Data(at, data) => {
                let at = usize::try_from(at).unwrap();
                tree.get_mut(&current).unwrap().content[at..at + data.len()].copy_from_slice(data);
            }
            Event::MemberEnd => {}
        }
    }
    reader.finish().ok()?;
    Some(tree)
}

/// The path without what means nothing, and with the symbolic links on its way followed.
fn resolved(tree: &Tree, path: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    let mut place = Vec::new();
    for component in path
        .split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
    {
        if let Some(File {
            kind: "symbolic link",
            content,
            ..
        }) = tree.get(&place)
        {
            components = vec![content];
        }
        components.push(component);
        place = components.join(&b'/');
    }
    place
}

/// Is `loaded` what `said` says, and can the build user enter it? Directories that no member made
/// may have been made on the way; sbuild makes its own standard devices, whatever stands there.
pub fn is_as_said(said: &Tree, loaded: &Tree) -> bool {
    let is_device = |path: &[u8]| {
        let devices = [
            &b"dev/null"[..],
            b"dev/zero",
            b"dev/full",
            b"dev/random",
            b"dev/urandom",
            b"dev/tty",
            b"dev/console",
        ];
        devices.contains(&path)
    };
    let is_there = said
        .iter()
        .all(|(path, file)| is_device(path) || loaded.get(path) == Some(file));
    let is_known = loaded
        .iter()
        .all(|(path, file)| said.contains_key(path) || file.kind == "directory" || is_device(path));
    is_there
        && is_known
        && loaded
            .get(&b""[..])
            .is_some_and(|root| root.mode & 0o001 != 0)
}
