//! Setting the maps of a new namespace: through newuidmap(1) and newgidmap(1), or directly where
//! the caller is root.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, StatVfsMountFlags};
use rustix::process::{Pid, getgid, getuid};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};

use super::error::{Error, Powerless};
use crate::ids::{IdKind, IdMap, IdMaps};
use crate::sys;

/// Where the programs are when `PATH` does not have them, as in a bare environment.
const USUAL: [&str; 3] = ["/usr/bin", "/sbin", "/usr/sbin"];

/// Sets both maps of the namespace that `child` has made.
pub fn set_maps(child: Pid, maps: &IdMaps) -> Result<(), Error> {
    let set = if rustix::process::geteuid().is_root() {
        write_map
    } else {
        run_program
    };
    set(child, IdKind::User, &maps.uids)?;
    set(child, IdKind::Group, &maps.gids)
}

/// Root needs no permission of /etc/subuid to map ids, and may be unable to use newuidmap for
/// another user's.
fn write_map(child: Pid, kind: IdKind, map: &IdMap) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/{}/{}_map", child.as_raw_pid(), kind.short()));
    // The kernel takes a map in one write only.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| Ok(rustix::io::write(file, map.kernel_text().as_bytes())?))
        .map(drop)
        .map_err(|cause| Error::WriteMap { path, cause })
}

fn run_program(child: Pid, kind: IdKind, map: &IdMap) -> Result<(), Error> {
    let program = name(kind);
    let path = find(program, &search()).ok_or(Error::Missing { program })?;
    let mut command = Command::new(&path);
    command
        .arg(child.as_raw_pid().to_string())
        .args(map.kernel_text().split_ascii_whitespace())
        .stdin(Stdio::null());
    let output = match sys::output(&mut command) {
        Ok(output) => output,
        Err(cause) => return Err(Error::NotRun { path, cause }),
    };
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(match why_powerless(&path) {
        Some(why) => Error::Powerless { path, why, stderr },
        None => Error::Refused {
            path,
            status: output.status.to_string(),
            stderr,
            remedy: why_refused(kind),
        },
    })
}

/// The program that sets maps of this kind.
pub fn name(kind: IdKind) -> &'static str {
    match kind {
        IdKind::User => "newuidmap",
        IdKind::Group => "newgidmap",
    }
}

/// What makes the program refuse every map of this caller, with the remedy, if anything does.
pub fn why_refused(kind: IdKind) -> Option<String> {
    let file = match kind {
        IdKind::User => "/etc/subuid",
        IdKind::Group => "/etc/subgid",
    };
    let program = name(kind);
    if Path::new(file).is_symlink() {
        return Some(format!(
            "{file} is a symbolic link, which {program} does not follow: replace it by the file"
        ));
    }
    let entry = sys::passwd_by_uid(getuid().as_raw()).ok().flatten()?;
    let gid = getgid().as_raw();
    let takes_any = fs::read_to_string("/etc/login.defs").is_ok_and(|text| allows_any_group(&text));
    (entry.gid != gid && !takes_any).then(|| {
        format!(
            "{program} works only with the primary group of the user: run this with gid {} instead of {gid}, which newgrp, sg or a container may have set",
            entry.gid
        )
    })
}

/// True if login.defs(5) has newuidmap accept any group of the caller.
fn allows_any_group(login_defs: &str) -> bool {
    login_defs.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("GRANT_AUX_GROUP_SUBIDS")
            && words
                .next()
                .is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    })
}

/// The absolute directories of `PATH`, and the usual ones.
pub fn search() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let listed = env::split_paths(&path).filter(|dir| dir.is_absolute());
    listed.chain(USUAL.map(PathBuf::from)).collect()
}

/// The first executable file of this name in the directories.
pub fn find(program: &str, search: &[PathBuf]) -> Option<PathBuf> {
    let mut candidates = search.iter().map(|dir| dir.join(program));
    candidates.find(|path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok())
}

/// What keeps a program from running with more rights than its caller, if anything does.
pub fn why_powerless(path: &Path) -> Option<Powerless> {
    powerless(&Privilege::of(path))
}

/// What decides whether a program runs with more rights than its caller.
struct Privilege {
    setuid_root: bool,
    capabilities: bool,
    nosuid_mount: bool,
    no_new_privileges: bool,
    /// Processes here can have CAP_SYS_ADMIN.
    admin_possible: bool,
    /// The capability that the program needs, as setcap(8) names it.
    needed: &'static str,
}

impl Privilege {
    fn of(path: &Path) -> Privilege {
        let flags = rustix::fs::statvfs(path).map(|file_system| file_system.f_flag);
        Privilege {
            setuid_root: fs::metadata(path)
                .is_ok_and(|file| file.uid() == 0 && file.mode() & 0o4000 != 0),
            capabilities: rustix::fs::getxattr(path, "security.capability", &mut [0; 64]).is_ok(),
            nosuid_mount: flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::NOSUID)),
            no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
            admin_possible: capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap_or(true),
            needed: match path.ends_with(name(IdKind::Group)) {
                true => "cap_setgid",
                false => "cap_setuid",
            },
        }
    }
}

fn powerless(program: &Privilege) -> Option<Powerless> {
    if program.no_new_privileges {
        Some(Powerless::NoNewPrivileges)
    } else if !program.setuid_root && !program.capabilities {
        Some(Powerless::PlainFile)
    } else if program.nosuid_mount {
        Some(Powerless::NoSuidMount)
    } else if program.setuid_root && !program.admin_possible {
        Some(Powerless::BoundedSetuid(program.needed))
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_found_in_the_search_path_first_and_must_be_executable() {
        let (plain, executable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(plain.path().join("sh"), "").unwrap();
        fs::write(executable.path().join("sh"), "").unwrap();
        fs::set_permissions(
            executable.path().join("sh"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        let search = [plain.path().to_owned(), executable.path().to_owned()];
        assert_eq!(find("sh", &search), Some(executable.path().join("sh")));
        assert_eq!(find("sh", &search[..1]), None);
        assert_eq!(
            find("sh", &super::search()).map(|path| path.ends_with("sh")),
            Some(true)
        );
    }

    #[test]
    fn the_missing_privilege_is_told_apart() {
        let good = || Privilege {
            setuid_root: true,
            capabilities: false,
            nosuid_mount: false,
            no_new_privileges: false,
            admin_possible: true,
            needed: "cap_setuid",
        };
        let cases = [
            (good(), None),
            (
                Privilege {
                    setuid_root: false,
                    capabilities: true,
                    ..good()
                },
                None,
            ),
            (
                Privilege {
                    setuid_root: false,
                    ..good()
                },
                Some(Powerless::PlainFile),
            ),
            (
                Privilege {
                    setuid_root: false,
                    nosuid_mount: true,
                    ..good()
                },
                Some(Powerless::PlainFile),
            ),
            (
                Privilege {
                    nosuid_mount: true,
                    ..good()
                },
                Some(Powerless::NoSuidMount),
            ),
            (
                Privilege {
                    no_new_privileges: true,
                    ..good()
                },
                Some(Powerless::NoNewPrivileges),
            ),
            (
                Privilege {
                    admin_possible: false,
                    ..good()
                },
                Some(Powerless::BoundedSetuid("cap_setuid")),
            ),
            (
                Privilege {
                    setuid_root: false,
                    capabilities: true,
                    admin_possible: false,
                    ..good()
                },
                None,
            ),
        ];
        for (program, expected) in cases {
            assert_eq!(powerless(&program), expected);
        }
    }

    #[test]
    fn the_setting_for_any_group_is_read_as_login_defs_has_it() {
        for (text, expected) in [
            ("", false),
            ("GRANT_AUX_GROUP_SUBIDS yes\n", true),
            ("#GRANT_AUX_GROUP_SUBIDS yes\n", false),
            ("  GRANT_AUX_GROUP_SUBIDS\tYES\n", true),
            ("GRANT_AUX_GROUP_SUBIDS no\n", false),
        ] {
            assert_eq!(allows_any_group(text), expected, "{text:?}");
        }
    }
}
