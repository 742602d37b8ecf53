//! Checks that need a try, all in one scratch directory.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags, fsetxattr, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use serde::{Deserialize, Serialize};

use super::{Finding, State};
use crate::chroot::mounts;
use crate::error::describe;
use crate::sys;
use crate::userns::Caller;
use crate::userns::init::Init;

/// A feature to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
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
}

/// All of them.
pub const PROBES: [Probe; 5] = [
    Probe::Acl,
    Probe::UserXattr,
    Probe::Capability,
    Probe::Overlay,
    Probe::Proc,
];

/// Tries all features in the directory `scratch`, which belongs to namespace root and was opened in
/// this mount namespace. Returns those that do not work.
pub fn all(scratch: BorrowedFd<'_>, caller: &mut Caller) -> Vec<(Probe, io::Error)> {
    let mut failures = Vec::new();
    for probe in PROBES {
        let tried = match probe {
            Probe::Acl => acl(scratch),
            Probe::UserXattr => set(scratch, "user.isar-tarball", b"1"),
            Probe::Capability => capability(scratch),
            Probe::Overlay => overlay(scratch),
            Probe::Proc => proc(caller),
        };
        failures.extend(tried.err().map(|error| (probe, error)));
    }
    failures
}

/// The finding; `dir` is the user's path of the directory.
pub fn finding(probe: Probe, failure: Option<&io::Error>, dir: &str) -> Finding {
    let (name, good, state, bad, remedy) = match probe {
        Probe::Acl => (
            "acl",
            "ACLs work",
            State::Fault,
            "no ACLs",
            "use a file system with POSIX ACLs (ext4, xfs, btrfs), mounted without noacl",
        ),
        Probe::UserXattr => (
            "user-xattr",
            "user.* attributes work",
            State::Worse,
            "no user.* attributes",
            "use ext4, xfs, btrfs, or tmpfs of Linux 6.6 or newer, mounted without nouser_xattr",
        ),
        Probe::Capability => (
            "capabilities",
            "file capabilities work",
            State::Fault,
            "no file capabilities",
            "use a file system with extended attributes (ext4, xfs, btrfs)",
        ),
        Probe::Overlay => (
            "overlay",
            "overlays work",
            State::Worse,
            "no overlay, so imager unpacks into its cache each time",
            "use Linux 5.11 or newer and a directory that is not on an overlay itself",
        ),
        Probe::Proc => (
            "proc",
            "/proc can be mounted",
            State::Worse,
            "/proc cannot be mounted, parts of it are covered",
            "in a container, start it with `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=/proc/*` (podman)",
        ),
    };
    let place = if probe == Probe::Proc {
        String::new()
    } else {
        format!(" in {dir}")
    };
    match failure {
        None => Finding::good(name, format!("{good}{place}")),
        Some(error) => Finding::bad(
            name,
            state,
            format!("{bad}{place}: {}", describe(error)),
            remedy,
        ),
    }
}

fn file(scratch: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(scratch, "file", flags, Mode::RUSR | Mode::WUSR)?)
}

fn set(scratch: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(fsetxattr(file(scratch)?, name, value, XattrFlags::empty())?)
}

/// `user::rw-,user:1:rw-,group::---,mask::rw-,other::---` in the form of
/// `<linux/posix_acl_xattr.h>`: version, then tag, permissions and id of each entry.
fn acl(scratch: BorrowedFd<'_>) -> io::Result<()> {
    const UNDEFINED: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, UNDEFINED),
        (0x02, 6, 1),
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
fn proc(caller: &mut Caller) -> io::Result<()> {
    let init = Init::new()?;
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
        Ok(errno) => Err(io::Error::from_raw_os_error(errno.into())),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
