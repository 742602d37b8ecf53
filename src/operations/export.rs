//! Files of a tree, copied out as the caller's own.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::open_tree;
use super::session::Session;
use crate::error::{Context, Error, ErrorKind, FileError, PathContext};
use crate::export;
use crate::observer::Observer;
use crate::userns::{self, Caller, HeldSignals, Supervision};
use crate::workdir::Namespaces;
use crate::workdir::output::OutputFile;

/// Copies files out of a tree.
#[derive(Clone, Debug)]
pub struct Export {
    /// The user namespace.
    pub session: Session,
    /// The tree.
    pub rootfs: PathBuf,
    /// Paths or patterns of files in the tree.
    pub members: Vec<Vec<u8>>,
    /// A directory, or for a single file its new name.
    pub destination: PathBuf,
    /// Permissions of the copies; `None` for 0666 less the umask.
    pub mode: Option<u32>,
}

/// A file that [`Export`] copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its path in the tree.
    pub member: Vec<u8>,
    /// The copy.
    pub file: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What the child asks the caller for: to copy the open file that comes with it. The value is the
/// member's path.
type Ask = Vec<u8>;

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

    /// Copies the files. Each is written beside its name and renamed.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Vec<Exported>, Error> {
        self.export(observer)
            .context(|| format!("cannot export from {:?}", self.rootfs))
    }

    fn export(&self, observer: &mut dyn Observer) -> Result<Vec<Exported>, Error> {
        let into_directory = self.destination.is_dir();
        let root = open_tree(&self.rootfs)?;
        let namespaces = self.session.namespaces(observer)?;
        if !into_directory {
            // A pipe or device is opened while a signal may stop this, and written to by the child.
            let output = OutputFile::open(&self.destination)?;
            if output.is_stream() {
                return self.export_to_stream(&root, &output, &namespaces, observer);
            }
        }
        let _held = HeldSignals::new()?;
        let mut copied = Vec::new();
        userns::supervise(
            Supervision::of_work(&namespaces.work, observer),
            |member: Ask, file| {
                let file = file.ok_or_else(|| {
                    Error::new(ErrorKind::Died, "a file was announced and not sent")
                })?;
                let place = match into_directory {
                    true => self.destination.join(export::name(&member)),
                    false => self.destination.clone(),
                };
                let bytes = copy_out(&member, file, &place, self.mode)?;
                copied.push(Exported {
                    member,
                    file: place,
                    bytes,
                });
                Ok(().into())
            },
            || Ok(()),
            |caller, ()| self.send(&root, into_directory, caller),
        )?;
        Ok(copied)
    }

    fn export_to_stream(
        &self,
        root: &OwnedFd,
        output: &OutputFile,
        namespaces: &Namespaces,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Exported>, Error> {
        let mut to = output.file()?;
        let _held = HeldSignals::new()?;
        let supervision = Supervision::of_work(&namespaces.work, observer);
        let (member, bytes) = userns::run(supervision, |_| {
            let mut found = self.find(root, false)?;
            let (member, file) = found
                .pop()
                .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no member is given"))?;
            let bytes = io::copy(&mut File::from(file), &mut to).at(&member, "copy")?;
            Ok((member, bytes))
        })?;
        Ok(vec![Exported {
            member,
            file: self.destination.clone(),
            bytes,
        }])
    }

    /// Finds the files inside and sends them, open, to the caller.
    fn send(
        &self,
        root: &OwnedFd,
        into_directory: bool,
        caller: &mut Caller<Ask>,
    ) -> Result<(), Error> {
        for (path, file) in self.find(root, into_directory)? {
            caller.exchange(path, Some(file.as_fd()))?;
        }
        Ok(())
    }

    /// The files, open, with their paths.
    fn find(&self, root: &OwnedFd, into_directory: bool) -> Result<Vec<(Vec<u8>, OwnedFd)>, Error> {
        let found = export::find(root, &self.members)?;
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

/// Copies `file`, which another process opened as `member`, to `place`. Gives the bytes.
pub(super) fn copy_out(
    member: &[u8],
    file: OwnedFd,
    place: &Path,
    mode: Option<u32>,
) -> Result<u64, Error> {
    let failed = |error: io::Error| {
        Error::from(FileError::new(member, "copy", error)).context(format!("{place:?}"))
    };
    let mut output = OutputFile::open(place)?;
    output.begin()?;
    let mut to = output.file()?;
    let bytes = io::copy(&mut File::from(file), &mut to).map_err(failed)?;
    if let (Some(mode), false) = (mode, output.is_stream()) {
        to.set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
    }
    if !output.is_stream() {
        to.sync_all().map_err(failed)?;
    }
    output.publish()?;
    Ok(bytes)
}
