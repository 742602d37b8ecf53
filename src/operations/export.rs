//! Files and directories of a tree, copied out as the caller's own.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::excludes;
use super::export_directory::{Content, CopiedDirectory};
use super::session::Session;
use super::tree_path::open_tree_inside;
use crate::error::{Context, Error, ErrorKind, FileError, PathContext};
use crate::export::{self, Found, Kind};
use crate::observer::Observer;
use crate::tree::walk::{self, NodeId, NodeKind, Tree};
use crate::tree::{holes, walk::Identity};
use crate::userns::{self, Caller, HeldSignals, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::output::OutputFile;

/// Copies files and directories out of a tree.
#[derive(Clone, Debug)]
pub struct Export {
    /// The user namespace.
    pub session: Session,
    /// The tree.
    pub rootfs: PathBuf,
    /// Paths or patterns in the tree.
    pub members: Vec<Vec<u8>>,
    /// A directory, or for a single member its new name.
    pub destination: PathBuf,
    /// Permissions of the copies of files; directories may also be entered by those who may read
    /// them. `None` for the permissions in the tree, less the umask.
    pub mode: Option<u32>,
}

/// A file or directory that [`Export`] copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its path in the tree.
    pub member: Vec<u8>,
    /// The copy.
    pub file: PathBuf,
    /// Its length in bytes; for a directory that of all files in it.
    pub bytes: u64,
}

/// What the child asks the caller for.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// Copy the open file that comes with it. The value is the member's path.
    File(Vec<u8>),
    /// Begin to copy a directory: the member's path, the permissions.
    Directory(Vec<u8>, u32),
    /// Copy what has this path below the directory. A file comes with it, open.
    Add(Vec<u8>, Content),
    /// The directory is complete.
    Finish,
}

impl Export {
    /// Copies one member to `destination`.
    pub fn new(
        rootfs: impl Into<PathBuf>,
        member: impl Into<Vec<u8>>,
        destination: impl Into<PathBuf>,
    ) -> Export {
        Export {
            session: Session::default(),
            rootfs: rootfs.into(),
            members: vec![member.into()],
            destination: destination.into(),
            mode: None,
        }
    }

    /// Copies the members. Each is written beside its name and renamed. No copy ever has more
    /// permissions than the original, unless [`Export::mode`] gives them.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Vec<Exported>, Error> {
        self.export(observer)
            .map_err(|error| self.session.explain(error, &self.rootfs))
            .context(|| format!("cannot export from {:?}", self.rootfs))
    }

    fn export(&self, observer: &mut dyn Observer) -> Result<Vec<Exported>, Error> {
        let into_directory = self.destination.is_dir();
        let namespaces = self.session.namespaces(observer)?;
        let root = open_tree_inside(&self.rootfs, &namespaces.whole)?;
        if !into_directory {
            // A pipe or device is opened while a signal may stop this, and written to by the child.
            let output = OutputFile::open(&self.destination)?;
            if output.is_stream() {
                return self.export_to_stream(&root, &output, &namespaces, observer);
            }
        }
        let _held = HeldSignals::new()?;
        let mut receiver = Receiver {
            export: self,
            into_directory,
            copied: Vec::new(),
            directory: None,
        };
        userns::supervise(
            Supervision::of_work(&namespaces.work, observer),
            |ask, file| {
                receiver.answer(ask, file)?;
                Ok(().into())
            },
            || Ok(()),
            |caller, ()| self.send(&root, into_directory, caller),
        )?;
        Ok(receiver.copied)
    }

    fn export_to_stream(
        &self,
        root: &OwnedFd,
        output: &OutputFile,
        namespaces: &Namespaces,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Exported>, Error> {
        let to = output.file()?;
        let _held = HeldSignals::new()?;
        let supervision = Supervision::of_work(&namespaces.work, observer);
        let (member, bytes) = userns::run(supervision, |_| {
            let found = self.find(root, false)?.pop();
            let (member, kind) =
                found.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no member is given"))?;
            if kind == Kind::Directory {
                let text = "a directory cannot be written to a pipe or device";
                return Err(Error::new(ErrorKind::InvalidInput, text));
            }
            let file = File::from(export::open(root.as_fd(), &member)?);
            let mut front = Vec::new();
            (&file)
                .take(FRONT)
                .read_to_end(&mut front)
                .at(&member, "read")?;
            if front.contains(&0) {
                output.refuse_terminal()?;
            }
            let copied = (&*to)
                .write_all(&front)
                .and_then(|()| io::copy(&mut &file, &mut &*to));
            let bytes = copied.at(&member, "copy")?;
            Ok((member, front.len() as u64 + bytes))
        })?;
        Ok(vec![Exported {
            member,
            file: self.destination.clone(),
            bytes,
        }])
    }

    /// Finds the members inside and sends them to the caller, one after the other.
    fn send(
        &self,
        root: &OwnedFd,
        into_directory: bool,
        caller: &mut Caller<Ask>,
    ) -> Result<(), Error> {
        for (path, kind) in self.find(root, into_directory)? {
            let member = export::open(root.as_fd(), &path)?;
            match kind {
                Kind::File => {
                    caller.exchange(Ask::File(path), Some(member.as_fd()))?;
                }
                Kind::Directory => send_directory(path, &member, caller)?,
            }
        }
        Ok(())
    }

    /// The members, which fit the destination.
    fn find(&self, root: &OwnedFd, into_directory: bool) -> Result<Vec<Found>, Error> {
        let found = export::find(root.as_fd(), &self.members)?;
        if found.len() > 1 && !into_directory {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{} files need a directory as destination; create it first",
                    found.len()
                ),
            ));
        }
        export::refuse_same_names(&found)?;
        Ok(found)
    }
}

/// How much of a file decides whether it is binary, as for grep: that has a zero byte.
const FRONT: u64 = 8 << 10;

fn send_directory(
    member: Vec<u8>,
    directory: &OwnedFd,
    caller: &mut Caller<Ask>,
) -> Result<(), Error> {
    let mode = export::mode_of(directory.as_fd(), &member)?;
    let tree = walk::walk(directory.as_fd(), &walk::Options::default(), 1)?;
    let shown = |path: &[u8]| [member.as_slice(), b"/", path].concat();
    caller.ask(Ask::Directory(member.clone(), mode))?;
    // Every node is after its directory.
    for id in 1..tree.nodes.len() as NodeId {
        let path = tree.path(id);
        match tree.node(id).kind {
            NodeKind::Symlink => {
                caller.ask(Ask::Add(path, Content::Symlink(tree.target(id).to_vec())))?;
            }
            NodeKind::File => {
                let file = open_node(directory, &tree, id, &path).map_err(|error| FileError {
                    path: shown(&path),
                    ..error
                })?;
                caller.exchange(Ask::Add(path, Content::File), Some(file.as_fd()))?;
            }
            NodeKind::Directory => {
                let opened = open_node(directory, &tree, id, &path)?;
                let mode = export::mode_of(opened.as_fd(), &path)?;
                caller.ask(Ask::Add(path, Content::Directory(mode)))?;
            }
            NodeKind::Fifo => caller.notice(excludes::left_out(&shown(&path), "named pipe")),
            // The walk leaves them out.
            NodeKind::CharDevice(..) | NodeKind::BlockDevice(..) => {}
        }
    }
    for walk::LeftOut { path, reason } in &tree.left_out {
        caller.notice(excludes::left_out(&shown(path), reason.text()));
    }
    caller.ask(Ask::Finish)?;
    Ok(())
}

/// Opens a file or directory that the walk has seen.
fn open_node(
    directory: &OwnedFd,
    tree: &Tree,
    id: NodeId,
    path: &[u8],
) -> Result<OwnedFd, FileError> {
    let opened = walk::open(directory.as_fd(), path, rustix::fs::OFlags::RDONLY)?;
    let stat = walk::stat(opened.as_fd(), c"", path)?;
    let id_of = |identity: Identity| (identity.device, identity.inode);
    match id_of(Identity::of(&stat)) == id_of(tree.node(id).identity) {
        true => Ok(opened),
        false => Err(FileError::new(path, "open", rustix::io::Errno::STALE)),
    }
}

/// The caller's side.
struct Receiver<'a> {
    export: &'a Export,
    into_directory: bool,
    copied: Vec<Exported>,
    /// The directory that is being copied.
    directory: Option<(Exported, CopiedDirectory)>,
}

impl Receiver<'_> {
    fn answer(&mut self, ask: Ask, file: Option<OwnedFd>) -> Result<(), Error> {
        let missing = || Error::new(ErrorKind::Died, "a file was announced and not sent");
        match ask {
            Ask::File(member) => {
                let place = self.place(&member);
                let file = file.ok_or_else(missing)?;
                let bytes = copy_out(&member, file, &place, self.export.mode)?;
                self.copied.push(Exported {
                    member,
                    file: place,
                    bytes,
                });
            }
            Ask::Directory(member, mode) => {
                let place = self.place(&member);
                let directory = CopiedDirectory::create(&place, mode, self.export.mode)?;
                let exported = Exported {
                    member,
                    file: place,
                    bytes: 0,
                };
                self.directory = Some((exported, directory));
            }
            Ask::Add(path, content) => {
                let (exported, directory) = self.directory.as_mut().ok_or_else(missing)?;
                exported.bytes += directory.add(&path, content, file)?;
            }
            Ask::Finish => {
                let (exported, directory) = self.directory.take().ok_or_else(missing)?;
                directory.finish()?;
                self.copied.push(exported);
            }
        }
        Ok(())
    }

    fn place(&self, member: &[u8]) -> PathBuf {
        match self.into_directory {
            true => self.export.destination.join(export::name(member)),
            false => self.export.destination.clone(),
        }
    }
}

/// Copies `file`, which another process opened as `member`, to `place`. Gives the bytes. Without a
/// `mode` the copy has the permissions of the file less the umask, and at no time more.
pub(super) fn copy_out(
    member: &[u8],
    file: OwnedFd,
    place: &Path,
    mode: Option<u32>,
) -> Result<u64, Error> {
    let failed = |error: io::Error| {
        Error::from(FileError::new(member, "copy", error)).context(format!("{place:?}"))
    };
    let own = export::mode_of(file.as_fd(), member)?;
    let mut output = OutputFile::open(place)?;
    output.begin_with_mode(mode.unwrap_or(own))?;
    let mut to = output.file()?;
    let mut file = File::from(file);
    if output.is_stream() {
        return io::copy(&mut file, &mut to).map_err(failed);
    }
    let bytes = holes::copy(&file, to).map_err(failed)?;
    if let Some(mode) = mode {
        to.set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
    }
    to.sync_all().map_err(failed)?;
    output.publish()?;
    Ok(bytes)
}
