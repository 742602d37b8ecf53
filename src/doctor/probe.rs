//! Checks that need a try, all in one scratch directory.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FsWord, Gid, Mode, OFlags, Uid, XattrFlags, chownat, fsetxattr, mkdirat, openat,
    statfs,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use serde::{Deserialize, Serialize};

use super::{Finding, State};
use crate::chroot::mounts;
use crate::error::{Escaped, describe, of_call};
use crate::sys;
use crate::userns::Caller;
use crate::userns::init::Init;

/// A feature to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// Another owner for a file.
    Owner,
    /// Access ACLs.
    Acl,
    /// `user.*`.
    UserXattr,
    /// `security.capability`, as namespace root.
    Capability,
    /// An overlay in the namespace.
    Overlay,
    /// A new `/proc` in the namespace.
    Proc,
    /// The directory by its path, as namespace root.
    Path,
    /// System calls that old kernels lack, and that containers block.
    Calls,
}

/// All of them.
pub const PROBES: [Probe; 8] = [
    Probe::Owner,
    Probe::Acl,
    Probe::UserXattr,
    Probe::Capability,
    Probe::Overlay,
    Probe::Proc,
    Probe::Path,
    Probe::Calls,
];

/// A probe that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    probe: Probe,
    /// The error; for [`Probe::Path`] the directory that namespace root cannot enter.
    text: String,
    /// The error names what failed and what helps.
    is_complete: bool,
}

impl Failure {
    /// A failure with an error that names what failed and what helps.
    fn complete(probe: Probe, error: &impl ToString) -> Failure {
        Failure {
            probe,
            text: error.to_string(),
            is_complete: true,
        }
    }

    fn brief(probe: Probe, text: String) -> Failure {
        Failure {
            probe,
            text,
            is_complete: false,
        }
    }
}

/// What the checks are about.
pub struct Place {
    /// The directory as the user named it.
    pub shown: String,
    /// It is on an overlay.
    pub is_overlay: bool,
    /// Version of the kernel: 6 and 1 of `6.1.0-37-amd64`.
    pub kernel: (u32, u32),
    /// The uid outside of namespace root.
    pub root: u32,
}

impl Place {
    /// Of the directory; `sysctls` is `/proc/sys`.
    pub fn new(dir: &Path, sysctls: &Path, root: u32) -> Place {
        /// `OVERLAYFS_SUPER_MAGIC`.
        const OVERLAY: FsWord = 0x794c_7630;
        let release = fs::read_to_string(sysctls.join("kernel/osrelease")).unwrap_or_default();
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        Place {
            shown: Escaped(dir.as_os_str().as_encoded_bytes()).to_string(),
            is_overlay: statfs(dir).is_ok_and(|found| found.f_type == OVERLAY),
            // A version that cannot be read counts as new.
            kernel: number().zip(number()).unwrap_or((u32::MAX, 0)),
            root,
        }
    }
}

/// Tries all features in the directory `scratch`, which belongs to namespace root and was opened in
/// this mount namespace. `path` leads to the directory above it.
pub fn all(scratch: BorrowedFd<'_>, path: &Path, caller: &mut Caller) -> Vec<Failure> {
    let mut failures = Vec::new();
    for probe in PROBES {
        let brief = |text| Failure::brief(probe, text);
        let errno = |tried: io::Result<()>| tried.map_err(|error| brief(describe(&error)));
        let tried = match probe {
            Probe::Owner => errno(owner(scratch)),
            Probe::Acl => errno(acl(scratch)),
            Probe::UserXattr => errno(set(scratch, "user.isar-tarball", b"1")),
            Probe::Capability => errno(capability(scratch)),
            Probe::Overlay => errno(overlay(scratch)),
            Probe::Proc => proc(caller),
            Probe::Path => closed_above(path).map_err(brief),
            Probe::Calls => calls(scratch).map_err(brief),
        };
        failures.extend(tried.err());
    }
    failures
}

/// The finding about a probe.
pub fn finding(probe: Probe, failures: &[Failure], place: &Place) -> Finding {
    let dir = &place.shown;
    let failure = failures.iter().find(|failure| failure.probe == probe);
    let (name, good, state, bad, remedy) = match probe {
        Probe::Owner => (
            "owners",
            format!("owners can be changed in {dir}"),
            State::Fault,
            format!("files in {dir} cannot be given to other ids; NFS forbids it to processes in a user namespace"),
            "use a directory on a local disk".to_owned(),
        ),
        Probe::Acl => (
            "acl",
            format!("ACLs work in {dir}"),
            State::Fault,
            format!("no ACLs in {dir}"),
            "use a file system with POSIX ACLs (ext4, xfs, btrfs), mounted without noacl".to_owned(),
        ),
        Probe::UserXattr => (
            "user-xattr",
            format!("user.* attributes work in {dir}"),
            State::Worse,
            format!("no user.* attributes in {dir}"),
            "use ext4, xfs, btrfs, or tmpfs of Linux 6.6 or newer, mounted without nouser_xattr".to_owned(),
        ),
        Probe::Capability => (
            "capabilities",
            format!("file capabilities work in {dir}"),
            State::Fault,
            format!("no file capabilities in {dir}"),
            "use a file system with extended attributes (ext4, xfs, btrfs)".to_owned(),
        ),
        Probe::Overlay => (
            "overlay",
            format!("overlays work in {dir}"),
            State::Worse,
            format!("no overlay in {dir}, so imager unpacks into its cache each time"),
            overlay_remedy(place).to_owned(),
        ),
        Probe::Proc => (
            "proc",
            "/proc can be mounted".to_owned(),
            State::Worse,
            "/proc cannot be mounted, parts of it are covered".to_owned(),
            "in a container, start it with `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=/proc/*` (podman)".to_owned(),
        ),
        Probe::Path => {
            let closed = failure.map(|failure| failure.text.as_str()).unwrap_or_default();
            let found = format!("{closed} is closed to subordinate ids, so mmdebstrap and sbuild cannot work below it; isar-tarball can");
            let remedy = format!("run `setfacl -m u:{}:x {closed}`, or `chmod o+x`, or use another directory", place.root);
            return match failure {
                None => Finding::good("path", format!("subordinate ids can enter {dir}")),
                Some(_) => Finding::bad("path", State::Worse, found, remedy),
            };
        }
        Probe::Calls => (
            "system-calls",
            "all that are used".to_owned(),
            State::Fault,
            "some are missing".to_owned(),
            "use Linux 5.3 or newer, and in a container a seccomp profile that knows them (--security-opt seccomp=unconfined)".to_owned(),
        ),
    };
    match failure {
        None => Finding::good(name, good),
        Some(failure) if failure.is_complete => Finding {
            name,
            state: State::Fault,
            found: failure.text.clone(),
            remedy: None,
        },
        Some(failure) => Finding::bad(name, state, format!("{bad}: {}", failure.text), remedy),
    }
}

fn overlay_remedy(place: &Place) -> &'static str {
    if place.is_overlay {
        "it is on an overlay itself, as the layers of a container are; use a directory on ext4, xfs or btrfs, such as a bind mount or a volume"
    } else if place.kernel < (5, 11) {
        "use Linux 5.11 or newer"
    } else {
        "use a directory on ext4, xfs or btrfs"
    }
}

/// Gives a file to another id of the namespace. Root of a namespace has one other at least, or is
/// alone and changes no owners.
fn owner(scratch: BorrowedFd<'_>) -> io::Result<()> {
    let file = file(scratch)?;
    let give = |id| {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        chownat(&file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    };
    match give(1) {
        // It is not mapped.
        Err(Errno::INVAL) => Ok(()),
        given => {
            given?;
            Ok(give(0)?)
        }
    }
}

/// An error is the directory that this process cannot enter.
fn closed_above(path: &Path) -> Result<(), String> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    for pair in above.windows(2) {
        let [directory, below] = pair else { continue };
        let opened = openat(CWD, *below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        if opened.is_err_and(|errno| errno == Errno::ACCESS) {
            return Err(Escaped(directory.as_os_str().as_encoded_bytes()).to_string());
        }
    }
    Ok(())
}

/// Tries the system calls that have no substitute, which old kernels lack and containers block.
fn calls(scratch: BorrowedFd<'_>) -> Result<(), String> {
    let mount = || -> io::Result<()> {
        let mount = mounts::file_system(c"tmpfs", &[], mounts::NOTHING_SPECIAL)?;
        mounts::copy(scratch)?;
        match mounts::attach(&mount, mount.as_fd()) {
            // The error of a missing call has no number. A mount cannot be attached to itself.
            Err(error) if error.raw_os_error().is_none() => Err(error),
            _ => Ok(()),
        }
    };
    mount().map_err(|error| describe(&error))?;
    sys::has_clone3().map_err(|error| describe(&of_call("clone3", "5.3", error)))
}

fn file(scratch: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(scratch, "file", flags, Mode::RUSR | Mode::WUSR)?)
}

fn set(scratch: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(fsetxattr(file(scratch)?, name, value, XattrFlags::empty())?)
}

/// `user::rw-,user:0:rw-,group::---,mask::rw-,other::---` in the form of
/// `<linux/posix_acl_xattr.h>`: version, then tag, permissions and id of each entry.
fn acl(scratch: BorrowedFd<'_>) -> io::Result<()> {
    const UNDEFINED: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, UNDEFINED),
        (0x02, 6, 0),
        (0x04, 0, UNDEFINED),
        (0x10, 6, UNDEFINED),
        (0x20, 0, UNDEFINED),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    set(scratch, "system.posix_acl_access", &value)
}

/// `cap_net_raw=p` as `struct vfs_cap_data` of version 2.
fn capability(scratch: BorrowedFd<'_>) -> io::Result<()> {
    const CAP_NET_RAW: u32 = 1 << 13;
    let words: [u32; 5] = [0x0200_0000, CAP_NET_RAW, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    set(scratch, "security.capability", &value)
}

fn overlay(scratch: BorrowedFd<'_>) -> io::Result<()> {
    let mut layers = Vec::new();
    for name in ["lower", "upper", "work"] {
        mkdirat(scratch, name, Mode::RWXU)?;
        layers.push(openat(
            scratch,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
    }
    let made = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, layer) in [c"lowerdir", c"upperdir", c"workdir"]
        .into_iter()
        .zip(&layers)
    {
        fsconfig_set_string(
            &made,
            key,
            CString::new(format!("/proc/self/fd/{}", layer.as_raw_fd()))?.as_c_str(),
        )?;
    }
    fsconfig_set_flag(&made, c"userxattr")?;
    fsconfig_create(&made)?;
    fsmount(
        &made,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    Ok(())
}

/// In a pid namespace, like the command of `unshare`.
fn proc(caller: &mut Caller) -> Result<(), Failure> {
    let complete = |error: &dyn std::fmt::Display| {
        Failure::complete(Probe::Proc, &format!("no command can be run: {error}"))
    };
    let init = Init::new().map_err(|error| complete(&error))?;
    let ended = init.run(caller, |_| {
        let tried = mounts::file_system(c"proc", &[], mounts::NOTHING_SPECIAL);
        let errno = tried.err().and_then(|error| error.raw_os_error());
        // There is no command: this process has finished its checks.
        sys::exit_now(
            errno
                .and_then(|errno| u8::try_from(errno).ok())
                .unwrap_or(0),
        )
    });
    match ended {
        Ok(0) => Ok(()),
        Ok(errno) => {
            let error = io::Error::from_raw_os_error(errno.into());
            Err(Failure::brief(Probe::Proc, describe(&error)))
        }
        Err(error) => Err(complete(&error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_about_overlays_fits_the_kernel_and_the_file_system() {
        for (release, is_overlay, expected) in [
            ("5.10.0-30-amd64\n", false, "use Linux 5.11"),
            ("6.18.2\n", false, "ext4, xfs or btrfs"),
            ("6.18-rc1\n", true, "is on an overlay itself"),
            ("5.10.0\n", true, "is on an overlay itself"),
            ("", false, "ext4, xfs or btrfs"),
        ] {
            let sysctls = tempfile::tempdir().unwrap();
            fs::create_dir(sysctls.path().join("kernel")).unwrap();
            fs::write(sysctls.path().join("kernel/osrelease"), release).unwrap();
            let place = Place {
                is_overlay,
                ..Place::new(Path::new("/"), sysctls.path(), 0)
            };
            let failure = Failure::brief(Probe::Overlay, "Invalid argument".into());
            let remedy = finding(Probe::Overlay, &[failure], &place).remedy.unwrap();
            assert!(
                remedy.contains(expected),
                "{release:?} {is_overlay}: {remedy}"
            );
        }
    }
}
