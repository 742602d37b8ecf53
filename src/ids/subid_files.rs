//! The subordinate ids of a user on this machine: from the files, then from getsubids.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::subid::{self, BrokenLine, Parsed};
use super::{Account, IdKind, IdMap, IdMaps, Layout, MapError, Range};
use crate::error::{Escaped, FileError, PathContext};

/// The sources of subordinate ids. `SubidFiles::default()` has those of the machine.
#[derive(Clone, Debug)]
pub struct SubidFiles {
    /// `/etc/subuid`. A missing file has no ranges.
    pub subuid: PathBuf,
    /// `/etc/subgid`. A missing file has no ranges.
    pub subgid: PathBuf,
    /// getsubids(1), a path or a name to find in `PATH`. Called for ids that the files lack,
    /// because it also reads other sources (nsswitch.conf).
    pub getsubids: OsString,
    /// `/proc/self/uid_map`.
    pub uid_map: PathBuf,
    /// `/proc/self/gid_map`.
    pub gid_map: PathBuf,
}

impl Default for SubidFiles {
    fn default() -> SubidFiles {
        SubidFiles {
            subuid: "/etc/subuid".into(),
            subgid: "/etc/subgid".into(),
            getsubids: "getsubids".into(),
            uid_map: "/proc/self/uid_map".into(),
            gid_map: "/proc/self/gid_map".into(),
        }
    }
}

/// A reason why a user has no id maps.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// An existing file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user has no subordinate ids of this kind.
    #[error("{account} has no subordinate {kind} ids in {}: {}", Escaped(path.as_os_str().as_bytes()), remedy(account, path, *free))]
    NoIds {
        /// The user.
        account: Account,
        /// Which ids are missing.
        kind: IdKind,
        /// The file that should have them.
        path: PathBuf,
        /// Unassigned ids, as [`SubidFiles::free`] finds them.
        free: Range,
    },
    /// The ranges cannot be mapped.
    #[error("the subordinate {kind} ids of {account}: {cause}")]
    Map {
        /// The user.
        account: Account,
        /// Which ids.
        kind: IdKind,
        /// The cause; part of the message and not a `source()`.
        cause: MapError,
    },
    /// The id map of this process's own namespace is malformed.
    #[error("{}: {cause}", Escaped(path.as_os_str().as_bytes()))]
    Offered {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: MapError,
    },
}

fn remedy(account: &Account, path: &Path, free: Range) -> String {
    let (first, last) = (free.base, free.end() - 1);
    match account.name {
        Some(_) => {
            format!(
                "as root, run `usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {account}`"
            )
        }
        None => format!(
            "as root, add the line `{account}:{first}:{}` to {}",
            free.count,
            Escaped(path.as_os_str().as_bytes())
        ),
    }
}

/// A skipped line of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: line {} is skipped: {}", Escaped(path.as_os_str().as_bytes()), line.number, line.fault)]
pub struct PassedOver {
    /// The file.
    pub path: PathBuf,
    /// The line.
    pub line: BrokenLine,
}

/// The ranges of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Subordinate uids; never empty.
    pub uids: Vec<Range>,
    /// Subordinate gids; never empty.
    pub gids: Vec<Range>,
    /// Malformed lines.
    pub passed_over: Vec<PassedOver>,
}

impl SubidFiles {
    /// Reads all ranges of the user, without checking them against each other.
    pub fn ranges(&self, account: &Account) -> Result<Ranges, SourceError> {
        let mut passed_over = Vec::new();
        let uids = self.ranges_of(IdKind::User, account, &mut passed_over)?;
        let gids = self.ranges_of(IdKind::Group, account, &mut passed_over)?;
        Ok(Ranges {
            uids,
            gids,
            passed_over,
        })
    }

    /// Computes the maps of a namespace over these ranges.
    pub fn maps(
        &self,
        layout: Layout,
        account: &Account,
        ranges: &Ranges,
    ) -> Result<IdMaps, SourceError> {
        self.both(account, ranges, |own, ranges, offered| {
            IdMap::build(layout, own, ranges, offered)
        })
    }

    /// Computes the maps of a namespace with all ids of the user, including the user's own: see
    /// [`IdMap::whole`].
    pub fn whole_maps(&self, account: &Account, ranges: &Ranges) -> Result<IdMaps, SourceError> {
        self.both(account, ranges, IdMap::whole)
    }

    fn both(
        &self,
        account: &Account,
        ranges: &Ranges,
        build: impl Fn(u32, &[Range], &IdMap) -> Result<IdMap, MapError>,
    ) -> Result<IdMaps, SourceError> {
        let build = |kind, ranges: &[Range]| {
            let offered = self.offered(kind)?;
            build(account.own_id(kind), ranges, &offered).map_err(|cause| SourceError::Map {
                account: account.clone(),
                kind,
                cause,
            })
        };
        Ok(IdMaps {
            uids: build(IdKind::User, &ranges.uids)?,
            gids: build(IdKind::Group, &ranges.gids)?,
        })
    }

    /// The maps for working without a namespace: every id of this process's namespace, mapped to
    /// itself.
    pub fn identity(&self) -> Result<IdMaps, SourceError> {
        Ok(IdMaps {
            uids: self.offered(IdKind::User)?.identity(),
            gids: self.offered(IdKind::Group)?.identity(),
        })
    }

    fn offered(&self, kind: IdKind) -> Result<IdMap, SourceError> {
        let path = match kind {
            IdKind::User => &self.uid_map,
            IdKind::Group => &self.gid_map,
        };
        let text = fs::read(path).at(path.as_os_str().as_bytes(), "read")?;
        IdMap::parse(&text).map_err(|cause| SourceError::Offered {
            path: path.clone(),
            cause,
        })
    }

    /// Finds 65536 ids, from 100000 on, that neither file assigns to a user. Returns those from
    /// 100000 on if it finds none.
    pub fn free(&self) -> Range {
        const FIRST: u32 = 100_000;
        const COUNT: u32 = 65536;
        let taken = [&self.subuid, &self.subgid]
            .map(|path| subid::end(&fs::read(path).unwrap_or_default()));
        let base = taken
            .into_iter()
            .max()
            .and_then(|end| u32::try_from(end).ok())
            .map_or(FIRST, |end| end.max(FIRST));
        Range {
            base: if base.checked_add(COUNT).is_some() {
                base
            } else {
                FIRST
            },
            count: COUNT,
        }
    }

    fn ranges_of(
        &self,
        kind: IdKind,
        account: &Account,
        passed_over: &mut Vec<PassedOver>,
    ) -> Result<Vec<Range>, SourceError> {
        let path = match kind {
            IdKind::User => &self.subuid,
            IdKind::Group => &self.subgid,
        };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.at(path.as_os_str().as_bytes(), "read")?,
        };
        let Parsed { ranges, broken } = subid::parse(&text, account);
        passed_over.extend(broken.into_iter().map(|line| PassedOver {
            path: path.clone(),
            line,
        }));
        let ranges = if ranges.is_empty() {
            self.ask_getsubids(kind, account)
        } else {
            ranges
        };
        match ranges.is_empty() {
            true => Err(SourceError::NoIds {
                account: account.clone(),
                kind,
                path: path.clone(),
                free: self.free(),
            }),
            false => Ok(ranges),
        }
    }

    /// Without the program, or if it fails, there are no further ranges: it fails for users without
    /// ranges.
    fn ask_getsubids(&self, kind: IdKind, account: &Account) -> Vec<Range> {
        let mut command = Command::new(&self.getsubids);
        if kind == IdKind::Group {
            command.arg("-g");
        }
        command.arg(
            account
                .name
                .clone()
                .unwrap_or_else(|| account.uid.to_string()),
        );
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => subid::parse_getsubids(&output.stdout),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A machine with files in `dir`, and `getsubids` as the script of its getsubids.
    fn machine(
        dir: &Path,
        subuid: Option<&str>,
        subgid: Option<&str>,
        getsubids: &str,
    ) -> SubidFiles {
        let source = SubidFiles {
            subuid: dir.join("subuid"),
            subgid: dir.join("subgid"),
            getsubids: dir.join("getsubids").into(),
            uid_map: dir.join("uid_map"),
            gid_map: dir.join("gid_map"),
        };
        let files = [(&source.subuid, subuid), (&source.subgid, subgid)];
        for (path, text) in files {
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        fs::write(&source.uid_map, "0 0 4294967295\n").unwrap();
        fs::write(&source.gid_map, "0 0 4294967295\n").unwrap();
        fs::write(&source.getsubids, format!("#!/bin/sh\n{getsubids}\n")).unwrap();
        fs::set_permissions(&source.getsubids, fs::Permissions::from_mode(0o755)).unwrap();
        source
    }

    #[test]
    fn files_come_first_and_getsubids_fills_in_for_each_kind() {
        let dir = tempfile::tempdir().unwrap();
        let script = "case \"$*\" in '-g anna') echo '0: anna 300000 10';; anna) echo '0: anna 1 1';; *) exit 1;; esac";
        let source = machine(dir.path(), Some("anna:200000:20\nbroken\n"), None, script);
        let ranges = source.ranges(&Account::anna()).unwrap();
        assert_eq!(
            ranges.uids,
            [Range {
                base: 200_000,
                count: 20
            }]
        );
        assert_eq!(
            ranges.gids,
            [Range {
                base: 300_000,
                count: 10
            }]
        );
        let warnings: Vec<_> = ranges.passed_over.iter().map(ToString::to_string).collect();
        let expected = format!(
            "{}: line 2 is skipped: not of the form NAME:BASE:COUNT",
            source.subuid.display()
        );
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn a_user_without_ranges_learns_how_to_get_some() {
        let dir = tempfile::tempdir().unwrap();
        let source = machine(dir.path(), Some("bert:1:1\n"), Some("anna:1:1\n"), "exit 1");
        let message = source.ranges(&Account::anna()).unwrap_err().to_string();
        assert!(
            message.starts_with("anna has no subordinate user ids in "),
            "{message}"
        );
        assert!(
            message
                .contains("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 anna"),
            "{message}"
        );

        let nameless = Account {
            name: None,
            uid: 4321,
            gid: 1,
        };
        let message = source.ranges(&nameless).unwrap_err().to_string();
        assert!(
            message.contains("4321 has no") && message.contains("`4321:100000:65536`"),
            "{message}"
        );
        // Ids of other users are not offered, in whichever of the files they are.
        for (subuid, subgid, first) in [
            (
                "bert:100000:65536\ncarl:165536:65536\n",
                "bert:100000:65536\n",
                231_072,
            ),
            ("bert:100000:65536\n", "carl:500000:100\nbroken\n", 500_100),
            ("bert:4294900000:60000\n", "", 100_000),
        ] {
            let source = machine(dir.path(), Some(subuid), Some(subgid), "exit 1");
            assert_eq!(
                source.free(),
                Range {
                    base: first,
                    count: 65536
                },
                "{subuid}"
            );
            let message = source.ranges(&Account::anna()).unwrap_err().to_string();
            assert!(
                message.contains(&format!("--add-subuids {first}-{} ", first + 65535)),
                "{message}"
            );
        }
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let source = SubidFiles {
            subuid: dir.path().into(),
            ..machine(dir.path(), None, None, "exit 1")
        };
        assert!(matches!(
            source.ranges(&Account::anna()),
            Err(SourceError::File(_))
        ));
    }

    #[test]
    fn maps_tell_uids_from_gids() {
        let dir = tempfile::tempdir().unwrap();
        let source = machine(
            dir.path(),
            Some("anna:100000:65536\n"),
            Some("anna:200000:1000\n"),
            "exit 1",
        );
        let ranges = source.ranges(&Account::anna()).unwrap();
        let maps = source
            .maps(Layout::Subid, &Account::anna(), &ranges)
            .unwrap();
        assert_eq!(maps.uids.kernel_text(), "0 100000 65536\n");
        assert_eq!(maps.gids.kernel_text(), "0 200000 998\n65534 200998 1\n");
        let gid_in_range = Account {
            gid: 200_005,
            ..Account::anna()
        };
        let message = source
            .maps(Layout::Subid, &gid_in_range, &ranges)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(
                "the subordinate group ids of anna: the range 200000:1000 contains 200005"
            ),
            "{message}"
        );
    }

    #[test]
    fn without_proc_there_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let source = machine(
            dir.path(),
            Some("anna:100000:65536\n"),
            Some("anna:100000:65536\n"),
            "exit 1",
        );
        fs::remove_file(&source.uid_map).unwrap();
        let ranges = source.ranges(&Account::anna()).unwrap();
        let message = source
            .maps(Layout::Subid, &Account::anna(), &ranges)
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("uid_map: read: No such file or directory"),
            "{message}"
        );
    }
}
