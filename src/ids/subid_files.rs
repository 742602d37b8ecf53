//! The subordinate ids of a user on this machine: from the files, or from the service that
//! nsswitch.conf names in their place.

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::map::{self, HOST_RANGE};
use super::subid::{self, BrokenLine, Parsed};
use super::{Account, IdKind, IdMap, IdMaps, Layout, MapError, Range};
use crate::error::{Escaped, FileError, PathContext, describe};
use crate::sys;

/// The sources of subordinate ids. `SubidFiles::default()` has those of the machine.
#[derive(Clone, Debug)]
pub struct SubidFiles {
    /// `/etc/subuid`. A missing file has no ranges.
    pub subuid: PathBuf,
    /// `/etc/subgid`. A missing file has no ranges.
    pub subgid: PathBuf,
    /// `/etc/nsswitch.conf`, whose line `subid:` may name a service. newuidmap then asks it, and
    /// ignores both files.
    pub nsswitch: PathBuf,
    /// getsubids(1), a path or a name to find in `PATH`, which asks that service.
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
            nsswitch: "/etc/nsswitch.conf".into(),
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
    /// The user has no name, so newuidmap refuses every map.
    #[error(
        "uid {0} has no entry in the user database, and newuidmap works for no such user: add it to /etc/passwd, with useradd or by the entrypoint of the container"
    )]
    Nameless(u32),
    /// The service cannot be asked.
    #[error(
        "the subordinate ids come from the service {service} (the line subid: of nsswitch.conf), and getsubids, which asks it, cannot be run: {}: install the package uidmap (shadow-utils elsewhere)",
        describe(cause)
    )]
    Getsubids {
        /// The service.
        service: String,
        /// The cause; part of the message and not a `source()`.
        cause: io::Error,
    },
    /// The user has no subordinate ids of this kind.
    #[error("{account} has no subordinate {kind} ids in {origin}{}: {}", skipped(broken), remedy(account, origin, *free, broken))]
    NoIds {
        /// The user.
        account: Account,
        /// Which ids are missing.
        kind: IdKind,
        /// Where they are missing.
        origin: Origin,
        /// Malformed lines there.
        broken: Vec<BrokenLine>,
        /// Unassigned ids, as [`SubidFiles::free`] finds them.
        free: Option<Range>,
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

/// Where subordinate ids are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// With this service, which nsswitch.conf names.
    Service(String),
}

/// `/etc/subuid`, or `the service sss (the line subid: of nsswitch.conf)`.
impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(out, "{}", Escaped(path.as_os_str().as_bytes())),
            Origin::Service(name) => write!(
                out,
                "the service {} (the line subid: of nsswitch.conf)",
                Escaped(name)
            ),
        }
    }
}

/// The first malformed lines, which may be those of the user.
fn skipped(broken: &[BrokenLine]) -> String {
    const SHOWN: usize = 3;
    let lines = broken.iter().take(SHOWN);
    lines
        .map(|line| format!("; line {} is skipped: {}", line.number, line.fault))
        .collect()
}

fn remedy(
    account: &Account,
    origin: &Origin,
    free: Option<Range>,
    broken: &[BrokenLine],
) -> String {
    let otherwise = match broken.is_empty() {
        true => "",
        false => "correct the line, or ",
    };
    otherwise.to_owned() + &more_ids(account, origin, free)
}

fn more_ids(account: &Account, origin: &Origin, free: Option<Range>) -> String {
    match (origin, free) {
        (Origin::Service(_), _) => format!("give {account} a range of 65536 ids there"),
        (Origin::File(_), None) => HOST_RANGE.to_owned(),
        (Origin::File(_), Some(free)) => {
            let (first, last) = (free.base, free.end() - 1);
            format!(
                "as root, run `usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {account}`"
            )
        }
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
    /// Subordinate uids as configured; never empty.
    pub uids: Vec<Range>,
    /// Subordinate gids as configured; never empty.
    pub gids: Vec<Range>,
    /// Malformed lines.
    pub passed_over: Vec<PassedOver>,
    /// The service that gave them; `None` for the files.
    pub service: Option<String>,
}

impl SubidFiles {
    /// Reads all ranges of the user, without checking them against each other.
    pub fn ranges(&self, account: &Account) -> Result<Ranges, SourceError> {
        let Some(name) = &account.name else {
            return Err(SourceError::Nameless(account.uid));
        };
        let mut service = subid::service(&read(&self.nsswitch)?);
        let mut passed_over = Vec::new();
        let mut of = |kind| {
            let given = match &service {
                Some(service) => self.ask(service, kind, name)?,
                None => None,
            };
            let (ranges, broken) = match given {
                Some(ranges) => (ranges, Vec::new()),
                None => {
                    service = None;
                    self.read_file(kind, account)?
                }
            };
            if ranges.is_empty() {
                return Err(self.no_ids(kind, account, service.clone(), broken));
            }
            passed_over.extend(broken.into_iter().map(|line| PassedOver {
                path: self.file(kind).to_owned(),
                line,
            }));
            Ok(ranges)
        };
        let (uids, gids) = (of(IdKind::User)?, of(IdKind::Group)?);
        Ok(Ranges {
            uids,
            gids,
            passed_over,
            service,
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
        Ok(IdMaps {
            uids: self.within_offer(IdKind::User, account, ranges, &build)?,
            gids: self.within_offer(IdKind::Group, account, ranges, &build)?,
        })
    }

    /// The ids of this kind that a namespace of the user uses: see [`map::usable`].
    pub fn usable(
        &self,
        kind: IdKind,
        account: &Account,
        ranges: &Ranges,
    ) -> Result<Vec<Range>, SourceError> {
        self.within_offer(kind, account, ranges, &map::usable)
    }

    /// What `compute` gives for the user's own id, the ranges, and the map of this process's
    /// namespace.
    fn within_offer<T>(
        &self,
        kind: IdKind,
        account: &Account,
        ranges: &Ranges,
        compute: &impl Fn(u32, &[Range], &IdMap) -> Result<T, MapError>,
    ) -> Result<T, SourceError> {
        let offered = self.offered(kind)?;
        let computed = compute(account.own_id(kind), ranges.of(kind), &offered);
        computed.map_err(|cause| SourceError::Map {
            account: account.clone(),
            kind,
            cause,
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
    /// 100000 on if it finds none; `None` if the namespace of this process does not map them.
    pub fn free(&self) -> Option<Range> {
        const FIRST: u32 = 100_000;
        const COUNT: u32 = 65536;
        let taken = [&self.subuid, &self.subgid]
            .map(|path| subid::end(&fs::read(path).unwrap_or_default()));
        let base = taken
            .into_iter()
            .max()
            .and_then(|end| u32::try_from(end).ok())
            .map_or(FIRST, |end| end.max(FIRST));
        let range = Range {
            base: if base.checked_add(COUNT).is_some() {
                base
            } else {
                FIRST
            },
            count: COUNT,
        };
        let is_offered = |kind| self.offered(kind).is_ok_and(|map| map.maps_whole(range));
        (is_offered(IdKind::User) && is_offered(IdKind::Group)).then_some(range)
    }

    fn file(&self, kind: IdKind) -> &Path {
        match kind {
            IdKind::User => &self.subuid,
            IdKind::Group => &self.subgid,
        }
    }

    /// The ranges in the file by name or uid. A user without any has those of other names with the
    /// same uid, for which newuidmap looks as well.
    fn read_file(
        &self,
        kind: IdKind,
        account: &Account,
    ) -> Result<(Vec<Range>, Vec<BrokenLine>), SourceError> {
        let text = read(self.file(kind))?;
        let Parsed { ranges, broken } = subid::parse(&text, account);
        if !ranges.is_empty() {
            return Ok((ranges, broken));
        }
        let is_account = |name: &[u8]| {
            let entry = CString::new(name).map(|name| sys::passwd_by_name(&name));
            matches!(entry, Ok(Ok(Some(entry))) if entry.uid == account.uid)
        };
        Ok((subid::parse_lines_of(&text, is_account).ranges, broken))
    }

    /// The ranges that the service has; getsubids fails for users without ranges. `None` if the
    /// module of the service cannot be loaded: newuidmap then reads the files, and getsubids says
    /// so in these words.
    fn ask(
        &self,
        service: &str,
        kind: IdKind,
        name: &str,
    ) -> Result<Option<Vec<Range>>, SourceError> {
        let mut command = Command::new(&self.getsubids);
        if kind == IdKind::Group {
            command.arg("-g");
        }
        let output = command.arg(name).stdin(Stdio::null()).output();
        let output = output.map_err(|cause| SourceError::Getsubids {
            service: service.to_owned(),
            cause,
        })?;
        if String::from_utf8_lossy(&output.stderr).contains("Using files") {
            return Ok(None);
        }
        Ok(Some(match output.status.success() {
            true => subid::parse_getsubids(&output.stdout),
            false => Vec::new(),
        }))
    }

    fn no_ids(
        &self,
        kind: IdKind,
        account: &Account,
        service: Option<String>,
        broken: Vec<BrokenLine>,
    ) -> SourceError {
        SourceError::NoIds {
            account: account.clone(),
            kind,
            origin: service
                .map_or_else(|| Origin::File(self.file(kind).to_owned()), Origin::Service),
            broken,
            free: self.free(),
        }
    }
}

impl Ranges {
    /// Those of this kind.
    pub fn of(&self, kind: IdKind) -> &[Range] {
        match kind {
            IdKind::User => &self.uids,
            IdKind::Group => &self.gids,
        }
    }
}

/// The file; empty if it is missing.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.at(path.as_os_str().as_bytes(), "read"),
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
            nsswitch: dir.join("nsswitch.conf"),
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

    const SCRIPT: &str = "case \"$*\" in '-g anna') echo '0: anna 300000 10';; anna) echo '0: anna 250000 20';; *) exit 1;; esac";

    #[test]
    fn the_service_of_nsswitch_is_asked_instead_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = "anna:200000:20\nbroken\n";
        let source = machine(dir.path(), Some(files), Some(files), SCRIPT);
        let read = || source.ranges(&Account::anna()).unwrap();
        let in_files = Range {
            base: 200_000,
            count: 20,
        };
        // Nothing but the files counts without a service.
        for nsswitch in [None, Some("subid: files\n")] {
            if let Some(text) = nsswitch {
                fs::write(&source.nsswitch, text).unwrap();
            }
            let ranges = read();
            assert_eq!((ranges.uids, ranges.gids), (vec![in_files], vec![in_files]));
            let warnings: Vec<_> = ranges.passed_over.iter().map(ToString::to_string).collect();
            let skipped = "line 2 is skipped: not of the form NAME:BASE:COUNT";
            assert!(
                warnings.len() == 2 && warnings[0].ends_with(skipped),
                "{warnings:?}"
            );
        }
        fs::write(&source.nsswitch, "subid: sss\n").unwrap();
        let ranges = read();
        assert_eq!(
            (ranges.uids[0].base, ranges.gids[0].base),
            (250_000, 300_000)
        );
        assert_eq!(
            (ranges.passed_over.len(), ranges.service.as_deref()),
            (0, Some("sss"))
        );

        // newuidmap reads the files where it cannot load the module of the service.
        let script =
            "#!/bin/sh\necho 'Error opening libsubid_sss.so: none\nUsing files' >&2; exit 1\n";
        let asks = fs::read(&source.getsubids).unwrap();
        fs::write(&source.getsubids, script).unwrap();
        let ranges = read();
        assert_eq!((ranges.uids, ranges.service), (vec![in_files], None));
        fs::write(&source.getsubids, asks).unwrap();

        let other = Account {
            name: Some("bert".into()),
            ..Account::anna()
        };
        let message = source.ranges(&other).unwrap_err().to_string();
        assert!(
            message.starts_with("bert has no subordinate user ids in the service sss"),
            "{message}"
        );
        fs::remove_file(&source.getsubids).unwrap();
        let message = source.ranges(&other).unwrap_err().to_string();
        assert!(
            message.contains("service sss") && message.contains("package uidmap"),
            "{message}"
        );
    }

    #[test]
    fn a_user_without_a_name_learns_that_newuidmap_never_works_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let line = Some("anna:100000:65536\n4321:100000:65536\n");
        let source = machine(dir.path(), line, line, "exit 1");
        let nameless = Account {
            name: None,
            uid: 4321,
            gid: 1,
        };
        let message = source.ranges(&nameless).unwrap_err().to_string();
        assert!(
            message.starts_with("uid 4321 has no entry in the user database"),
            "{message}"
        );
    }

    #[test]
    fn lines_of_another_name_with_the_same_uid_count_if_there_are_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let source = machine(
            dir.path(),
            Some("root:5000:7\n"),
            Some("root:5000:7\nbert:1:1\nanna:9000:7\n"),
            "exit 1",
        );
        let toor = Account {
            uid: 0,
            ..Account::anna()
        };
        let ranges = source.ranges(&toor).unwrap();
        assert_eq!((ranges.uids[0].base, ranges.gids[0].base), (5000, 9000));
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
        // The line that has the ids may be a broken one.
        fs::write(&source.subuid, "anna:100000:65536\r\n").unwrap();
        let message = source.ranges(&Account::anna()).unwrap_err().to_string();
        assert!(
            message.contains("line 1 is skipped: the count has a blank or a carriage return")
                && message.contains(": correct the line, or as root, run `usermod"),
            "{message}"
        );
        // A container whose map ends before those.
        fs::write(&source.uid_map, "0 1 65536\n").unwrap();
        let message = source.ranges(&Account::anna()).unwrap_err().to_string();
        assert!(
            message.contains("on the host, give the user who starts the container"),
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
            let free = Range {
                base: first,
                count: 65536,
            };
            assert_eq!(source.free(), Some(free), "{subuid}");
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
