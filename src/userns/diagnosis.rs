//! Which setting of the machine forbids a step.

use std::fs;
use std::io;
use std::path::Path;

use super::error::{Error, Step};
use crate::error::describe;

/// The settings that decide about user namespaces; `None` for one that this kernel lacks or hides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sysctls {
    /// `kernel.unprivileged_userns_clone`, Debian's own: 0 forbids.
    pub clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`: 1 takes the capabilities away, or forbids.
    pub apparmor: Option<u64>,
    /// `user.max_user_namespaces`, per user.
    pub max_user: Option<u64>,
    /// `user.max_mnt_namespaces`, per user.
    pub max_mounts: Option<u64>,
    /// `user.max_pid_namespaces`, per user.
    pub max_pids: Option<u64>,
}

impl Sysctls {
    /// Those below `/proc/sys`, or a directory in its place (for tests).
    pub fn read(root: &Path) -> Sysctls {
        let number = |name: &str| {
            fs::read_to_string(root.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        Sysctls {
            clone: number("kernel/unprivileged_userns_clone"),
            apparmor: number("kernel/apparmor_restrict_unprivileged_userns"),
            max_user: number("user/max_user_namespaces"),
            max_mounts: number("user/max_mnt_namespaces"),
            max_pids: number("user/max_pid_namespaces"),
        }
    }
}

/// The error of a step that failed with `errno`, with what the machine's settings say about it.
pub fn of(step: Step, errno: i32) -> Error {
    let sysctls = Sysctls::read(Path::new("/proc/sys"));
    Error::Step {
        step,
        cause: io::Error::from_raw_os_error(errno),
        remedy: remedy(step, errno, &sysctls),
    }
}

/// Why the pid and mount namespaces of a command cannot be created, in the words of an error.
/// Inside a user namespace the sysctls of the outer ones cannot be read.
pub fn of_command_namespaces(cause: &io::Error) -> String {
    let is_root = rustix::process::geteuid().is_root();
    let remedy = match cause.raw_os_error() {
        Some(libc::EPERM) if !is_root => "only root may, of the machine or of a user namespace",
        Some(libc::EPERM) if !has_admin() => NO_ADMIN,
        Some(libc::EPERM | libc::ENOSYS) => {
            "the seccomp profile of the surrounding container forbids it: allow unshare there (--security-opt seccomp=unconfined)"
        }
        Some(libc::ENOSPC) => {
            "the limit of pid or mount namespaces is reached: outside, as root, see the sysctls user.max_pid_namespaces and user.max_mnt_namespaces, which are 0 where none are allowed"
        }
        _ => return describe(cause),
    };
    format!("{}: {remedy}", describe(cause))
}

/// The remedy for root without CAP_SYS_ADMIN.
pub const NO_ADMIN: &str = "root lacks CAP_SYS_ADMIN here: start the container with `--cap-add=SYS_ADMIN`, or work in the user namespace of a user with subordinate ids";

/// True if this process has CAP_SYS_ADMIN in its user namespace.
pub fn has_admin() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn remedy(step: Step, errno: i32, sysctls: &Sysctls) -> Option<String> {
    let text = match (step, errno) {
        (Step::Unshare, libc::EPERM) if sysctls.clone == Some(0) => {
            "kernel.unprivileged_userns_clone is 0: as root, run `sysctl -w kernel.unprivileged_userns_clone=1`"
        }
        // Where AppArmor lets the namespace be made, it is the steps after that which fail.
        (_, libc::EPERM | libc::EACCES) if sysctls.apparmor.is_some_and(|value| value != 0) => {
            "kernel.apparmor_restrict_unprivileged_userns is set: as root, run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give this program an AppArmor profile that allows `userns`"
        }
        (Step::Unshare, libc::EPERM) => {
            "the surrounding container or chroot forbids it: allow unshare in its seccomp profile (--security-opt seccomp=unconfined), and do not work in a plain chroot"
        }
        (Step::Unshare, libc::ENOSPC) if sysctls.max_user == Some(0) => {
            "user.max_user_namespaces is 0: as root, run `sysctl -w user.max_user_namespaces=15000`"
        }
        (Step::Unshare, libc::ENOSPC) if sysctls.max_mounts == Some(0) => {
            "user.max_mnt_namespaces is 0: as root, run `sysctl -w user.max_mnt_namespaces=15000`"
        }
        (Step::Unshare, libc::ENOSPC | libc::EUSERS) => {
            "there are too many user namespaces, or they are nested too deeply: see the sysctls user.max_user_namespaces and user.max_mnt_namespaces, of the surrounding namespaces too"
        }
        (Step::Unshare, libc::EINVAL | libc::ENOSYS) => {
            "the kernel has no user namespaces (CONFIG_USER_NS), or the seccomp profile of the surrounding container answers so: allow unshare there (--security-opt seccomp=unconfined)"
        }
        (Step::Groups, libc::EPERM) => {
            "the gid map was set without the right to change groups: the user needs a range in /etc/subgid"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_the_one_that_is_named() {
        let open = Sysctls {
            clone: Some(1),
            apparmor: Some(0),
            max_user: Some(1000),
            max_mounts: Some(1000),
            max_pids: Some(1000),
        };
        let cases = [
            (
                Step::Unshare,
                libc::EPERM,
                Sysctls {
                    clone: Some(0),
                    apparmor: Some(1),
                    ..open
                },
                "unprivileged_userns_clone=1",
            ),
            (
                Step::Unshare,
                libc::EPERM,
                Sysctls {
                    apparmor: Some(1),
                    ..open
                },
                "restrict_unprivileged_userns=0",
            ),
            (
                Step::Uid,
                libc::EPERM,
                Sysctls {
                    apparmor: Some(1),
                    ..open
                },
                "restrict_unprivileged_userns=0",
            ),
            (
                Step::Mounts,
                libc::EACCES,
                Sysctls {
                    apparmor: Some(2),
                    ..open
                },
                "restrict_unprivileged_userns=0",
            ),
            (Step::Unshare, libc::EPERM, open, "seccomp"),
            (Step::Unshare, libc::EPERM, Sysctls::default(), "seccomp"),
            (
                Step::Unshare,
                libc::ENOSPC,
                Sysctls {
                    max_user: Some(0),
                    ..open
                },
                "user.max_user_namespaces is 0",
            ),
            (
                Step::Unshare,
                libc::ENOSPC,
                Sysctls {
                    max_mounts: Some(0),
                    ..open
                },
                "user.max_mnt_namespaces is 0",
            ),
            (
                Step::Unshare,
                libc::ENOSPC,
                open,
                "too many user namespaces",
            ),
            (Step::Unshare, libc::EINVAL, open, "CONFIG_USER_NS"),
            (Step::Unshare, libc::ENOSYS, open, "seccomp"),
            (Step::Groups, libc::EPERM, open, "/etc/subgid"),
        ];
        for (step, errno, sysctls, expected) in cases {
            let remedy = remedy(step, errno, &sysctls).unwrap();
            assert!(
                remedy.contains(expected),
                "{step:?} {errno} {sysctls:?}: {remedy}"
            );
        }
        assert_eq!(remedy(Step::Mounts, libc::EPERM, &open), None);
        assert_eq!(
            remedy(
                Step::Uid,
                libc::ENOSPC,
                &Sysctls {
                    max_user: Some(0),
                    ..open
                }
            ),
            None
        );
    }

    #[test]
    fn settings_are_read_and_missing_ones_are_not_zero() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel")).unwrap();
        fs::create_dir_all(dir.path().join("user")).unwrap();
        fs::write(dir.path().join("kernel/unprivileged_userns_clone"), "0\n").unwrap();
        fs::write(dir.path().join("user/max_user_namespaces"), "96365\n").unwrap();
        let sysctls = Sysctls::read(dir.path());
        assert_eq!((sysctls.clone, sysctls.max_user), (Some(0), Some(96365)));
        assert_eq!((sysctls.apparmor, sysctls.max_mounts), (None, None));
    }
}
