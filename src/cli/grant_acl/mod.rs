//! `isar-tarball grant-acl`.

mod inside;
mod tally;
mod whom;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use isar_tarball::error::{Escaped, describe};
use isar_tarball::grant::{self, Action, Change};
use isar_tarball::ids::map;
use isar_tarball::userns::Isolation;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::json;

use super::place::{self, Namespace};
use super::report::{self, Status};
use super::{Globals, values};
use inside::{Answer, in_place};
use tally::Tally;
use whom::Whom;

/// Open directories of yours to builds in the user namespace, such as a compiler cache
///
/// Gives root of the namespace and the user that sbuild builds as entries in the ACL of each DIR,
/// as `setfacl -m u:BASE:rwX,u:BASE+999:rwx DIR` would, with the ids of your own subordinate range.
/// Other entries stay. A DIR that is missing is made, with its parents. Running it again changes
/// nothing. A symbolic link as DIR is followed, none below it is.
#[derive(clap::Args)]
#[command(
    after_help = "Example: isar-tarball grant-acl --share --chroot schroot.tar.zst ~/.cache/ccache",
    after_long_help = DETAILS
)]
pub struct Args {
    /// The directories
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Open them to root of the namespace alone: what the parent directory of a rootfs needs
    #[arg(long, conflicts_with_all = ["sbuild_uid", "chroot", "share"])]
    parent: bool,
    /// The uid that sbuild builds as, inside [default: 999]
    #[arg(long, value_name = "N", conflicts_with = "chroot")]
    sbuild_uid: Option<u32>,
    /// The uids that sbuild will build as in this chroot, from its passwd and login.defs
    #[arg(long, value_name = "ARCHIVE|DIR")]
    chroot: Option<PathBuf>,
    /// All below each DIR too, and default ACLs for what will be made there, so that you and the
    /// builds may write and remove each other's files
    #[arg(long)]
    share: bool,
    /// Take back the entries that the same options without --revoke give, and the ACL with them
    /// where nothing else is left in it
    #[arg(long)]
    revoke: bool,
    /// Print as JSON what was done
    #[arg(long)]
    json: bool,
}

const DETAILS: &str = "\
Example: isar-tarball grant-acl --share --chroot schroot.tar.zst ~/.cache/ccache

The build user:
  sbuild 0.89 builds as its user sbuild, sbuild 0.85 as a user named like you. Both are made in the chroot as useradd --system
  makes them: usually sbuild has uid 999, and you have 998. Without --chroot or --sbuild-uid, 999 is assumed, which is right for
  sbuild 0.89 in a chroot without system users from 101 to 999. With --chroot both are found out, and both get entries.

What --share cannot do:
  A program that makes a file with mode 644 keeps all but its owner from writing to it, ACL or not. Everybody may still remove it.

JSON:
  {\"action\": \"grant\"|\"revoke\", \"share\": BOOL,
   \"users\": [{\"inside\": UID or null, \"outside\": UID, \"roles\": [ROLE, …], \"entry\": BOOL}, …],
   \"directories\": [{\"dir\": PATH, \"missing\": BOOL, \"created\": BOOL, \"examined\": N, \"changed\": N, \"setgid_lost\": N}, …]}
  A ROLE is root, build, sbuild-0.85, sbuild-0.89 or caller. entry is false for a user who is the caller and needs none
  (root with --id-layout caller). missing is about --revoke, created about the other case. changed counts each time that the ACLs
  of a file or directory were changed.";

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let namespace = place::namespace(globals)?;
    let whom = whom::resolve(&args, globals, namespace.as_ref())?;
    let mut directories = Vec::new();
    // All are looked at before the first is touched.
    for path in &args.dirs {
        let directory = Directory::open(path, args.revoke)
            .with_context(|| format!("cannot {}", args.on(path)))?;
        directories.push(directory);
    }
    let job = Job {
        args: &args,
        whom: &whom,
        namespace: namespace.as_ref(),
        globals,
    };
    if let Some(ended) = job.run(&mut directories)? {
        return Ok(ended);
    }
    job.report(&directories)
}

impl Args {
    fn action(&self) -> Action {
        if self.revoke {
            Action::Revoke
        } else {
            Action::Grant
        }
    }

    /// What is done, and to which directory, for errors.
    fn on(&self, path: &Path) -> String {
        let verb = if self.revoke {
            "revoke access to"
        } else {
            "grant access to"
        };
        format!("{verb} {path:?}")
    }
}

/// A directory of the command line.
struct Directory<'a> {
    path: &'a Path,
    /// `None` when it is missing and need not be there.
    open: Option<OwnedFd>,
    created: bool,
    tally: Tally,
}

impl<'a> Directory<'a> {
    fn open(path: &'a Path, revoke: bool) -> anyhow::Result<Directory<'a>> {
        let open = || {
            openat(
                CWD,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let mut created = false;
        let open =
            match open().map_err(io::Error::from) {
                Ok(directory) => Some(directory),
                Err(error) if error.kind() == io::ErrorKind::NotFound && revoke => None,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(path)
                        .map_err(|error| anyhow!("make the directory: {}", describe(&error)))?;
                    created = true;
                    Some(open().map_err(|error| {
                        anyhow!("open the directory: {}", describe(&error.into()))
                    })?)
                }
                Err(error) => bail!("open the directory: {}", describe(&error)),
            };
        Ok(Directory {
            path,
            open,
            created,
            tally: Tally::default(),
        })
    }
}

struct Job<'a> {
    args: &'a Args,
    whom: &'a [Whom],
    namespace: Option<&'a Namespace>,
    globals: &'a Globals,
}

impl Job<'_> {
    /// `Some` when the process in the namespace did not come to its end.
    ///
    /// Files of the caller are changed by the caller, who is in the groups that keep setgid bits;
    /// what others own, by root of the namespace. Either needs its entry in the directories of the
    /// other: so root comes second to be let in, and first to go out.
    fn run(&self, directories: &mut [Directory<'_>]) -> anyhow::Result<Option<Status>> {
        let inside_can_more = self.namespace.is_some() && !rustix::process::geteuid().is_root();
        let inside_first = inside_can_more && self.args.revoke && self.args.share;
        if !inside_first {
            self.as_caller(directories, true)?;
            let is_open = directories
                .iter()
                .any(|directory| directory.tally.is_open());
            if !is_open || !inside_can_more {
                return Ok(None);
            }
        }
        if let Some(status) = self.inside(directories)? {
            return Ok(Some(status));
        }
        if self.args.share {
            self.as_caller(directories, false)?;
        }
        Ok(None)
    }

    fn as_caller(&self, directories: &mut [Directory<'_>], decides: bool) -> anyhow::Result<()> {
        let change = Change {
            action: self.args.action(),
            uids: self.whom.iter().map(|who| who.outside).collect(),
            share: self.args.share,
            leave_to: None,
        };
        for directory in directories {
            let Some(open) = &directory.open else {
                continue;
            };
            let done = grant::apply(
                open.as_fd(),
                directory.path.as_os_str().as_encoded_bytes(),
                &change,
            );
            let done = done.with_context(|| format!("cannot {}", self.args.on(directory.path)))?;
            directory.tally.add(Tally::new(&done, Some), decides);
        }
        Ok(())
    }

    fn inside(&self, directories: &mut [Directory<'_>]) -> anyhow::Result<Option<Status>> {
        let place = place::whole_place(self.globals)?;
        let Isolation::Namespace(maps) = &place else {
            return Ok(None);
        };
        let own = self
            .namespace
            .and_then(|namespace| maps.uids.to_inner(namespace.account.uid));
        let change = Change {
            action: self.args.action(),
            uids: self
                .whom
                .iter()
                .filter_map(|who| maps.uids.to_inner(who.outside))
                .collect(),
            share: self.args.share,
            leave_to: own,
        };
        let answer = in_place(&place, || {
            let mut tallies = Vec::new();
            for directory in directories.iter() {
                let Some(open) = &directory.open else {
                    continue;
                };
                let done = grant::apply(
                    open.as_fd(),
                    directory.path.as_os_str().as_encoded_bytes(),
                    &change,
                );
                let done =
                    done.with_context(|| format!("cannot {}", self.args.on(directory.path)))?;
                // All others show as nobody here, and of nobody itself everything may be changed.
                tallies.push(Tally::new(&done, |inner| {
                    maps.uids.to_outer(inner).filter(|_| inner != map::NOBODY)
                }));
            }
            Ok(tally::to_bytes(&tallies))
        })?;
        let bytes = match answer {
            Answer::Done(bytes) => bytes,
            Answer::Ended(status) => return Ok(Some(status)),
        };
        let there = directories
            .iter_mut()
            .filter(|directory| directory.open.is_some());
        for (directory, tally) in there.zip(tally::from_bytes(&bytes)?) {
            directory.tally.add(tally, true);
        }
        Ok(None)
    }

    fn report(&self, directories: &[Directory<'_>]) -> anyhow::Result<Status> {
        let mut status = Status::Done;
        for directory in directories {
            let path = Escaped(directory.path.as_os_str().as_encoded_bytes());
            if directory.tally.setgid_lost > 0 && !self.globals.quiet {
                report::warning(&format!(
                    "{path}: {} lost the setgid bit: they belong to builds, in a group that the namespace does not have; set it again with chmod g+s",
                    values::counted(directory.tally.setgid_lost, "file", "files")
                ));
            }
            if directory.tally.is_open() {
                report::error(&anyhow!(
                    "cannot {}: {}",
                    self.args.on(directory.path),
                    directory.tally.why()
                ));
                status = Status::Failed;
            } else if !self.args.json && !self.globals.quiet {
                report::result(&format!("{path}: {}\n", self.line(directory)))?;
            }
        }
        if self.args.json {
            report::result(&format!("{:#}\n", self.json(directories)))?;
        }
        Ok(status)
    }

    /// What was done to a directory, for people.
    fn line(&self, directory: &Directory<'_>) -> String {
        if directory.open.is_none() {
            return "not there, so nothing to revoke".to_owned();
        }
        let with_entry = |who: &&Whom| self.args.share || who.needs_entry();
        let entries: Vec<String> = self
            .whom
            .iter()
            .filter(with_entry)
            .map(|who| who.text(self.args.revoke))
            .collect();
        let mut line = format!(
            "{} {}",
            if self.args.revoke {
                "revoked"
            } else {
                "granted"
            },
            entries.join(", ")
        );
        for who in self.whom.iter().filter(|who| !with_entry(who)) {
            line += &format!("; {} is the caller and needs no entry", who.name());
        }
        let tally = &directory.tally;
        match (self.args.share, tally.changed) {
            (_, 0) if self.args.revoke => line += "; there were none",
            (_, 0) => line += "; all of it was so before",
            (true, changed) => {
                line += &format!(
                    "; {}",
                    values::counted(changed, "ACL changed", "ACLs changed")
                )
            }
            (false, _) => {}
        }
        line
    }

    fn json(&self, directories: &[Directory<'_>]) -> serde_json::Value {
        let directory = |directory: &Directory<'_>| {
            json!({
                "dir": directory.path.to_string_lossy(),
                "missing": directory.open.is_none(),
                "created": directory.created,
                "examined": directory.tally.examined,
                "changed": directory.tally.changed,
                "setgid_lost": directory.tally.setgid_lost,
            })
        };
        json!({
            "action": if self.args.revoke { "revoke" } else { "grant" },
            "share": self.args.share,
            "users": self.whom.iter().map(|who| who.json(self.args.share)).collect::<Vec<_>>(),
            "directories": directories.iter().map(directory).collect::<Vec<_>>(),
        })
    }
}
