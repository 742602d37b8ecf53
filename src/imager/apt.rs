//! The packages of a command: calls of apt, and package files copied in and out.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::chroot::points::{self, Kind};
use crate::error::{FileError, PathContext};
use crate::tree::resolve;
use crate::workdir::opening::names;

/// The list of isar's own repository.
pub const ISAR_LIST: &str = "/etc/apt/sources.list.d/isar-apt.list";

/// apt's directory of package files.
const ARCHIVES: &[u8] = b"/var/cache/apt/archives";

/// A call of apt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Updates the lists of [`ISAR_LIST`] only, and keeps those of other repositories.
    Update,
    /// Updates the lists of all repositories.
    UpdateAll,
    /// Downloads the packages.
    Download,
    /// Installs the packages.
    Install,
}

impl Step {
    /// The command for messages.
    pub fn name(self) -> &'static str {
        match self {
            Step::Update | Step::UpdateAll => "apt-get update",
            Step::Download => "apt-get install --download-only",
            Step::Install => "apt-get install",
        }
    }

    /// The arguments of `apt-get`.
    fn arguments(self, packages: &[String]) -> Vec<&str> {
        // The user `_apt` cannot read files that only namespace root can read.
        let mut arguments = vec!["-o", "APT::Sandbox::User=root"];
        match self {
            Step::Update => arguments.extend([
                "update",
                "-o",
                "Dir::Etc::SourceList=sources.list.d/isar-apt.list",
                "-o",
                "Dir::Etc::SourceParts=-",
                "-o",
                "APT::Get::List-Cleanup=0",
            ]),
            Step::UpdateAll => arguments.push("update"),
            Step::Download | Step::Install => {
                arguments.extend([
                    "-o",
                    "Debug::pkgProblemResolver=yes",
                    "--no-install-recommends",
                    "-y",
                    "--allow-unauthenticated",
                    "--allow-downgrades",
                ]);
                arguments.extend((self == Step::Download).then_some("--download-only"));
                arguments.push("install");
                // The rest are names, even if they begin with a dash.
                arguments.push("--");
                arguments.extend(packages.iter().map(String::as_str));
            }
        }
        arguments
    }

    /// The command, to be run in the tree. It has no stdin and writes to stderr, because stdin and
    /// stdout belong to the user's command.
    pub fn command(self, packages: &[String]) -> io::Result<Command> {
        let mut command = Command::new("apt-get");
        command
            .args(self.arguments(packages))
            .stdin(Stdio::null())
            .stdout(io::stderr().as_fd().try_clone_to_owned()?);
        if std::env::var_os("DEBIAN_FRONTEND").is_none() {
            command.env("DEBIAN_FRONTEND", "noninteractive");
        }
        Ok(command)
    }
}

/// True if apt has the packages of some repository in its lists.
pub fn has_lists(root: BorrowedFd<'_>) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let lists = resolve::open_in_root(root, b"/var/lib/apt/lists", flags);
    let is_list = |name: &Vec<u8>| name.windows(9).any(|part| part == b"_Packages");
    lists.is_ok_and(|lists| names(lists, "").is_ok_and(|names| names.iter().any(is_list)))
}

/// The package files of a tree.
pub struct Archives {
    directory: OwnedFd,
}

impl Archives {
    /// Opens the directory of package files, and creates it if missing.
    pub fn open(root: BorrowedFd<'_>) -> Result<Archives, FileError> {
        points::provide(root, ARCHIVES, Kind::Directory)?;
        let directory = resolve::open_in_root(root, ARCHIVES, OFlags::RDONLY | OFlags::DIRECTORY)
            .at(ARCHIVES, "open")?;
        Ok(Archives { directory })
    }

    /// Copies a package file into it, unless it exists.
    pub fn put(&self, name: &[u8], mut file: File) -> Result<(), FileError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut copy = match openat(&self.directory, name, flags, Mode::from_raw_mode(0o644)) {
            Err(Errno::EXIST) => return Ok(()),
            opened => File::from(opened.at(name, "create")?),
        };
        io::copy(&mut file, &mut copy).at(name, "copy the package into the tree")?;
        Ok(())
    }

    /// The names of the package files, sorted.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, FileError> {
        let mut names = names(&self.directory, "var/cache/apt/archives")?;
        names.retain(|name| is_package(OsStr::from_bytes(name)));
        names.sort();
        Ok(names)
    }

    /// Opens a package file for reading.
    pub fn get(&self, name: &[u8]) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.directory, name, flags, Mode::empty()).at(name, "open")
    }
}

/// True if this is the name of a package file.
pub fn is_package(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".deb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_is_called_as_isar_calls_it() {
        let packages = [String::from("e2fsprogs"), String::from("-x")];
        assert_eq!(
            Step::Update.arguments(&packages).join(" "),
            "-o APT::Sandbox::User=root update -o Dir::Etc::SourceList=sources.list.d/isar-apt.list \
             -o Dir::Etc::SourceParts=- -o APT::Get::List-Cleanup=0"
        );
        let install = "-o APT::Sandbox::User=root -o Debug::pkgProblemResolver=yes --no-install-recommends -y \
            --allow-unauthenticated --allow-downgrades";
        assert_eq!(
            Step::Download.arguments(&packages).join(" "),
            format!("{install} --download-only install -- e2fsprogs -x")
        );
        assert_eq!(
            Step::Install.arguments(&packages).join(" "),
            format!("{install} install -- e2fsprogs -x")
        );
    }
}
