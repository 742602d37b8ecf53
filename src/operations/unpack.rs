//! An archive into a directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, fstat};
use serde::{Deserialize, Serialize};

use super::archive::{ArchivePath, open_tree, threads};
use super::excludes;
use super::session::{self, Session};
use crate::allowance::Allowance;
use crate::error::{Context, Error, ErrorKind, PathContext, bytes};
use crate::ids::{IdMap, IdMaps};
use crate::input::{self, Digests, Hashed, Input};
use crate::member_stream;
use crate::observer::{Notice, Observer};
use crate::pack::hex;
use crate::progress::Progress;
use crate::sys::sync_file_system;
use crate::tree::exclude::Patterns;
use crate::tree::resolve::is_inside;
use crate::tree::selection::Selection;
use crate::unpack::names::Rules;
use crate::unpack::{
    self, Devices, Options, OriginalAttributes, Summary, TargetState, UndoJournal, Unpacking,
    Xattrs,
};
use crate::userns::{self, Caller, HeldSignals, Isolation, Supervision};
use crate::workdir::directory::{Purpose, WorkDir};
use crate::workdir::trust::is_open_to_others;
use crate::zst::SBUILD_WINDOW_LOG;

/// Unpacks an archive into a directory.
#[derive(Clone, Debug)]
pub struct Unpack {
    /// The user namespace.
    pub session: Session,
    /// The archive.
    pub archive: ArchivePath,
    /// The directory. Directories above it are created if missing.
    pub directory: PathBuf,
    /// What happens to an existing directory.
    pub mode: UnpackMode,
    /// Paths or patterns of members; empty for all.
    pub members: Vec<OsString>,
    /// Patterns of what is left out, anchored at the root of the tree.
    pub exclude: Vec<String>,
    /// Report each excluded member to the observer ([`Notice::LeftOut`]).
    pub report_left_out: bool,
    /// Create device nodes; `None` for yes as real root, no in a namespace.
    pub devices: Option<bool>,
    /// Keep a symbolic link to a directory of the tree where the archive has a directory, and
    /// unpack into the directory that it leads to. Its attributes do not change. Otherwise the
    /// archive is refused.
    pub keep_directory_symlink: bool,
    /// Leading components to strip from names; shorter names are skipped.
    pub strip_components: usize,
    /// Accept absolute names, as if they had no leading slash.
    pub strip_leading_slash: bool,
    /// Restore extended attributes, capabilities and ACLs.
    pub xattrs: bool,
    /// Threads that decode, and as many that write; 0 for one per CPU. The tree is the same for any
    /// number.
    pub threads: usize,
    /// Limit of memory, in bytes; `None` for 512 MiB, and 96 MiB for each thread but the first two.
    /// Half of it is for decompressed data. The rest is for what must be remembered to the end: 32
    /// bytes per file, and several hundred per directory.
    pub memory: Option<u64>,
    /// The SHA-256 that the archive must have.
    pub sha256: Option<[u8; 32]>,
    /// Write the tree to the disk before the directory gets its name, and the name before
    /// [`Unpack::run`] returns. A tree that replaces another one is always written before it gets
    /// its name.
    pub sync: bool,
    /// Limit of the tar stream, in bytes.
    pub limit_size: Option<u64>,
    /// Limit of members.
    pub limit_members: Option<u64>,
    /// The widest zstd window to accept, as a power of two, from 10 to 31.
    pub window_log: u32,
}

/// What [`Unpack`] does to an existing directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnpackMode {
    /// It must be empty.
    #[default]
    Empty,
    /// The new tree takes its place once it is complete; the old one is removed.
    Replace,
    /// Files go over those in it.
    Merge,
}

/// What decoded data may take with up to two threads, in bytes.
const MEMORY: u64 = 256 << 20;

/// What each further thread adds, in bytes.
const MEMORY_PER_THREAD: u64 = 96 << 20;

/// How much of it may be on its way to the disk, in bytes.
const WRITING: u64 = 160 << 20;

/// What may be remembered about members, in bytes.
const REMEMBERED: u64 = 256 << 20;

/// What the child asks the caller for.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// The directory is about to be filled: from here on there is something to undo in place.
    Begin,
}

impl Unpack {
    /// Unpacks all of `archive` into `directory`, which is missing or empty.
    pub fn new(archive: impl Into<ArchivePath>, directory: impl Into<PathBuf>) -> Unpack {
        Unpack {
            session: Session::default(),
            archive: archive.into(),
            directory: directory.into(),
            mode: UnpackMode::Empty,
            members: Vec::new(),
            exclude: Vec::new(),
            report_left_out: false,
            devices: None,
            keep_directory_symlink: false,
            strip_components: 0,
            strip_leading_slash: false,
            xattrs: true,
            threads: 0,
            memory: None,
            sha256: None,
            sync: false,
            limit_size: None,
            limit_members: None,
            window_log: SBUILD_WINDOW_LOG,
        }
    }

    /// Unpacks the archive. A new or replaced directory has its name only once it is complete.
    ///
    /// # Errors
    ///
    /// Any failure leaves the directory as it was. Only with [`UnpackMode::Merge`], files that were
    /// replaced do not come back.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Summary, Error> {
        self.unpack(observer)
            .context(|| format!("cannot unpack {}", self.archive))
    }

    fn unpack(&self, observer: &mut dyn Observer) -> Result<Summary, Error> {
        let archive = self.archive.open()?;
        let is_file = archive.metadata().at("the archive", "stat")?.is_file();
        let digests = match self.sha256 {
            Some(expected) if is_file => {
                let digests = Digests::of(&archive).at("the archive", "read")?;
                must_be(expected, digests.sha256())?;
                Some(Arc::new(digests))
            }
            _ => None,
        };
        let namespaces = self.session.namespaces(observer)?;
        let maps = session::maps(&namespaces.work)?;
        // Mistakes in options are found before anything is created.
        let options = self.options(&namespaces.work, maps)?;
        let purpose = match self.mode {
            UnpackMode::Empty => Purpose::Fill,
            UnpackMode::Replace => Purpose::Replace,
            UnpackMode::Merge => Purpose::Merge,
        };
        if purpose == Purpose::Replace {
            self.must_lie_outside()?;
        }
        let progress = Progress::shared()?;
        // A signal that comes before there is a process to clean up waits for it.
        let _held = HeldSignals::new()?;
        let target = WorkDir::claim(&self.directory, purpose, &namespaces)?;
        let found = match (target.is_beside(), purpose) {
            (true, _) => TargetState::New,
            (false, Purpose::Merge) => TargetState::Tree,
            (false, _) => TargetState::Empty,
        };
        let options = Options { found, ..options };
        let journal = UndoJournal::new().at("the list of new files", "create")?;
        // As real root, the files are setuid to root itself, as in every other tree of the system.
        let setuid_acts_as = match &namespaces.work {
            Isolation::Namespace(maps) if is_reachable(&self.directory) => maps.uids.to_outer(0),
            _ => None,
        };
        let job = Job {
            unpack: self,
            archive,
            digests,
            options: &options,
            target: &target,
            journal: &journal,
            progress: &progress,
            setuid_acts_as,
        };
        let mut has_begun = false;
        let unpacked = userns::supervise(
            Supervision {
                progress: Some(&progress),
                ..Supervision::of_work(&namespaces.work, observer)
            },
            |Ask::Begin, _| {
                has_begun = true;
                Ok(().into())
            },
            || Ok(()),
            |caller, ()| job.run(caller),
        );
        match unpacked {
            Ok(summary) => {
                let path = bytes(&self.directory);
                let directory = match self.sync {
                    true => Some(
                        target
                            .directory()
                            .try_clone_to_owned()
                            .at(path, "open once more")?,
                    ),
                    false => None,
                };
                target.publish()?;
                if let Some(directory) = directory {
                    sync_file_system(&directory).at(path, "sync the file system")?;
                }
                Ok(summary)
            }
            Err(error) => {
                let undone = self.undo(target, has_begun, &options, &journal);
                // The first error is the one to report, unless something is left behind.
                undone.context(|| format!("{error}; what was unpacked could not be removed"))?;
                Err(error)
            }
        }
    }

    fn undo(
        &self,
        target: WorkDir<'_>,
        has_begun: bool,
        options: &Options,
        journal: &UndoJournal,
    ) -> Result<(), Error> {
        let original = OriginalAttributes {
            uid: options.maps.uids.to_inner(target.original().st_uid),
            gid: options.maps.gids.to_inner(target.original().st_gid),
            mode: Mode::from_raw_mode(target.original().st_mode),
        };
        let journal = (options.found == TargetState::Tree).then_some(journal);
        target.abandon(|root| match has_begun {
            true => Ok(unpack::undo(root, journal, original, options.threads)?),
            false => Ok(()),
        })
    }

    fn options(&self, isolation: &Isolation, maps: IdMaps) -> Result<Options, Error> {
        let creates_devices = self
            .devices
            .unwrap_or(*isolation == Isolation::None && is_real_root());
        Ok(Options {
            selection: Selection::new(&self.members)?,
            exclude: Patterns::new(self.exclude.iter().map(String::as_str))?,
            names: Rules {
                strip_components: self.strip_components,
                strip_leading_slash: self.strip_leading_slash,
            },
            devices: if creates_devices {
                Devices::Create
            } else {
                Devices::Skip
            },
            keep_directory_symlink: self.keep_directory_symlink,
            xattrs: match self.xattrs {
                true => Xattrs::All,
                false => Xattrs::None,
            },
            threads: threads(self.threads),
            memory: WRITING.min(self.decoding() / 8 * 5),
            allowance: Allowance::new(match self.memory {
                Some(memory) => memory - self.decoding(),
                None => REMEMBERED,
            }),
            limit_size: self.limit_size,
            limit_members: self.limit_members,
            maps,
            found: TargetState::New,
        })
    }

    fn input(&self) -> input::Options {
        input::Options {
            threads: threads(self.threads),
            memory: self.decoding(),
            window_log: self.window_log,
            eager: false,
        }
    }

    /// Memory for decoded data, in bytes.
    fn decoding(&self) -> u64 {
        let further = threads(self.threads).saturating_sub(2) as u64;
        let most = MEMORY + MEMORY_PER_THREAD * further;
        self.memory.map_or(most, |memory| most.min(memory / 2))
    }

    /// The old tree is going to be removed: the archive must not go with it.
    fn must_lie_outside(&self) -> Result<(), Error> {
        let ArchivePath::File(archive) = &self.archive else {
            return Ok(());
        };
        // A pipe, and a file that is removed by now, lies nowhere.
        let (Ok(archive), Ok(directory)) = (archive.canonicalize(), open_tree(&self.directory))
        else {
            return Ok(());
        };
        if !is_inside(&archive, directory.as_fd())? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "it lies inside {:?}, which is going to be replaced; move it out of there first",
                self.directory
            ),
        ))
    }
}

/// Options for a tree that belongs to an imager task: all members, no device nodes.
pub(super) fn plain_options(isolation: &Isolation) -> Result<(input::Options, Options), Error> {
    let plain = Unpack::new("", "");
    let options = plain.options(isolation, session::maps(isolation)?)?;
    Ok((plain.input(), options))
}

fn must_be(expected: [u8; 32], found: [u8; 32]) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::WrongDigest,
        format!(
            "the SHA-256 of the archive is {}, not {} as demanded",
            hex(&found),
            hex(&expected)
        ),
    ))
}

/// True for root of the whole machine, rather than of a namespace.
fn is_real_root() -> bool {
    let map = fs::read("/proc/self/uid_map")
        .ok()
        .and_then(|text| IdMap::parse(&text).ok());
    rustix::process::geteuid().is_root()
        && map.is_some_and(|map| map.count() == u32::MAX && map.to_outer(0) == Some(0))
}

/// True if other users may go through the directories above `path`, by their modes. Missing ones
/// will be open to others.
fn is_reachable(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else {
        return true;
    };
    let existing = path.ancestors().skip(1).find(|above| above.exists());
    existing.is_none_or(is_open_to_others)
}

/// The work of the child.
struct Job<'a> {
    unpack: &'a Unpack,
    archive: File,
    /// Those of a file whose SHA-256 was demanded.
    digests: Option<Arc<Digests>>,
    options: &'a Options,
    target: &'a WorkDir<'a>,
    journal: &'a UndoJournal,
    progress: &'a Progress,
    /// The uid on the host that setuid files run as, if other users can reach them.
    setuid_acts_as: Option<u32>,
}

impl Job<'_> {
    fn run(self, caller: &mut Caller<Ask>) -> Result<Summary, Error> {
        let Job {
            target,
            unpack,
            setuid_acts_as,
            ..
        } = self;
        let summary = self.unpack(caller)?;
        // The old tree is removed as soon as the new one has its name.
        if unpack.sync || target.replaces_another() {
            sync_file_system(target.directory()).at("", "sync the file system")?;
        }
        let root = fstat(target.directory()).at("", "stat")?;
        if let Some(uid) = setuid_acts_as
            && summary.setuid_root > 0
            && root.st_mode & 0o001 != 0
        {
            caller.notice(Notice::SetuidReachable {
                directory: unpack.directory.to_string_lossy().into_owned(),
                count: summary.setuid_root,
                uid,
            });
        }
        if summary.unknown_types > 0 {
            caller.notice(Notice::UnknownTypes(summary.unknown_types));
        }
        target.finish()?;
        Ok(summary)
    }

    fn unpack(self, caller: &mut Caller<Ask>) -> Result<Summary, Error> {
        let metadata = self.archive.metadata().at("the archive", "stat")?;
        if metadata.is_file() {
            self.progress
                .total()
                .store(metadata.len(), Ordering::Relaxed);
        }
        let (hashed, archive) = match self.unpack.sha256 {
            Some(expected) if !metadata.is_file() => {
                let (hashed, pipe) = Hashed::begin(self.archive).at("the archive", "hash")?;
                (Some((hashed, expected)), pipe)
            }
            _ => (None, self.archive),
        };
        let open = || -> Result<Input, Error> {
            let archive = archive.try_clone().at("the archive", "open once more")?;
            Ok(Input::open_with(
                archive,
                self.digests.clone(),
                &self.unpack.input(),
            )?)
        };
        let content = || -> Result<u64, Error> { Ok(member_stream::data_bytes(&mut open()?)?) };
        let mut input = open()?;
        let unpacking = Unpacking::prepare(
            self.target.directory(),
            input.content(),
            content,
            self.options,
        )
        .context(|| format!("{:?}", self.unpack.directory))?;
        caller.ask(Ask::Begin)?;
        self.target.begin()?;
        let summary = unpacking.run(&mut input, Some(self.journal), self.progress)?;
        drop(input);
        let excluded = self.options.exclude.left_out();
        let excluded: Vec<&[u8]> = excluded.iter().map(Vec::as_slice).collect();
        if self.unpack.report_left_out {
            for path in &excluded {
                caller.notice(excludes::left_out(path, "excluded"));
            }
        }
        let directory = &self.unpack.directory;
        for notice in excludes::unmatched(&self.options.exclude, &excluded, directory) {
            caller.notice(notice);
        }
        if let Some((hashed, expected)) = hashed {
            must_be(expected, hashed.finish().at("the archive", "read")?)?;
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_directory_above_keeps_others_out() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        let set =
            |mode| fs::set_permissions(scratch.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        assert!(!is_reachable(&scratch.path().join("a/b")));
        assert!(!is_reachable(&scratch.path().join("a/missing/too")));
    }
}
