//! To whom access is given: root of the namespace, the users that sbuild builds as, the caller.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use isar_tarball::archive::reader::Limits;
use isar_tarball::error::{FileError, describe};
use isar_tarball::ids::Account;
use isar_tarball::input::Input;
use isar_tarball::member_stream;
use isar_tarball::sbuild::accounts::{self, Accounts, Picker};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde_json::{Value, json};

use super::Args;
use super::inside::{Answer, in_place};
use crate::cli::Globals;
use crate::cli::place::{self, Namespace};
use crate::cli::source::{self, Reading};

/// The uid of the first user that `useradd --system` makes in a usual chroot.
const USUAL: u32 = 999;

/// A user who gets entries.
pub struct Whom {
    /// The uid inside; `None` for the caller where the namespace does not have it.
    pub inside: Option<u32>,
    /// The uid outside: the one that the entries name.
    pub outside: u32,
    roles: Vec<Role>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Root,
    Build,
    Sbuild085,
    Sbuild089,
    Caller,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Build => "build",
            Role::Sbuild085 => "sbuild-0.85",
            Role::Sbuild089 => "sbuild-0.89",
            Role::Caller => "caller",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Role::Root => "root inside",
            Role::Build => "build user",
            Role::Sbuild085 => "builds of sbuild 0.85",
            Role::Sbuild089 => "builds of sbuild 0.89",
            Role::Caller => "the caller",
        }
    }
}

impl Whom {
    /// False for the caller, as whom it is the owner of what it opens to others.
    pub fn needs_entry(&self) -> bool {
        !self.roles.contains(&Role::Caller)
    }

    /// What it is, without the caller's being the caller.
    pub fn name(&self) -> String {
        let roles = self
            .roles
            .iter()
            .filter(|role| **role != Role::Caller || self.roles.len() == 1);
        roles
            .map(|role| role.text())
            .collect::<Vec<_>>()
            .join(" and ")
    }

    /// The entry, and whose it is: `user:100999:rwX (uid 999: build user)`.
    pub fn text(&self, revoked: bool) -> String {
        let permissions = if revoked { "" } else { ":rwX" };
        let roles: Vec<&str> = self.roles.iter().map(|role| role.text()).collect();
        let inside = match self.inside {
            Some(uid) if uid != 0 => format!("uid {uid}: "),
            _ => String::new(),
        };
        format!(
            "user:{}{permissions} ({inside}{})",
            self.outside,
            roles.join(", ")
        )
    }

    pub fn json(&self, share: bool) -> Value {
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        let entry = share || self.needs_entry();
        json!({"inside": self.inside, "outside": self.outside, "roles": roles, "entry": entry})
    }
}

/// Everybody that the options name, each once.
pub fn resolve(
    args: &Args,
    globals: &Globals,
    namespace: Option<&Namespace>,
) -> anyhow::Result<Vec<Whom>> {
    let maps = match namespace {
        Some(namespace) => namespace.maps.clone(),
        None => place::maps(globals)?,
    };
    let account = match namespace {
        Some(namespace) => namespace.account.clone(),
        None => place::caller()?,
    };
    let mut whom: Vec<Whom> = Vec::new();
    for (role, inside) in build_users(args, globals, namespace, &account)? {
        let outside = maps.uids.to_outer(inside).ok_or_else(|| {
            anyhow!(
                "uid {inside} ({}) has no id outside: the user namespace does not map it (isar-tarball idmap shows what it does); a range of 65536 ids in /etc/subuid would",
                role.text()
            )
        })?;
        add(&mut whom, role, Some(inside), outside);
    }
    if args.share || whom.iter().any(|who| who.outside == account.uid) {
        add(
            &mut whom,
            Role::Caller,
            maps.uids.to_inner(account.uid),
            account.uid,
        );
    }
    Ok(whom)
}

fn add(whom: &mut Vec<Whom>, role: Role, inside: Option<u32>, outside: u32) {
    match whom.iter_mut().find(|who| who.outside == outside) {
        Some(who) => who.roles.push(role),
        None => whom.push(Whom {
            inside,
            outside,
            roles: vec![role],
        }),
    }
}

/// Root and the users of sbuild, by their uids inside.
fn build_users(
    args: &Args,
    globals: &Globals,
    namespace: Option<&Namespace>,
    account: &Account,
) -> anyhow::Result<Vec<(Role, u32)>> {
    let mut users = vec![(Role::Root, 0)];
    match (&args.chroot, args.sbuild_uid) {
        _ if args.parent => {}
        (Some(chroot), _) => {
            let accounts = accounts_of(chroot, globals, namespace)
                .with_context(|| format!("cannot tell the build users of {chroot:?}"))?;
            let found = accounts.build_users(account.name.as_ref().map(|name| name.as_bytes()));
            let found =
                found.with_context(|| format!("cannot tell the build users of {chroot:?}"))?;
            users.push((Role::Sbuild089, found.sbuild));
            users.extend(found.caller.map(|uid| (Role::Sbuild085, uid)));
        }
        (None, uid) => users.push((Role::Build, uid.unwrap_or(USUAL))),
    }
    Ok(users)
}

fn accounts_of(
    chroot: &Path,
    globals: &Globals,
    namespace: Option<&Namespace>,
) -> anyhow::Result<Accounts> {
    let open = openat(CWD, chroot, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let open = open.map_err(|error| anyhow!("open: {}", describe(&error.into())))?;
    let kind = fstat(&open).context("read its attributes")?.st_mode;
    if FileType::from_raw_mode(kind) == FileType::Directory {
        of_directory(&open, globals, namespace.is_some())
    } else {
        of_archive(chroot)
    }
}

/// Its files may be readable to its owners alone, who are inside.
fn of_directory(
    root: &OwnedFd,
    globals: &Globals,
    has_namespace: bool,
) -> anyhow::Result<Accounts> {
    match Accounts::of_directory(root.as_fd()) {
        Err(accounts::Error::File(FileError { cause, .. }))
            if has_namespace && cause.kind() == io::ErrorKind::PermissionDenied => {}
        done => return Ok(done?),
    }
    let place = place::whole_place(globals)?;
    let answer = in_place(&place, || {
        let Accounts { passwd, login_defs } = Accounts::of_directory(root.as_fd())?;
        Ok([
            &(passwd.len() as u64).to_le_bytes(),
            passwd.as_slice(),
            &login_defs,
        ]
        .concat())
    })?;
    let Answer::Done(bytes) = answer else {
        bail!("stopped by a signal")
    };
    let split = || {
        let (length, both) = bytes.split_first_chunk::<8>()?;
        let (passwd, login_defs) =
            both.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        Some(Accounts {
            passwd: passwd.to_vec(),
            login_defs: login_defs.to_vec(),
        })
    };
    split().context("the process inside was cut short")
}

/// The last member of a name counts, so it is read to its end. Its threads are gone then: whoever
/// forks afterwards has one thread.
fn of_archive(archive: &Path) -> anyhow::Result<Accounts> {
    let options = Reading::default().options();
    let mut input = Input::open(source::open(archive)?, &options)?;
    let mut picker = Picker::default();
    member_stream::read(&mut input, Limits::default(), |event| {
        picker.take(&event).map_err(anyhow::Error::from)
    })?;
    Ok(picker.finish()?)
}
