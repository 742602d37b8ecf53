//! `check` says that an archive is safe exactly if `unpack` unpacks it.
//!
//! The archives are those of the fuzz targets and of the other tests, changed at random, and random
//! members. All of them are checked and unpacked by one process, which is root of the namespace of
//! the test user: the test starts itself there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use isar_tarball::Check;
use isar_tarball::internals::ids::{Extent, IdMap, IdMaps};
use isar_tarball::internals::input::{self, Input};
use isar_tarball::internals::progress::Progress;
use isar_tarball::internals::tree::exclude::Patterns;
use isar_tarball::internals::tree::selection::Selection;
use isar_tarball::internals::unpack::names::Rules;
use isar_tarball::internals::unpack::{Devices, Error, Options, TargetState, Unpacking, Xattrs};
use isar_tarball::internals::workdir::removal;
use rustix::io::Errno;

use crate::fuzz::{archives, members};
use crate::world::{Scratch, isar_as_user, require, succeed};
use crate::{check, unpack_security};

/// Names the directory of the archives for the process in the namespace.
const ARCHIVES: &str = "ISAR_TARBALL_TEST_ARCHIVES";

/// Changed archives per archive, and archives of random members.
const CHANGES: u64 = 8;
const RANDOM: u64 = 2000;

#[test]
fn an_archive_is_safe_exactly_if_it_is_unpacked() {
    if let Some(archives) = std::env::var_os(ARCHIVES) {
        return inside(Path::new(&archives));
    }
    if require(&["zstd", "gzip", "xz"]).is_none() {
        return;
    }
    let scratch = Scratch::new();
    let place = scratch.namespace_dir("archives");
    for (index, (name, bytes)) in all(&scratch).into_iter().enumerate() {
        let name = format!("{index}-{}", name.replace(['/', ' '], "-"));
        fs::write(place.join(name), bytes).unwrap();
    }
    // The build directory may lie where only root gets.
    let program = scratch.join("suite");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    scratch.namespace_dir("work");
    let archives = format!("{ARCHIVES}={}", place.display());
    let printed = succeed(
        isar_as_user(["unshare", "--", "env", &archives])
            .arg(&program)
            .args(["--exact", "--nocapture"])
            .arg("verdict::an_archive_is_safe_exactly_if_it_is_unpacked"),
    );
    assert!(printed.contains("test result: ok. 1 passed"), "{printed}");
}

/// The archives that others describe.
fn all(scratch: &Scratch) -> Vec<(String, Vec<u8>)> {
    let fuzz = archives::all()
        .into_iter()
        .map(|(name, stream)| (name.to_owned(), stream.0));
    let rules = check::all_cases(scratch)
        .into_iter()
        .map(|case| (case.name.to_owned(), case.bytes));
    let hostile = unpack_security::cases("/nowhere")
        .into_iter()
        .map(|(name, tar, _)| (name.to_owned(), tar.0));
    fuzz.chain(rules).chain(hostile).collect()
}

/// Compares the answers for every archive in a directory, and for others made of them.
fn inside(archives: &Path) {
    let work = archives.parent().unwrap().join("work");
    let mut verdicts = Verdicts {
        work: &work,
        wrong: Vec::new(),
        safe: 0,
        count: 0,
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for entry in fs::read_dir(archives).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&path).unwrap();
        verdicts.compare(&name, &bytes);
        if bytes.get(257..262) != Some(b"ustar") {
            continue;
        }
        for change in 0..CHANGES {
            let mut changed = bytes.clone();
            let at = random.below(bytes.len());
            changed[at] = random.byte(&bytes);
            mend(&mut changed);
            verdicts.compare(&format!("{name}, change {change} at {at}"), &changed);
        }
    }
    for number in 0..RANDOM {
        let length = 6 * (1 + random.below(12));
        let bytes: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        let stream = members::stream(&bytes, b"/nowhere");
        verdicts.compare(&format!("random members {number}: {bytes:?}"), &stream);
    }
    let Verdicts {
        wrong, safe, count, ..
    } = verdicts;
    eprintln!("{count} archives, {safe} of them safe");
    assert!(wrong.is_empty(), "{} of {count}: {wrong:#?}", wrong.len());
    assert!(
        safe > count / 10 && safe < count * 9 / 10,
        "{safe} of {count} are safe"
    );
}

struct Verdicts<'a> {
    work: &'a Path,
    wrong: Vec<String>,
    safe: u64,
    count: u64,
}

impl Verdicts<'_> {
    fn compare(&mut self, name: &str, bytes: &[u8]) {
        let path = self.work.join("a.tar.zst");
        fs::write(&path, bytes).unwrap();
        let checked = Check {
            threads: 1,
            ..Check::new(path.as_path())
        };
        // A format that is not read at all is an error of both.
        let (is_safe, findings) = match checked.run(&mut ()) {
            Ok(report) => (
                report.safe,
                report.findings.iter().map(ToString::to_string).collect(),
            ),
            Err(error) => (false, vec![error.to_string()]),
        };
        let tree = self.work.join("tree");
        fs::create_dir(&tree).unwrap();
        let unpacked = unpack(&path, &tree);
        let options = removal::Options::all(1);
        removal::contents(File::open(&tree).unwrap().as_fd(), &options).unwrap();
        fs::remove_dir(&tree).unwrap();
        // What a file system cannot hold is no fault of the archive.
        if unpacked.as_ref().is_err_and(is_too_large) {
            return;
        }
        self.count += 1;
        self.safe += u64::from(is_safe);
        if is_safe != unpacked.is_ok() {
            let unpacked = unpacked.map_err(|error| error.to_string());
            self.wrong
                .push(format!("{name}: {unpacked:?}, but {findings:?}"));
        }
    }
}

fn is_too_large(error: &Error) -> bool {
    let errno = |errno: Errno| std::io::Error::from(errno).to_string();
    let text = error.to_string();
    [Errno::FBIG, Errno::NOSPC]
        .into_iter()
        .any(|cause| errno(cause).starts_with(text.rsplit(": ").next().unwrap_or_default()))
}

fn unpack(archive: &Path, tree: &Path) -> Result<(), Error> {
    let ids = Extent {
        inner: 0,
        outer: 0,
        count: 65536,
    };
    let map = IdMap::from_extents(vec![ids]).unwrap();
    let options = Options {
        selection: Selection::default(),
        exclude: Patterns::default(),
        names: Rules::default(),
        devices: Devices::Skip,
        keep_directory_symlink: false,
        xattrs: Xattrs::All,
        threads: 1,
        memory: 1 << 20,
        allowance: Default::default(),
        limit_size: None,
        limit_members: None,
        maps: IdMaps {
            uids: map.clone(),
            gids: map,
        },
        found: TargetState::New,
    };
    let input = input::Options {
        threads: 1,
        memory: 1 << 20,
        window_log: 27,
        eager: false,
    };
    let mut input = Input::open(File::open(archive).unwrap(), &input)?;
    let tree = File::open(tree).unwrap();
    let unpacking = Unpacking::prepare::<Error>(tree.as_fd(), None, || Ok(0), &options)?;
    unpacking.run(&mut input, None, &Progress::default())?;
    Ok(())
}

/// Gives each block that is not zero and was a header the checksum of one.
fn mend(stream: &mut [u8]) {
    for block in stream.as_chunks_mut::<512>().0 {
        if block.get(257..262) != Some(b"ustar") {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

/// Numbers that are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A byte of the stream, or one with a meaning in headers, or any.
    fn byte(&mut self, stream: &[u8]) -> u8 {
        match self.below(3) {
            0 => stream[self.below(stream.len())],
            1 => *b"\0\x80\xff /.0123456789gxLKS-:,=\n"
                .get(self.below(26))
                .unwrap_or(&b'7'),
            _ => self.below(256) as u8,
        }
    }
}
