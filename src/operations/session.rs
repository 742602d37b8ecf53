//! Which user namespace an operation works in.

use std::ffi::CString;
use std::io;
use std::path::Path;

use crate::error::{Classify, Context, Error, ErrorKind, PathContext};
use crate::ids::subid_files::{Ranges, SubidFiles};
use crate::ids::{Account, IdMaps, Layout, SourceError};
use crate::observer::{Notice, Observer};
use crate::sys;
use crate::userns::Isolation;
use crate::workdir::Namespaces;
use crate::workdir::trust::Trust;

/// The user namespace of an operation, and how ids are numbered in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose subordinate ids are used.
    pub userns: UserNamespace,
    /// How the ids of a tree are numbered on disk.
    pub layout: Layout,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            userns: UserNamespace::Auto,
            layout: Layout::Subid,
        }
    }
}

/// Whose subordinate ids are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// The caller's own. A caller that is root, in a namespace or not, works as it is.
    #[default]
    Auto,
    /// No namespace.
    Off,
    /// Those of this user, by name or number. Only root may name another user.
    User(String),
}

impl Classify for SourceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::SubordinateIds
    }
}

/// The subordinate ids of a user, and their maps.
pub struct Subordinate {
    /// Whose.
    pub account: Account,
    /// The ranges as configured.
    pub ranges: Ranges,
    /// The maps in the layout of the session.
    pub maps: IdMaps,
}

impl Session {
    /// The subordinate ids that the session uses; `None` if it works without a namespace.
    pub(super) fn subordinate(
        &self,
        observer: &mut dyn Observer,
    ) -> Result<Option<Subordinate>, Error> {
        let Some(account) = self.account()? else {
            return Ok(None);
        };
        let files = SubidFiles::default();
        let ranges = files.ranges(&account)?;
        for line in &ranges.passed_over {
            observer.notice(&Notice::SubidLine(line.to_string()));
        }
        let maps = files.maps(self.layout, &account, &ranges)?;
        Ok(Some(Subordinate {
            account,
            ranges,
            maps,
        }))
    }

    /// The namespaces of an operation.
    pub(super) fn namespaces(&self, observer: &mut dyn Observer) -> Result<Namespaces, Error> {
        let Some(subordinate) = self.subordinate(observer)? else {
            return Ok(Namespaces::NONE);
        };
        let Subordinate {
            account,
            ranges,
            maps,
        } = subordinate;
        let whole = SubidFiles::default().whole_maps(&account, &ranges)?;
        Ok(Namespaces {
            work: Isolation::Namespace(maps),
            whole: Isolation::Namespace(whole),
        })
    }

    /// `error` of work in the tree at `path`: see [`Trust::explain`].
    pub(super) fn explain(&self, error: Error, path: &Path) -> Error {
        if error.kind() != ErrorKind::PermissionDenied {
            return error;
        }
        match self.namespaces(&mut ()) {
            Ok(namespaces) => Trust::new(&namespaces.whole).explain(error, path),
            Err(_) => error,
        }
    }

    /// Whose subordinate ids are used; `None` to work without a namespace.
    pub(super) fn account(&self) -> Result<Option<Account>, Error> {
        let is_root = rustix::process::geteuid().is_root();
        match &self.userns {
            UserNamespace::Off => Ok(None),
            UserNamespace::Auto if is_root => Ok(None),
            UserNamespace::Auto => Ok(Some(caller()?)),
            UserNamespace::User(name) => {
                let caller = caller()?;
                if caller.name.as_ref() == Some(name) || caller.uid.to_string() == *name {
                    return Ok(Some(caller));
                }
                let user = user(name)?;
                if !is_root && user.uid != caller.uid {
                    return Err(Error::new(
                        ErrorKind::PermissionDenied,
                        format!("{name:?}: only root may use the subordinate ids of another user"),
                    ));
                }
                Ok(Some(user))
            }
        }
    }
}

/// The ids that work in `isolation` can give to files; without a namespace each id is itself.
pub(super) fn maps(isolation: &Isolation) -> Result<IdMaps, Error> {
    match isolation {
        Isolation::Namespace(maps) => Ok(maps.clone()),
        Isolation::None => Ok(SubidFiles::default().identity()?),
    }
}

/// The user that runs the program, with or without a passwd entry.
pub(super) fn caller() -> Result<Account, Error> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let entry = sys::passwd_by_uid(uid).at(uid.to_string(), "look up the user")?;
    Ok(Account {
        name: entry.and_then(|entry| String::from_utf8(entry.name).ok()),
        uid,
        gid,
    })
}

/// The user of this name, or else of this number.
fn user(name: &str) -> Result<Account, Error> {
    let look_up = || -> io::Result<Option<sys::PasswdEntry>> {
        if let Some(entry) = sys::passwd_by_name(&CString::new(name)?)? {
            return Ok(Some(entry));
        }
        name.parse().map_or(Ok(None), sys::passwd_by_uid)
    };
    let entry = look_up().context(|| format!("look up the user {name:?}"))?;
    let Some(entry) = entry else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no user {name:?}"),
        ));
    };
    Ok(Account {
        name: String::from_utf8(entry.name).ok(),
        uid: entry.uid,
        gid: entry.gid,
    })
}
