//! Archives that another process changes between two looks at them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use isar_tarball::internals::pack::hex;
use sha2::{Digest, Sha256};

use crate::crafted::Tar;
use crate::kill::trace::watch;
use crate::world::{Scratch, isar_as_user, names, succeed, text};

fn archive(scratch: &Scratch, name: &str, content: &str) -> PathBuf {
    Tar::new()
        .directory("./", 0o755)
        .file("./file", content)
        .end()
        .write(scratch, name)
}

/// The archive as three programs compress it.
fn compressed(scratch: &Scratch, content: &str) -> Vec<(&'static str, Vec<u8>)> {
    let plain = archive(scratch, "plain", content);
    let by = |program| {
        let output = Command::new(program).arg("-c").arg(&plain).output();
        output.unwrap().stdout
    };
    let bytes = vec![
        ("tar", fs::read(&plain).unwrap()),
        ("tar.zst", by("zstd")),
        ("tar.gz", by("gzip")),
        ("tar.xz", by("xz")),
    ];
    fs::remove_file(plain).unwrap();
    bytes
}

/// Changes the archive when the program is about to create the directory to fill, which it does
/// after it has compared the SHA-256.
#[test]
fn an_archive_that_changes_after_its_sha256_was_compared_is_not_unpacked() {
    let scratch = Scratch::new();
    let before = compressed(&scratch, "the archive that was hashed");
    let after = compressed(&scratch, "what another process writes");
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        let archive = scratch.join(name);
        fs::write(&archive, before).unwrap();
        let digest = hex(&Sha256::digest(before).into());
        let mut unpack = isar_as_user(["unpack", "--sha256", &digest, name, "tree"]);
        unpack.current_dir(scratch.path());
        let mut is_changed = false;
        let traced = watch(unpack, &mut |call| {
            if call.name.starts_with("mkdir") && call.path.contains("tree") && !is_changed {
                fs::write(&archive, after).unwrap();
                is_changed = true;
            }
        });
        assert!(is_changed, "{name}");
        assert_eq!(traced.status.code(), Some(2), "{name}: {}", traced.said);
        assert!(
            traced.said.contains("another process changed it"),
            "{name}: {}",
            traced.said
        );
        assert_eq!(scratch.names(), [*name], "{name}");
        fs::remove_file(&archive).unwrap();
    }
}

/// A copy in the cache has the content that its digest says, so an archive that changes while the
/// copy is made leaves no copy.
#[test]
fn a_cache_keeps_no_copy_of_an_archive_that_changes_meanwhile() {
    let scratch = Scratch::new();
    let before = archive(&scratch, "a.tar", "the archive that was hashed");
    let after = fs::read(archive(&scratch, "b.tar", "what another process writes")).unwrap();
    let mut imager = isar_as_user(["imager", "--cache", "cache", "a.tar", "--", "true"]);
    imager.current_dir(scratch.path());
    let mut is_changed = false;
    let traced = watch(imager, &mut |call| {
        // It is made for the archive that has just been hashed.
        if call.name == "mkdirat" && call.path == "copy" {
            fs::write(&before, &after).unwrap();
            is_changed = true;
        }
    });
    assert!(is_changed);
    assert_eq!(traced.status.code(), Some(125), "{}", traced.said);
    assert!(traced.said.contains("changed"), "{}", traced.said);
    let ids = &names(&scratch.join("cache"))[0];
    let copies = scratch.join("cache").join(ids).join("copies");
    assert_eq!(entries(&copies), Vec::<String>::new());
}

/// The names in a directory of the namespace.
fn entries(directory: &Path) -> Vec<String> {
    let listed = succeed(Command::new("ls").arg("-A").arg(directory));
    text(listed.as_bytes()).lines().map(str::to_owned).collect()
}
