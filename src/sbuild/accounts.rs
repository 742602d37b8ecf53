//! The files of a chroot that decide the [build users](super::build_user): from a directory, or
//! from an archive.

use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::build_user::{self, BuildUsers, build_users};
use crate::archive::reader::Event;
use crate::entry::Kind;
use crate::error::{Classify, ErrorKind, Escaped, FileError, PathContext};
use crate::tree::{resolve, walk};

/// `etc/passwd` and `etc/login.defs` of a chroot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Its users.
    pub passwd: Vec<u8>,
    /// The settings of its useradd; empty if missing.
    pub login_defs: Vec<u8>,
}

/// Maximum length of a file, in bytes.
const LIMIT: u64 = 4 << 20;
const PASSWD: &[u8] = b"etc/passwd";
const LOGIN_DEFS: &[u8] = b"etc/login.defs";

/// The files of a chroot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a chroot.
    #[error("it has no file etc/passwd, so sbuild cannot build in it")]
    NoPasswd,
    /// One of the files is not a regular file.
    #[error("{}: this is a {kind}, not a regular file", Escaped(path))]
    NotAFile {
        /// Its path.
        path: &'static [u8],
        /// The file at the path.
        kind: &'static str,
    },
    /// The file is longer than any real one.
    #[error("{}: longer than {LIMIT} bytes", Escaped(path))]
    TooLong {
        /// Its path.
        path: &'static [u8],
    },
    /// sbuild cannot create its user.
    #[error(transparent)]
    Users(#[from] build_user::Error),
}

impl Accounts {
    /// Reads the files below `root`, a directory opened in any mode. Resolves symbolic links as in
    /// the chroot, so none leads out of it.
    pub fn of_directory(root: BorrowedFd<'_>) -> Result<Accounts, Error> {
        Ok(Accounts {
            passwd: read(root, PASSWD)?.ok_or(Error::NoPasswd)?,
            login_defs: read(root, LOGIN_DEFS)?.unwrap_or_default(),
        })
    }

    /// The uids that sbuild's users get in this chroot: see [`build_users`].
    pub fn build_users(&self, caller: Option<&[u8]>) -> Result<BuildUsers, Error> {
        Ok(build_users(&self.passwd, &self.login_defs, caller)?)
    }
}

/// The content of a file below `root`; `None` if it does not exist.
fn read(root: BorrowedFd<'_>, path: &'static [u8]) -> Result<Option<Vec<u8>>, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match resolve::open_in_root(root, path, flags) {
        Err(Errno::NOENT) => return Ok(None),
        file => file.at(path, "open")?,
    };
    let stat = walk::stat(file.as_fd(), c"", path)?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(Error::NotAFile {
                path,
                kind: "directory",
            });
        }
        _ => {
            return Err(Error::NotAFile {
                path,
                kind: "special file",
            });
        }
    }
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(LIMIT + 1)
        .read_to_end(&mut content)
        .at(path, "read")?;
    if content.len() as u64 > LIMIT {
        Err(Error::TooLong { path })
    } else {
        Ok(Some(content))
    }
}

/// Collects these files from the events of an archive.
#[derive(Debug, Default)]
pub struct Picker {
    passwd: Option<Vec<u8>>,
    login_defs: Option<Vec<u8>>,
    /// The file whose data is being read.
    current: Option<&'static [u8]>,
}

impl Picker {
    /// Processes the next event. If a member occurs twice, the later one counts, as when the
    /// archive is unpacked, so pass all events.
    pub fn take(&mut self, event: &Event<'_>) -> Result<(), Error> {
        match event {
            Event::Member(member) => {
                self.current = [PASSWD, LOGIN_DEFS]
                    .into_iter()
                    .find(|path| *path == member.entry.path);
                let Some(path) = self.current else {
                    return Ok(());
                };
                match &member.entry.kind {
                    Kind::File { size, .. } if *size > LIMIT => {
                        return Err(Error::TooLong { path });
                    }
                    Kind::File { size, .. } => {
                        *self.slot(path) = Some(vec![0; usize::try_from(*size).unwrap_or(0)])
                    }
                    kind => {
                        return Err(Error::NotAFile {
                            path,
                            kind: kind.name(),
                        });
                    }
                }
            }
            Event::Data(offset, data) => {
                let Some(path) = self.current else {
                    return Ok(());
                };
                let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                let room = self
                    .slot(path)
                    .as_mut()
                    .and_then(|file| file.get_mut(start..start.checked_add(data.len())?));
                // The reader ensures that the data fits the size.
                room.ok_or(Error::TooLong { path })?.copy_from_slice(data);
            }
            Event::MemberEnd => self.current = None,
        }
        Ok(())
    }

    /// The files, at the end of the archive.
    pub fn finish(self) -> Result<Accounts, Error> {
        Ok(Accounts {
            passwd: self.passwd.ok_or(Error::NoPasswd)?,
            login_defs: self.login_defs.unwrap_or_default(),
        })
    }

    fn slot(&mut self, path: &[u8]) -> &mut Option<Vec<u8>> {
        if path == PASSWD {
            &mut self.passwd
        } else {
            &mut self.login_defs
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::File(error) => error.kind(),
            _ => ErrorKind::InvalidInput,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::archive::reader::{Limits, Reader};

    fn of_directory(root: &Path) -> Result<Accounts, Error> {
        Accounts::of_directory(fs::File::open(root).unwrap().as_fd())
    }

    #[test]
    fn links_are_resolved_as_in_the_chroot() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("etc")).unwrap();
        fs::create_dir_all(scratch.path().join("usr/etc")).unwrap();
        fs::write(scratch.path().join("usr/etc/passwd"), "inside").unwrap();
        symlink("/usr/etc/passwd", scratch.path().join("etc/passwd")).unwrap();
        symlink(
            "../../../../../../../../etc/login.defs",
            scratch.path().join("etc/login.defs"),
        )
        .unwrap();
        assert!(
            matches!(of_directory(scratch.path()), Err(Error::File(error)) if error.to_string().contains("etc/login.defs"))
        );
        fs::remove_file(scratch.path().join("etc/login.defs")).unwrap();
        let expected = Accounts {
            passwd: b"inside".to_vec(),
            login_defs: Vec::new(),
        };
        assert_eq!(of_directory(scratch.path()).unwrap(), expected);
    }

    #[test]
    fn what_is_no_chroot_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(of_directory(scratch.path()), Err(Error::NoPasswd)));
        fs::create_dir_all(scratch.path().join("etc/passwd")).unwrap();
        assert!(matches!(
            of_directory(scratch.path()),
            Err(Error::NotAFile {
                kind: "directory",
                ..
            })
        ));
        fs::remove_dir(scratch.path().join("etc/passwd")).unwrap();
        let fifo = scratch.path().join("etc/passwd");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(matches!(
            of_directory(scratch.path()),
            Err(Error::NotAFile {
                kind: "special file",
                ..
            })
        ));
    }

    fn of_archive(tar: &[u8]) -> Result<Accounts, Error> {
        let (mut reader, mut picker, mut input) =
            (Reader::new(Limits::default()), Picker::default(), tar);
        while let Some(event) = reader.next(&mut input).unwrap() {
            picker.take(&event)?;
        }
        picker.finish()
    }

    fn archive(members: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_last_member_of_a_name_counts() {
        let tar = archive(&[
            ("./etc/passwd", "old"),
            ("./etc/passwd-", "x"),
            ("./etc/login.defs", "d"),
            ("etc/passwd", "new"),
        ]);
        let expected = Accounts {
            passwd: b"new".to_vec(),
            login_defs: b"d".to_vec(),
        };
        assert_eq!(of_archive(&tar).unwrap(), expected);
    }

    #[test]
    fn an_archive_without_passwd_is_no_chroot() {
        assert!(matches!(
            of_archive(&archive(&[("./etc/login.defs", "d")])),
            Err(Error::NoPasswd)
        ));
    }
}
