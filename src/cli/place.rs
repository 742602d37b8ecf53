//! Where a command works: as the caller, or in the namespace of subordinate ids.

use std::convert::Infallible;
use std::ffi::CString;
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use isar_tarball::ids::{self, Account, IdMaps, SubidFiles, subid_files::Ranges};
use isar_tarball::sys::{self, PasswdEntry};
use isar_tarball::userns::{Isolation, Outcome};

use super::Globals;
use super::report::{self, Status};

/// What `--userns` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Userns {
    /// An ordinary user enters a namespace over its own subordinate ids, root works as it is.
    Auto,
    /// Never enter a namespace.
    Off,
    /// The namespace of this user's subordinate ids.
    User(String),
}

impl FromStr for Userns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Userns, Infallible> {
        Ok(match text {
            "auto" => Userns::Auto,
            "off" => Userns::Off,
            user => Userns::User(user.to_owned()),
        })
    }
}

/// What `--id-layout` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Id 0 of the tree is the first subordinate id, as sbuild and mmdebstrap have it.
    Subid,
    /// Id 0 of the tree is the caller.
    Caller,
}

impl From<Layout> for ids::Layout {
    fn from(layout: Layout) -> ids::Layout {
        match layout {
            Layout::Subid => ids::Layout::Subid,
            Layout::Caller => ids::Layout::Caller,
        }
    }
}

/// The status of the process that worked in the place.
impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Status {
        match outcome {
            Outcome::Exited(code) => Status::from_code(code),
            Outcome::Killed(signal) => Status::Killed(u8::try_from(signal).unwrap_or(u8::MAX)),
        }
    }
}

/// The status of the program's own work in the place. `context` says what the work was, for a
/// process that was killed before it could say anything.
pub fn of_work(outcome: Outcome, context: impl FnOnce() -> String) -> Status {
    if let Some(signal) = outcome.unasked_signal() {
        let hint = if signal == libc::SIGKILL {
            ", as the kernel does when memory runs out"
        } else {
            ""
        };
        report::error(&anyhow!(
            "{}: the process that does the work was killed by signal {signal}{hint}",
            context()
        ));
    }
    outcome.into()
}

/// The status of a command that ran in the place: its own.
pub fn of_command(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Exited(code) => Status::Command(code),
        Outcome::Killed(_) => outcome.into(),
    }
}

/// A namespace over the subordinate ids of a user.
pub struct Namespace {
    /// Whose.
    pub account: Account,
    /// The ranges as the user has them.
    pub ranges: Ranges,
    /// What becomes of them in the chosen layout.
    pub maps: IdMaps,
}

/// The place that `--userns` and `--id-layout` choose. Warns of broken lines in the files of
/// subordinate ids.
pub fn place(globals: &Globals) -> anyhow::Result<Isolation> {
    Ok(match namespace(globals)? {
        Some(namespace) => Isolation::Namespace(namespace.maps),
        None => Isolation::None,
    })
}

/// A place where everything that the user's ids own may be removed, whatever the layout: it has all
/// of them, and the user's own.
pub fn whole_place(globals: &Globals) -> anyhow::Result<Isolation> {
    Ok(match namespace(globals)? {
        Some(Namespace {
            account, ranges, ..
        }) => Isolation::Namespace(SubidFiles::default().whole_maps(&account, &ranges)?),
        None => Isolation::None,
    })
}

/// The maps of the chosen place; without a namespace every id is itself.
pub fn maps(globals: &Globals) -> anyhow::Result<IdMaps> {
    match place(globals)? {
        Isolation::Namespace(maps) => Ok(maps),
        Isolation::None => Ok(SubidFiles::default().identity()?),
    }
}

/// The namespace that `--userns` and `--id-layout` choose, if they choose one.
pub fn namespace(globals: &Globals) -> anyhow::Result<Option<Namespace>> {
    let Some(account) = account(&globals.userns)? else {
        return Ok(None);
    };
    let source = SubidFiles::default();
    let ranges = source.ranges(&account)?;
    if !globals.quiet {
        ranges
            .passed_over
            .iter()
            .for_each(|line| report::warning(&line.to_string()));
    }
    let maps = source.maps(globals.id_layout.into(), &account, &ranges)?;
    Ok(Some(Namespace {
        account,
        ranges,
        maps,
    }))
}

/// Whose subordinate ids are used; `None` to work without a namespace.
pub fn account(userns: &Userns) -> anyhow::Result<Option<Account>> {
    let is_root = rustix::process::geteuid().is_root();
    match userns {
        Userns::Off => Ok(None),
        Userns::Auto if is_root => Ok(None),
        Userns::Auto => Ok(Some(caller()?)),
        Userns::User(name) => {
            let caller = caller()?;
            if caller.name.as_ref() == Some(name) || caller.uid.to_string() == *name {
                return Ok(Some(caller));
            }
            let user = user(name)?;
            if !is_root && user.uid != caller.uid {
                bail!("--userns {name:?}: only root may use the subordinate ids of another user");
            }
            Ok(Some(user))
        }
    }
}

/// The user that runs the program, with or without a passwd entry.
pub fn caller() -> anyhow::Result<Account> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let entry =
        sys::passwd_by_uid(uid).with_context(|| format!("look up the user with uid {uid}"))?;
    Ok(Account {
        name: entry.and_then(|entry| String::from_utf8(entry.name).ok()),
        uid,
        gid,
    })
}

/// The user of this name, or else of this number.
fn user(name: &str) -> anyhow::Result<Account> {
    let look_up = || -> std::io::Result<Option<PasswdEntry>> {
        if let Some(entry) = sys::passwd_by_name(&CString::new(name)?)? {
            return Ok(Some(entry));
        }
        name.parse().map_or(Ok(None), sys::passwd_by_uid)
    };
    let Some(entry) = look_up().with_context(|| format!("--userns {name:?}: look up the user"))?
    else {
        bail!("--userns {name:?}: there is no such user");
    };
    Ok(Account {
        name: String::from_utf8(entry.name).ok(),
        uid: entry.uid,
        gid: entry.gid,
    })
}
