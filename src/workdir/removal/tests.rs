#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const ONE_THREAD: Options = Options {
    threads: 1,
    take_group: false,
};

#[test]
fn everything_below_goes_and_links_are_not_followed() {
    for threads in [1, 4] {
        let scratch = tempfile::tempdir().unwrap();
        let (tree, outside) = (scratch.path().join("tree"), scratch.path().join("outside"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        let root = fs::File::open(&tree).unwrap();
        let dry = count(root.as_fd()).unwrap();
        assert!(tree.join("a/b/file").exists());
        let removed = contents(
            root.as_fd(),
            &Options {
                threads,
                ..ONE_THREAD
            },
        )
        .unwrap();
        assert_eq!(
            (removed, dry),
            (
                Removed {
                    directories: 3,
                    files: 2
                },
                removed
            )
        );
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}

#[test]
fn an_error_is_named_with_its_path_and_the_rest_goes() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir_all(scratch.path().join("a/b")).unwrap();
    fs::create_dir_all(scratch.path().join("c/d")).unwrap();
    let root = fs::File::open(scratch.path()).unwrap();
    let work = contents(root.as_fd(), &ONE_THREAD).unwrap();
    assert_eq!(work.directories, 4);
    let file = fs::File::open("/dev/null").unwrap();
    let failed = contents(file.as_fd(), &ONE_THREAD).unwrap_err();
    assert_eq!(
        (failed.to_string().as_str(), failed.count),
        (".: open: Not a directory", 1)
    );
}
