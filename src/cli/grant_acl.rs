//! `isar-tarball grant-acl`.

use std::path::PathBuf;

use isar_tarball::{Escaped, GrantAcl, GrantRole, Granted, GrantedDirectory, Grantee, Grantees};
use serde_json::{Value, json};

use super::Globals;
use super::observer::Terminal;
use super::report::{self, Status};
use super::values::counted;

/// Open directories of yours to builds in the user namespace, such as a compiler cache
///
/// Gives root of the namespace and the users that sbuild builds as entries in the ACL of each DIR,
/// as `setfacl -m u:BASE:rwX,u:BASE+999:rwx,u:BASE+998:rwx DIR` would, with the ids of your own
/// subordinate range. Other entries stay. A DIR that is missing is created, with its parents.
/// Running it again changes nothing. A symbolic link as DIR is followed, none below it is. Root has
/// to name a user with --userns, or a uid.
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
    /// The uid that sbuild builds as, inside [default: 999 and 998]
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
  sbuild 0.89 builds as its user sbuild, sbuild 0.85 as a user named like you. Both are created in the chroot as useradd --system
  creates them. Without --chroot or --sbuild-uid both get entries: 999 for sbuild 0.89 and 998 for sbuild 0.85. That is right for
  a chroot without system users from 101 to 999. For others, --chroot finds out both.

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
    let grant = GrantAcl {
        session: globals.session(),
        directories: args.dirs.clone(),
        grantees: match (&args.chroot, args.sbuild_uid) {
            _ if args.parent => Grantees::RootOnly,
            (Some(chroot), _) => Grantees::BuildUsersOf(chroot.clone()),
            (None, Some(uid)) => Grantees::BuildUser(uid),
            (None, None) => Grantees::UsualBuildUsers,
        },
        share: args.share,
        revoke: args.revoke,
    };
    let granted = grant.run(&mut Terminal::new(globals))?;
    print(&granted, &args, globals)
}

fn print(granted: &Granted, args: &Args, globals: &Globals) -> anyhow::Result<Status> {
    let mut status = Status::Done;
    for directory in &granted.directories {
        let path = Escaped(directory.path.as_os_str().as_encoded_bytes());
        if directory.setgid_lost > 0 && !globals.quiet {
            report::warning(&format!(
                "{path}: {} lost the setgid bit: they belong to builds, in a group that the namespace does not have; set it again with chmod g+s",
                counted(directory.setgid_lost, "file", "files")
            ));
        }
        if let Some(error) = &directory.error {
            report::library_error(error, "grant-acl");
            status = Status::Failed;
        } else if !args.json && !globals.quiet {
            report::result(&format!("{path}: {}\n", line(directory, granted, args)))?;
        }
    }
    if args.json {
        report::result(&format!("{:#}\n", as_json(granted, args)))?;
    }
    Ok(status)
}

/// What was done to a directory, for people.
fn line(directory: &GrantedDirectory, granted: &Granted, args: &Args) -> String {
    if directory.missing {
        return "does not exist, so there is nothing to revoke".to_owned();
    }
    let has_entry = |who: &&Grantee| args.share || who.needs_entry();
    let entries: Vec<String> = granted
        .grantees
        .iter()
        .filter(has_entry)
        .map(|who| entry(who, args.revoke))
        .collect();
    let did = if args.revoke { "revoked" } else { "granted" };
    let mut line = format!("{did} {}", entries.join(", "));
    for who in granted.grantees.iter().filter(|who| !has_entry(who)) {
        line += &format!("; {} is the caller and needs no entry", name(who));
    }
    match (args.share, directory.changed) {
        (_, 0) if args.revoke => line += "; there were none",
        (_, 0) => line += "; nothing had to be changed",
        (true, changed) => {
            line += &format!("; {}", counted(changed, "ACL changed", "ACLs changed"));
        }
        (false, _) => {}
    }
    line
}

/// What a grantee is, apart from being the caller.
fn name(who: &Grantee) -> String {
    let roles = who
        .roles
        .iter()
        .filter(|role| **role != GrantRole::Caller || who.roles.len() == 1);
    roles
        .map(|role| role.text())
        .collect::<Vec<_>>()
        .join(" and ")
}

/// The ACL entry, and whose it is: `user:100999:rwX (uid 999: build user)`.
fn entry(who: &Grantee, revoked: bool) -> String {
    let permissions = if revoked { "" } else { ":rwX" };
    let roles: Vec<&str> = who.roles.iter().map(|role| role.text()).collect();
    let inside = match who.inside {
        Some(uid) if uid != 0 => format!("uid {uid}: "),
        _ => String::new(),
    };
    format!(
        "user:{}{permissions} ({inside}{})",
        who.outside,
        roles.join(", ")
    )
}

fn role_name(role: GrantRole) -> &'static str {
    match role {
        GrantRole::Root => "root",
        GrantRole::Build => "build",
        GrantRole::Sbuild085 => "sbuild-0.85",
        GrantRole::Sbuild089 => "sbuild-0.89",
        GrantRole::Caller => "caller",
    }
}

fn as_json(granted: &Granted, args: &Args) -> Value {
    let user = |who: &Grantee| {
        let roles: Vec<&str> = who.roles.iter().map(|role| role_name(*role)).collect();
        let entry = args.share || who.needs_entry();
        json!({"inside": who.inside, "outside": who.outside, "roles": roles, "entry": entry})
    };
    let directory = |directory: &GrantedDirectory| {
        json!({
            "dir": directory.path.to_string_lossy(),
            "missing": directory.missing,
            "created": directory.created,
            "examined": directory.examined,
            "changed": directory.changed,
            "setgid_lost": directory.setgid_lost,
        })
    };
    json!({
        "action": if args.revoke { "revoke" } else { "grant" },
        "share": args.share,
        "users": granted.grantees.iter().map(user).collect::<Vec<_>>(),
        "directories": granted.directories.iter().map(directory).collect::<Vec<_>>(),
    })
}
