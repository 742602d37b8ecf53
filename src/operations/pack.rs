//! A tree into a chroot tarball.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::archive::{ArchivePath, threads};
use super::excludes;
use super::session::Session;
use super::tree_owner::ForeignOwner;
use super::tree_path::open_tree_inside;
use crate::entry::Timestamp;
use crate::error::{Classify, Context, Error, ErrorKind, PathContext};
use crate::observer::{Notice, Observer};
use crate::pack::plan::FrameSizing;
use crate::pack::reuse::{self, Old, Reuse};
use crate::pack::{self, Format, Memory, Options, Packed, Summary, Unmapped, hex};
use crate::parallel;
use crate::progress::Progress;
use crate::sbuild::check::StreamingCheck;
use crate::sbuild::rules::{self, Rule};
use crate::sys;
use crate::tree::exclude::Patterns;
use crate::tree::mount_record;
use crate::tree::walk::{self, LeftOut, Reason};
use crate::userns::{self, Caller, HeldSignals, Isolation, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::directory::is_unfinished;
use crate::workdir::lock::{self, Mode as LockMode};
use crate::workdir::opening::open_directory;
use crate::workdir::output::{OutputFile, WritebackWriter, refuse_inside};
use crate::workdir::removal;
use crate::workdir::retired::Retired;
use crate::workdir::trust::Trust;
use crate::zst::compress::Level;

/// Excluded by default: downloaded packages, the mount point of isar's own package repository, and
/// the record of mount points that a killed `chroot` leaves.
pub const DEFAULT_EXCLUDES: [&str; 3] =
    ["/var/cache/apt/archives", "/isar-apt", mount_record::NAME];

/// Packs a tree into an archive that sbuild loads.
#[derive(Clone, Debug)]
pub struct Pack {
    /// The user namespace.
    pub session: Session,
    /// The tree.
    pub rootfs: PathBuf,
    /// The archive. A name that ends in `.tar.zst` or `.tar` must fit the format: sbuild 0.85 goes
    /// by it.
    pub archive: ArchivePath,
    /// zstd with a level, or a plain tar.
    pub format: Format,
    /// Worker threads; 0 for one per CPU. The archive is the same for any number.
    pub threads: usize,
    /// Limit of memory.
    pub memory: Memory,
    /// Minimum size of a frame in bytes, from 1 MiB to 64 MiB; `None` for the default.
    pub frame_size: Option<u64>,
    /// Enter other file systems and bind mounts.
    pub cross_mounts: bool,
    /// Patterns of what is left out, anchored at the root of the tree; see [`DEFAULT_EXCLUDES`].
    pub exclude: Vec<String>,
    /// Report each path that is left out to the observer ([`Notice::LeftOut`]).
    pub report_left_out: bool,
    /// Keep device nodes.
    pub devices: bool,
    /// Store extended attributes, capabilities and ACLs.
    pub xattrs: bool,
    /// What happens to owners that sbuild cannot map, and to ACL entries for users and groups that
    /// the namespace does not map.
    pub unmapped: Unmapped,
    /// Pack the tree even if its root does not belong to 0:0 of the id map. sbuild then builds in
    /// a tree whose programs do not belong to root.
    pub any_root_owner: bool,
    /// Store whole seconds only.
    pub whole_seconds: bool,
    /// Times that are stored as this one if they are later, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Compute the SHA-256 of the archive.
    pub sha256: bool,
    /// Write the SHA-256 to this file, in the format of `sha256sum`.
    pub digest: Option<PathBuf>,
    /// Reuse unchanged frames of this older archive. The new archive is the same without.
    pub reuse: Option<PathBuf>,
    /// The directory of the files that describe archives for reuse; `None` for that of the archive.
    pub state: Option<PathBuf>,
    /// With `reuse`: do not read files whose metadata are those of the older archive.
    pub trust_metadata: bool,
    /// Remove the tree once the archive is synced and has its name.
    pub remove_source: bool,
}

/// What the child asks the caller for.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// Everything is written and synced: give the files their names.
    Publish,
    /// Take the name of the tree away, which is about to be emptied.
    SetAside,
    /// The tree is empty: remove its directory.
    RemoveRoot,
}

impl Pack {
    /// Packs `rootfs` into `archive` with default options: zstd, unless the name of the archive
    /// ends in `.tar`.
    pub fn new(rootfs: impl Into<PathBuf>, archive: impl Into<ArchivePath>) -> Pack {
        let archive = archive.into();
        let format = match &archive {
            ArchivePath::File(path) if path.as_os_str().as_bytes().ends_with(b".tar") => {
                Format::Tar
            }
            _ => Format::Zstd(Level::DEFAULT),
        };
        Pack {
            session: Session::default(),
            rootfs: rootfs.into(),
            archive,
            format,
            threads: 0,
            memory: Memory::DEFAULT,
            frame_size: None,
            cross_mounts: false,
            exclude: DEFAULT_EXCLUDES.map(String::from).into(),
            report_left_out: false,
            devices: false,
            xattrs: true,
            unmapped: Unmapped::Error,
            any_root_owner: false,
            whole_seconds: false,
            clamp_mtime: None,
            sha256: true,
            digest: None,
            reuse: None,
            state: None,
            trust_metadata: false,
            remove_source: false,
        }
    }

    /// Packs the tree. The archive appears whole or not at all.
    ///
    /// # Errors
    ///
    /// Any failure leaves the archive, if there is one, and the tree as they were. Only if the tree
    /// cannot be removed at the end, the new archive stays.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Summary, Error> {
        self.pack(observer)
            .context(|| format!("cannot pack {:?}", self.rootfs))
    }

    fn pack(&self, observer: &mut dyn Observer) -> Result<Summary, Error> {
        self.refuse_contradictions()?;
        let options = self.options()?;
        let namespaces = self.session.namespaces(observer)?;
        let root = self.open_root(&namespaces)?;
        if !self.any_root_owner
            && let Some(owner) = ForeignOwner::of(root.as_fd(), &self.session, &namespaces)?
        {
            return Err(owner.error());
        }
        // A pipe is opened once it has a reader. Until then a signal may stop this.
        let outputs = Outputs::open(self, &root, &namespaces.whole)?;
        let inputs = ReuseInputs::open(self, &namespaces.whole)?;
        let progress = Progress::shared()?;
        let _held = HeldSignals::new()?;
        let mut source = match self.remove_source {
            true => Some(Retired::claim(&self.rootfs, &namespaces)?.ok_or_else(|| self.gone())?),
            false => None,
        };
        let root = match &source {
            // Pack the same directory that is removed afterwards.
            Some(source) => source
                .directory()
                .try_clone_to_owned()
                .at("", "open once more")?,
            None => root,
        };
        let mut outputs = outputs.begin()?;
        let job = Job {
            pack: self,
            root,
            files: outputs.files()?,
            inputs,
            options,
            progress: &progress,
        };
        let mut is_published = false;
        let packed = userns::supervise(
            Supervision {
                progress: Some(&progress),
                ..Supervision::of_work(&namespaces.work, observer)
            },
            |ask, _| {
                match (ask, &mut source) {
                    (Ask::Publish, _) => {
                        outputs.publish()?;
                        is_published = true;
                    }
                    (Ask::SetAside, Some(source)) => source.set_aside()?,
                    (Ask::RemoveRoot, Some(source)) => source.remove()?,
                    (Ask::SetAside | Ask::RemoveRoot, None) => {}
                }
                Ok(().into())
            },
            || Ok(()),
            |caller, ()| job.run(caller),
        );
        match (packed, source) {
            // The removal had begun: the rest must not be taken for the tree.
            (Err(error), Some(source)) if source.is_aside() => match source.remove() {
                Ok(()) => Err(error),
                Err(_) => Err(error.context(format!(
                    "the archive is complete, but the tree could not be removed; \
                     its remaining files are in {:?}",
                    source.path()
                ))),
            },
            (packed, _) if is_published => {
                packed.context(|| "the archive is complete, but the tree could not be removed")
            }
            (packed, _) => packed.map_err(|error| {
                let trust = Trust::new(&namespaces.whole);
                trust.explain(error, &self.rootfs)
            }),
        }
    }

    fn refuse_contradictions(&self) -> Result<(), Error> {
        let invalid = |text: &str| Err(Error::new(ErrorKind::InvalidInput, text));
        match &self.archive {
            ArchivePath::Stdio if self.remove_source => invalid(
                "the tree cannot be removed behind an archive that goes to stdout: \
                 nothing tells whether it arrived",
            ),
            ArchivePath::File(path) => {
                let name = path.as_os_str().as_bytes();
                match self.format {
                    Format::Tar if name.ends_with(b".tar.zst") => invalid(
                        "a plain tar must not be named .tar.zst: sbuild 0.85 would decompress it",
                    ),
                    _ => Ok(()),
                }
            }
            ArchivePath::Stdio => Ok(()),
        }
    }

    fn options(&self) -> Result<Options, Error> {
        Ok(Options {
            walk: walk::Options {
                exclude: Patterns::new(self.exclude.iter().map(String::as_str))?,
                cross_mounts: self.cross_mounts,
                devices: self.devices,
            },
            format: self.format,
            threads: threads(self.threads),
            memory: self.memory,
            xattrs: self.xattrs,
            unmapped: self.unmapped,
            clamp_mtime: self.clamp_mtime,
            whole_seconds: self.whole_seconds,
            sha256: self.sha256 || self.digest.is_some(),
            cuts: match self.format {
                Format::Zstd(_) => self
                    .frame_size
                    .map_or_else(FrameSizing::default, FrameSizing::sized),
                Format::Tar => FrameSizing::PLAIN,
            },
        })
    }

    fn open_root(&self, namespaces: &Namespaces) -> Result<OwnedFd, Error> {
        open_tree_inside(&self.rootfs, &namespaces.whole).map_err(|error| match error.kind() {
            ErrorKind::NotFound if self.remove_source => {
                // An earlier run may have left a part of it under its hidden name, which goes too.
                // No error counts: the missing tree is one already.
                if let Ok(_held) = HeldSignals::new() {
                    let _ = Retired::claim(&self.rootfs, namespaces);
                }
                self.gone()
            }
            _ => error,
        })
    }

    /// The error of a tree that an earlier run may have removed.
    fn gone(&self) -> Error {
        let found = match &self.archive {
            ArchivePath::File(path) if path.exists() => {
                format!(": {path:?} exists, so an earlier run may have packed and removed the tree")
            }
            _ => String::new(),
        };
        Error::new(ErrorKind::NotFound, format!("the tree is gone{found}"))
    }

    /// The line that `sha256sum` would print for the archive, so that `sha256sum --check` finds it
    /// from the directory of the digest.
    fn digest_line(&self, sha256: &[u8; 32]) -> Vec<u8> {
        let name = match &self.archive {
            ArchivePath::Stdio => b"-".to_vec(),
            ArchivePath::File(path) => {
                let same_directory = self.digest.as_deref().and_then(Path::parent) == path.parent();
                match path.file_name() {
                    Some(name) if same_directory => name.as_bytes().to_vec(),
                    _ => std::path::absolute(path)
                        .unwrap_or_else(|_| path.clone())
                        .as_os_str()
                        .as_bytes()
                        .to_vec(),
                }
            }
        };
        // sha256sum marks a name with escapes by a backslash in front of the line.
        let escaped: Vec<u8> = name
            .iter()
            .flat_map(|byte| match byte {
                b'\\' => b"\\\\".to_vec(),
                b'\n' => b"\\n".to_vec(),
                b'\r' => b"\\r".to_vec(),
                other => vec![*other],
            })
            .collect();
        let mark: &[u8] = if escaped == name { b"" } else { b"\\" };
        [mark, hex(sha256).as_bytes(), b"  ", &escaped, b"\n"].concat()
    }

    /// Where the state of `archive` is. A dot hides it from sbuild, which takes any `NAME.t*` in
    /// its cache for a chroot.
    fn state_path(&self, archive: &Path) -> Result<PathBuf, Error> {
        let name = archive.file_name().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{archive:?} names no file"),
            )
        })?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".state");
        Ok(match &self.state {
            Some(directory) => directory.join(hidden),
            None => archive.with_file_name(hidden),
        })
    }
}

/// The files that are created, on the caller's side.
struct Outputs {
    archive: OutputFile,
    digest: Option<OutputFile>,
    /// The state of the archive: a later pack needs it to reuse frames.
    state: Option<OutputFile>,
}

/// The same files, for the child.
struct OutputFiles {
    archive: File,
    is_stream: bool,
    digest: Option<File>,
    state: Option<File>,
}

impl Outputs {
    fn open(pack: &Pack, root: &OwnedFd, isolation: &Isolation) -> Result<Outputs, Error> {
        let open = |path: &Path| -> Result<OutputFile, Error> {
            refuse_inside(path, root)?;
            Ok(OutputFile::open(path)?)
        };
        let archive = match &pack.archive {
            ArchivePath::Stdio => OutputFile::stdout()?,
            ArchivePath::File(path) => open(path)?,
        };
        archive.refuse_terminal()?;
        if pack.remove_source && archive.is_stream() {
            let text = "the tree cannot be removed behind an archive that goes to a pipe or device";
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let digest = pack.digest.as_deref().map(open).transpose()?;
        let wants_state = pack.reuse.is_some() || pack.state.is_some();
        let state = match &pack.archive {
            ArchivePath::File(path) if wants_state && !archive.is_stream() => {
                if let Some(directory) = &pack.state {
                    Trust::new(isolation).open_or_create(directory)?;
                }
                Some(open(&pack.state_path(path)?)?)
            }
            _ => None,
        };
        for (output, name) in [
            (Some(&archive), "archive itself"),
            (state.as_ref(), "archive's state"),
        ] {
            if let (Some(output), Some(digest)) = (output, &digest)
                && output.is_same_name(digest)?
            {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("the digest would replace the {name}; choose another file"),
                ));
            }
        }
        Ok(Outputs {
            archive,
            digest,
            state,
        })
    }

    fn all(&mut self) -> impl Iterator<Item = &mut OutputFile> {
        // The state last: until it has its name, the old one does not fit the new archive, which
        // the next pack sees.
        [&mut self.archive]
            .into_iter()
            .chain(&mut self.digest)
            .chain(&mut self.state)
    }

    /// Creates the files. From here on they are removed again unless they are published.
    fn begin(mut self) -> Result<Outputs, Error> {
        self.all().try_for_each(|output| output.begin())?;
        Ok(self)
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.all().try_for_each(|output| Ok(output.publish()?))
    }

    fn files(&self) -> Result<OutputFiles, Error> {
        let again = |output: &OutputFile| -> Result<File, Error> {
            Ok(output
                .file()?
                .try_clone()
                .at("the output", "open once more")?)
        };
        Ok(OutputFiles {
            archive: again(&self.archive)?,
            is_stream: self.archive.is_stream(),
            digest: self.digest.as_ref().map(again).transpose()?,
            state: self.state.as_ref().map(again).transpose()?,
        })
    }
}

/// What the caller opens for reuse.
struct ReuseInputs {
    /// This program: another one may compress in another way.
    program: File,
    /// The older archive with its state, or the reason why there is none.
    old: Option<Result<(File, Vec<u8>), Error>>,
}

impl ReuseInputs {
    /// `None` if neither reuse nor a state for the next time is wanted.
    fn open(pack: &Pack, isolation: &Isolation) -> Result<Option<ReuseInputs>, Error> {
        if pack.reuse.is_none() && pack.state.is_none() {
            return Ok(None);
        }
        let program = File::open("/proc/self/exe").at("/proc/self/exe", "open")?;
        let old = match &pack.reuse {
            Some(old) => Some(open_old(old, &pack.state_path(old)?, isolation)),
            None => None,
        };
        Ok(Some(ReuseInputs { program, old }))
    }

    /// For the pack that is about to begin. Frames that cannot be reused are reported, not treated
    /// as errors.
    fn reuse(self, pack: &Pack, caller: &mut Caller<Ask>) -> Result<Reuse, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let started = Timestamp {
            seconds: now.as_secs().cast_signed(),
            nanoseconds: now.subsec_nanos(),
        };
        let maps = id_maps().at("/proc/self/uid_map", "read")?;
        let context = reuse::context(&self.program, &maps).at("the program itself", "read")?;
        let old = self.old.map(|old| {
            old.map_err(|error| error.to_string())
                .and_then(|(file, state)| {
                    Old::new(file, &state, &context).map_err(|error| error.to_string())
                })
        });
        if let (Some(archive), Some(Err(reason))) = (&pack.reuse, &old) {
            caller.notice(Notice::NothingReused {
                archive: archive.to_string_lossy().into_owned(),
                reason: reason.clone(),
            });
        }
        Ok(Reuse {
            context,
            old: old.and_then(Result::ok),
            trust_metadata: pack.trust_metadata,
            started,
        })
    }
}

fn open_old(archive: &Path, state: &Path, isolation: &Isolation) -> Result<(File, Vec<u8>), Error> {
    let open = |path: &Path| -> Result<File, Error> {
        // Not waiting for the other end, should it be a pipe.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let shown = path.as_os_str().as_bytes();
        let file = File::options().read(true).custom_flags(flags).open(path);
        let file = file.at(shown, "open")?;
        if !file.metadata().at(shown, "stat")?.is_file() {
            let text = format!("{path:?} is not a regular file");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(file)
    };
    let archive = open(archive)?;
    let file = open(state)?;
    // A state decides which bytes are reused.
    Trust::new(isolation).own_and_closed(file.as_fd(), state)?;
    let mut bytes = Vec::new();
    file.take(reuse::LARGEST)
        .read_to_end(&mut bytes)
        .at(state.as_os_str().as_bytes(), "read")?;
    Ok((archive, bytes))
}

/// How the owners, ACLs and capabilities of the tree are numbered here.
fn id_maps() -> io::Result<Vec<u8>> {
    let mut maps = std::fs::read("/proc/self/uid_map")?;
    maps.extend(std::fs::read("/proc/self/gid_map")?);
    Ok(maps)
}

/// The work of the child.
struct Job<'a> {
    pack: &'a Pack,
    root: OwnedFd,
    files: OutputFiles,
    inputs: Option<ReuseInputs>,
    options: Options,
    progress: &'a Progress,
}

impl Job<'_> {
    fn run(mut self, caller: &mut Caller<Ask>) -> Result<Summary, Error> {
        // Released memory goes back to the system, so that the limit holds.
        sys::give_memory_back();
        let reuse = match self.inputs.take() {
            Some(inputs) => Some(inputs.reuse(self.pack, caller)?),
            None => None,
        };
        let _lock = self.lock_root()?;
        let root = self.root.try_clone().at("", "open once more")?;
        let out = &mut WritebackWriter::new(&self.files.archive);
        let packed = pack::pack(root, &self.options, self.progress, reuse.as_ref(), out)?;
        let Packed {
            summary,
            rules,
            state,
            left_out,
        } = packed;
        self.report_left_out(&left_out, caller);
        if let (Some(old), count @ 1..) = (&self.pack.reuse, summary.damaged_frames) {
            caller.notice(Notice::DamagedFrames {
                archive: old.to_string_lossy().into_owned(),
                count,
            });
        }
        if !self.files.is_stream {
            // The one waits for the disk, the other computes.
            thread::scope(|scope| {
                let synced = parallel::spawn(scope, || self.files.archive.sync_all());
                self.judge(rules)?;
                let synced = match synced {
                    Ok(thread) => parallel::join(thread),
                    Err(_) => self.files.archive.sync_all(),
                };
                Ok::<_, Error>(synced.at("the archive", "sync")?)
            })?;
        }
        if let (Some(digest), Some(sha256)) = (&mut self.files.digest, &summary.sha256) {
            let line = self.pack.digest_line(sha256);
            write_and_sync(digest, &line).at("the digest", "write")?;
        }
        if let (Some(file), Some(state)) = (&mut self.files.state, state) {
            write_and_sync(file, &state.encode()).at("the archive's state", "write")?;
        }
        caller.ask(Ask::Publish)?;
        if self.pack.remove_source {
            caller.ask(Ask::SetAside)?;
            removal::contents(
                self.root.as_fd(),
                &removal::Options::all(self.options.threads),
            )?;
            caller.ask(Ask::RemoveRoot)?;
        }
        Ok(summary)
    }

    /// Reports what was left out if the caller wants to know, and patterns that matched nothing.
    fn report_left_out(&self, left_out: &[LeftOut], caller: &mut Caller<Ask>) {
        if self.pack.report_left_out {
            for LeftOut { path, reason } in left_out {
                caller.notice(excludes::left_out(path, reason.text()));
            }
        }
        let excluded: Vec<&[u8]> = left_out
            .iter()
            .filter(|left_out| left_out.reason == Reason::Excluded)
            .map(|left_out| left_out.path.as_slice())
            .collect();
        let patterns = &self.options.walk.exclude;
        for notice in excludes::unmatched(patterns, &excluded, &self.pack.rootfs) {
            caller.notice(notice);
        }
    }

    /// Keeps operations that fill or remove a tree out of it. One that is removed in the end has
    /// the caller's exclusive lock.
    fn lock_root(&self) -> Result<Option<OwnedFd>, Error> {
        // A tree that cannot be read is reported by the walk.
        let Ok(root) = open_directory(self.root.as_fd(), b".") else {
            return Ok(None);
        };
        if is_unfinished(root.as_fd()) {
            return Err(Error::new(
                ErrorKind::BadTree,
                "the tree is incomplete: an operation that filled it was killed; fill it again",
            ));
        }
        if !self.pack.remove_source {
            lock::claim(&root, LockMode::Shared, &self.pack.rootfs)?;
        }
        Ok(Some(root))
    }

    /// Checks what was just written against sbuild's loading rules. A violation is a bug of this
    /// program or a fault of the disk.
    fn judge(&self, rules: StreamingCheck) -> Result<(), Error> {
        let name = match &self.pack.archive {
            ArchivePath::File(path) => path.file_name().unwrap_or_default(),
            ArchivePath::Stdio => "".as_ref(),
        };
        let report = rules
            .end(&self.files.archive, name.as_encoded_bytes())
            .context(|| "read the archive back")?;
        // Device nodes are kept at the caller's wish, though sbuild 0.85 takes few of them.
        let is_wanted = |rule: &Rule| self.options.walk.devices && *rule == rules::DEVICE_NODE;
        let is_bad = |rule: &Rule| !rule.is_intact || !rule.loaders.is_empty() && !is_wanted(rule);
        let bad = report
            .findings
            .iter()
            .filter(|finding| is_bad(finding.rule));
        let findings: Vec<String> = bad.take(3).map(ToString::to_string).collect();
        if findings.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::BadArchive,
            format!(
                "sbuild would not load the new archive: {}",
                findings.join("; ")
            ),
        ))
    }
}

/// A stream cannot be synced, and need not be.
fn write_and_sync(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    match file.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced,
    }
}

impl Classify for pack::Error {
    fn kind(&self) -> ErrorKind {
        match self {
            pack::Error::File(error) => error.kind(),
            pack::Error::Walk(walk::Error::File(error)) => error.kind(),
            pack::Error::Write(error) => Classify::kind(error),
            pack::Error::Unmapped(_) => ErrorKind::UnmappedOwner,
            pack::Error::Memory { .. } => ErrorKind::MemoryLimit,
            pack::Error::Vanished { .. }
            | pack::Error::Replaced { .. }
            | pack::Error::Shrank { .. }
            | pack::Error::Grew { .. }
            | pack::Error::Changed { .. } => ErrorKind::Changed,
            pack::Error::Compress(_) | pack::Error::Thread(_) | pack::Error::Unverified => {
                ErrorKind::Io
            }
            pack::Error::Xattr(error) => error.kind(),
            pack::Error::Walk(_) | pack::Error::Member(_) => ErrorKind::BadTree,
        }
    }
}
