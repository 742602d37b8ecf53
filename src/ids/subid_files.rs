//! The subordinate ids of a user on this machine: from the files, or from the service that
//! nsswitch.conf names in their place.

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::subid::{self, BrokenLine, Parsed};
use super::usable::{HOST_RANGE, usable};
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

    /// The ids of this kind that a namespace of the user uses: see [`usable`].
    pub fn usable(
        &self,
        kind: IdKind,
        account: &Account,
        ranges: &Ranges,
    ) -> Result<Vec<Range>, SourceError> {
        self.within_offer(
            kind,
            account,
            ranges,
            &|own, ranges: &[Range], offered: &IdMap| {
                Ok(usable(own, ranges, &offered.inner_ranges())?)
            },
        )
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
mod tests;
