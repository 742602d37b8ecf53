//! Directories of the caller, opened to ids of the namespace.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::archive::{ArchivePath, Reading, open_error};
use super::diff::look;
use super::session::{self, Session, Subordinate};
use crate::archive::reader::Limits;
use crate::error::{Context, Error, ErrorKind, FileError};
use crate::grant::{self, Action, Change, Report};
use crate::ids::map::NOBODY;
use crate::input::Input;
use crate::member_stream;
use crate::observer::Observer;
use crate::sbuild::accounts::{self, Accounts, Picker};
use crate::sbuild::build_user::BuildUsers;
use crate::userns::{self, HeldSignals, Isolation, Supervision};
use crate::workdir::Namespaces;

/// Grants ids of the namespace access to directories, or revokes it.
#[derive(Clone, Debug)]
pub struct GrantAcl {
    /// The user namespace.
    pub session: Session,
    /// The directories. Missing ones are created, unless access is revoked.
    pub directories: Vec<PathBuf>,
    /// Who gets access, beside root of the namespace.
    pub grantees: Grantees,
    /// Change the whole trees, and set default ACLs for new files.
    pub share: bool,
    /// Remove the entries.
    pub revoke: bool,
}

/// Who gets access, beside root of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grantees {
    /// The users that sbuild 0.85 and 0.89 build as in a usual chroot: uids 998 and 999.
    #[default]
    UsualBuildUsers,
    /// Root alone.
    RootOnly,
    /// The build user with this uid.
    BuildUser(u32),
    /// The users that sbuild 0.85 and 0.89 will build as in this chroot, an archive or directory.
    BuildUsersOf(PathBuf),
}

/// A user who gets access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantee {
    /// The uid inside; `None` for the caller where the namespace does not map it.
    pub inside: Option<u32>,
    /// The uid outside, which ACL entries name.
    pub outside: u32,
    /// What it is.
    pub roles: Vec<GrantRole>,
}

/// What a [`Grantee`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantRole {
    /// Root of the namespace.
    Root,
    /// The build user.
    Build,
    /// The build user of sbuild 0.85.
    Sbuild085,
    /// The build user of sbuild 0.89.
    Sbuild089,
    /// The caller.
    Caller,
}

/// What [`GrantAcl`] did.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Who has access.
    pub grantees: Vec<Grantee>,
    /// The directories, in the order of the options.
    pub directories: Vec<GrantedDirectory>,
}

/// What was done to one directory.
#[derive(Clone, Debug, Default)]
pub struct GrantedDirectory {
    /// The path.
    pub path: PathBuf,
    /// It did not exist, so there was nothing to revoke.
    pub missing: bool,
    /// It was created.
    pub created: bool,
    /// Files and directories that were examined.
    pub examined: u64,
    /// How often ACLs of one were changed.
    pub changed: u64,
    /// Files that lost their setgid bit, because the namespace lacks their group.
    pub setgid_lost: u64,
    /// What could not be done; complete in itself.
    pub error: Option<Error>,
}

/// What one process did to one directory.
#[derive(Default, Serialize, Deserialize)]
struct Tally {
    examined: u64,
    changed: u64,
    setgid_lost: u64,
    /// Those that could not be changed or listed.
    open: u64,
    examples: Vec<String>,
}

impl Tally {
    /// Of one report; `outer` gives the id of an owner outside, where that can be told.
    fn new(report: &Report, outer: impl Fn(u32) -> Option<u32>) -> Tally {
        let owner = |id| match outer(id) {
            Some(id) => format!("uid {id}"),
            None => String::from("a user who is not in your namespace"),
        };
        let example = |refused: &grant::Refused| {
            format!("{} (owned by {})", refused.error, owner(refused.owner))
        };
        Tally {
            examined: report.examined,
            changed: report.changed,
            setgid_lost: report.setgid_lost,
            open: report.refused + report.unreachable,
            examples: report.examples.iter().map(example).collect(),
        }
    }

    /// Adds what another process did to the same directory. If it `decides`, what it left undone is
    /// what is left.
    fn add(&mut self, other: Tally, decides: bool) {
        self.examined = self.examined.max(other.examined);
        self.changed += other.changed;
        self.setgid_lost += other.setgid_lost;
        if decides {
            (self.open, self.examples) = (other.open, other.examples);
        }
    }

    fn error(&self) -> Option<Error> {
        if self.open == 0 {
            return None;
        }
        let more = match self.open.saturating_sub(self.examples.len() as u64) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{}{more}: only the owner of a file, or root, may change its ACL: let them do it",
                self.examples.join("; ")
            ),
        ))
    }
}

/// A directory, opened as the caller.
struct Directory<'a> {
    path: &'a Path,
    /// `None` when it is missing and need not exist.
    open: Option<OwnedFd>,
    created: bool,
    tally: Tally,
}

impl GrantAcl {
    /// Grants access to one directory.
    pub fn new(directory: impl Into<PathBuf>) -> GrantAcl {
        GrantAcl {
            session: Session::default(),
            directories: vec![directory.into()],
            grantees: Grantees::default(),
            share: false,
            revoke: false,
        }
    }

    /// Changes the ACLs. A second run changes nothing.
    ///
    /// # Errors
    ///
    /// What keeps all directories from being changed. What could not be done in a single one is in
    /// [`GrantedDirectory::error`].
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Granted, Error> {
        let subordinate = self.session.subordinate(observer)?;
        let namespaces = self.session.namespaces(&mut ())?;
        self.refuse_accounts_of_the_machine(&namespaces)?;
        let _held = HeldSignals::new()?;
        let grantees = self.resolve(subordinate.as_ref(), &namespaces)?;
        // All are opened before the first is changed.
        let mut directories = Vec::new();
        for path in &self.directories {
            directories.push(self.open(path).context(|| self.cannot(path))?);
        }
        let job = Job {
            options: self,
            grantees: &grantees,
            account_uid: subordinate.as_ref().map(|found| found.account.uid),
            namespaces: &namespaces,
        };
        job.run(&mut directories, observer)?;
        let directories = directories
            .into_iter()
            .map(|directory| GrantedDirectory {
                path: directory.path.to_owned(),
                missing: directory.open.is_none(),
                created: directory.created,
                examined: directory.tally.examined,
                changed: directory.tally.changed,
                setgid_lost: directory.tally.setgid_lost,
                error: directory
                    .tally
                    .error()
                    .map(|error| error.context(self.cannot(directory.path))),
            })
            .collect();
        Ok(Granted {
            grantees,
            directories,
        })
    }

    /// Without a user namespace, uid 999 is no build user but an account of the machine.
    fn refuse_accounts_of_the_machine(&self, namespaces: &Namespaces) -> Result<(), Error> {
        if namespaces.work != Isolation::None || matches!(self.grantees, Grantees::BuildUser(_)) {
            return Ok(());
        }
        match session::maps(&namespaces.work)?.uids.is_of_machine() {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::InvalidInput,
                "no user namespace is used here, so the ids of builds would be those of accounts \
                 of this machine: name the user whose subordinate ids the builds use, or the uid \
                 that gets access",
            )),
        }
    }

    fn cannot(&self, path: &Path) -> String {
        match self.revoke {
            true => format!("cannot revoke access to {path:?}"),
            false => format!("cannot grant access to {path:?}"),
        }
    }

    fn open<'a>(&self, path: &'a Path) -> Result<Directory<'a>, Error> {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from)
        };
        let mut created = false;
        let open = match open() {
            Ok(directory) => Some(directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.revoke => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path)
                    .map_err(|error| open_error("create the directory", error))?;
                created = true;
                Some(open().map_err(|error| open_error("open the directory", error))?)
            }
            Err(error) => return Err(open_error("open the directory", error)),
        };
        Ok(Directory {
            path,
            open,
            created,
            tally: Tally::default(),
        })
    }

    /// All users that the options name, each once.
    fn resolve(
        &self,
        subordinate: Option<&Subordinate>,
        namespaces: &Namespaces,
    ) -> Result<Vec<Grantee>, Error> {
        let maps = session::maps(&namespaces.work)?;
        let account = match subordinate {
            Some(found) => found.account.clone(),
            None => session::caller()?,
        };
        let mut grantees: Vec<Grantee> = Vec::new();
        for (role, inside) in self.build_users(account.name.as_deref(), namespaces)? {
            let outside = maps.uids.to_outer(inside).ok_or_else(|| {
                Error::new(
                    ErrorKind::UnmappedOwner,
                    format!(
                        "uid {inside} ({}) has no id outside: the user namespace does not map it; \
                         a range of 65536 ids in /etc/subuid would",
                        role.text()
                    ),
                )
            })?;
            add(&mut grantees, role, Some(inside), outside);
        }
        if self.share || grantees.iter().any(|who| who.outside == account.uid) {
            let inside = maps.uids.to_inner(account.uid);
            add(&mut grantees, GrantRole::Caller, inside, account.uid);
        }
        Ok(grantees)
    }

    /// Root and the users of sbuild, by their uids inside.
    fn build_users(
        &self,
        name: Option<&str>,
        namespaces: &Namespaces,
    ) -> Result<Vec<(GrantRole, u32)>, Error> {
        let mut users = vec![(GrantRole::Root, 0)];
        match &self.grantees {
            Grantees::RootOnly => {}
            Grantees::UsualBuildUsers => {
                // Without system users above 100, and with the usual login.defs.
                let found = Accounts::default().build_users(name.map(str::as_bytes))?;
                users.extend(by_version(found));
            }
            Grantees::BuildUser(uid) => users.push((GrantRole::Build, *uid)),
            Grantees::BuildUsersOf(chroot) => {
                let context = || format!("cannot tell the build users of {chroot:?}");
                let accounts = accounts_of(chroot, namespaces).context(context)?;
                let found = accounts
                    .build_users(name.map(str::as_bytes))
                    .context(context)?;
                users.extend(by_version(found));
            }
        }
        Ok(users)
    }
}

impl GrantRole {
    /// The role in words.
    pub fn text(self) -> &'static str {
        match self {
            GrantRole::Root => "root inside",
            GrantRole::Build => "build user",
            GrantRole::Sbuild085 => "builds of sbuild 0.85",
            GrantRole::Sbuild089 => "builds of sbuild 0.89",
            GrantRole::Caller => "the caller",
        }
    }
}

impl Grantee {
    /// False for the caller, who as owner needs no entry.
    pub fn needs_entry(&self) -> bool {
        !self.roles.contains(&GrantRole::Caller)
    }
}

/// The users that each version of sbuild builds as.
fn by_version(found: BuildUsers) -> impl Iterator<Item = (GrantRole, u32)> {
    let older = found.caller.map(|uid| (GrantRole::Sbuild085, uid));
    std::iter::once((GrantRole::Sbuild089, found.sbuild)).chain(older)
}

fn add(grantees: &mut Vec<Grantee>, role: GrantRole, inside: Option<u32>, outside: u32) {
    match grantees.iter_mut().find(|who| who.outside == outside) {
        Some(who) => who.roles.push(role),
        None => grantees.push(Grantee {
            inside,
            outside,
            roles: vec![role],
        }),
    }
}

fn accounts_of(chroot: &Path, namespaces: &Namespaces) -> Result<Accounts, Error> {
    match look(chroot)? {
        Some(directory) => of_directory(&directory, namespaces),
        None => of_archive(chroot),
    }
}

/// Only its owners, who are inside, may be able to read its files.
fn of_directory(root: &OwnedFd, namespaces: &Namespaces) -> Result<Accounts, Error> {
    match Accounts::of_directory(root.as_fd()) {
        Err(accounts::Error::File(FileError { cause, .. }))
            if namespaces.whole != Isolation::None
                && cause.kind() == io::ErrorKind::PermissionDenied => {}
        done => return Ok(done?),
    }
    userns::clean_up(&namespaces.whole, || {
        Ok(Accounts::of_directory(root.as_fd())?)
    })
}

/// The last member of a name counts, so the archive is read to its end. The threads that read it
/// have ended then: this process may fork again.
fn of_archive(archive: &Path) -> Result<Accounts, Error> {
    let options = Reading::default().options();
    let mut input = Input::open(ArchivePath::from(archive).open()?, &options)?;
    let mut picker = Picker::default();
    member_stream::read(&mut input, Limits::default(), |event| {
        picker.take(&event).map_err(Error::from)
    })?;
    Ok(picker.finish()?)
}

struct Job<'a> {
    options: &'a GrantAcl,
    grantees: &'a [Grantee],
    /// The user whose namespace is used; `None` without a namespace.
    account_uid: Option<u32>,
    namespaces: &'a Namespaces,
}

impl Job<'_> {
    /// The caller changes its own files: it is in the groups that keep setgid bits. Root of the
    /// namespace changes those of the namespace's ids. Either needs its entry in the directories
    /// of the other, so root is granted access last and revoked first.
    fn run(
        &self,
        directories: &mut [Directory<'_>],
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let inside_can_more = self.account_uid.is_some() && !rustix::process::geteuid().is_root();
        let inside_first = inside_can_more && self.options.revoke && self.options.share;
        if !inside_first {
            self.as_caller(directories, true)?;
            let is_open = directories.iter().any(|directory| directory.tally.open > 0);
            if !is_open || !inside_can_more {
                return Ok(());
            }
        }
        self.inside(directories, observer)?;
        if self.options.share {
            self.as_caller(directories, false)?;
        }
        Ok(())
    }

    fn change(&self, uids: Vec<u32>, leave_to: Option<u32>) -> Change {
        Change {
            action: match self.options.revoke {
                true => Action::Revoke,
                false => Action::Grant,
            },
            uids,
            share: self.options.share,
            leave_to,
        }
    }

    fn as_caller(&self, directories: &mut [Directory<'_>], decides: bool) -> Result<(), Error> {
        let uids = self.grantees.iter().map(|who| who.outside).collect();
        let change = self.change(uids, None);
        for directory in directories {
            let Some(open) = &directory.open else {
                continue;
            };
            let done = self.apply(directory.path, open, &change)?;
            directory.tally.add(Tally::new(&done, Some), decides);
        }
        Ok(())
    }

    fn inside(
        &self,
        directories: &mut [Directory<'_>],
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let Isolation::Namespace(maps) = &self.namespaces.whole else {
            return Ok(());
        };
        let own = self.account_uid.and_then(|uid| maps.uids.to_inner(uid));
        let uids = self
            .grantees
            .iter()
            .filter_map(|who| maps.uids.to_inner(who.outside))
            .collect();
        let change = self.change(uids, own);
        let shared: Vec<(&Path, &OwnedFd)> = directories
            .iter()
            .filter_map(|directory| Some((directory.path, directory.open.as_ref()?)))
            .collect();
        let supervision = Supervision::of_work(&self.namespaces.whole, observer);
        let tallies: Vec<Tally> = userns::run(supervision, |_| {
            let mut tallies = Vec::new();
            for (path, open) in &shared {
                let done = self.apply(path, open, &change)?;
                // All other owners show as nobody here, and of nobody itself everything may be
                // changed.
                tallies.push(Tally::new(&done, |inner| {
                    maps.uids.to_outer(inner).filter(|_| inner != NOBODY)
                }));
            }
            Ok(tallies)
        })?;
        let open = directories
            .iter_mut()
            .filter(|directory| directory.open.is_some());
        for (directory, tally) in open.zip(tallies) {
            directory.tally.add(tally, true);
        }
        Ok(())
    }

    fn apply(&self, path: &Path, open: &OwnedFd, change: &Change) -> Result<Report, Error> {
        let shown = path.as_os_str().as_encoded_bytes();
        grant::apply(open.as_fd(), shown, change).context(|| self.options.cannot(path))
    }
}
