//! Setting the maps of a new namespace: through newuidmap(1) and newgidmap(1), or directly where
//! the caller is root.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, StatVfsMountFlags};
use rustix::process::Pid;

use super::error::{Error, Powerless};
use crate::ids::{IdKind, IdMap, IdMaps};

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
    let program = match kind {
        IdKind::User => "newuidmap",
        IdKind::Group => "newgidmap",
    };
    let path = find(program, &search()).ok_or(Error::Missing { program })?;
    let output = Command::new(&path)
        .arg(child.as_raw_pid().to_string())
        .args(map.kernel_text().split_ascii_whitespace())
        .stdin(Stdio::null())
        .output();
    let output = match output {
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
        },
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
        ];
        for (program, expected) in cases {
            assert_eq!(powerless(&program), expected);
        }
    }
}
