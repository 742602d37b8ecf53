//! Options that help, for the errors of the library, which knows no command line.

use isar_tarball::{Error, ErrorKind};

/// What helps against `error` of this command.
pub fn of_error(command: &str, error: &Error) -> Option<&'static str> {
    Some(match (command, error.kind()) {
        ("unpack", ErrorKind::NotEmpty) => "--replace replaces it, --merge unpacks over it",
        ("imager", ErrorKind::NotEmpty) => "remove it first, or name another one",
        ("unpack", ErrorKind::SizeLimit) => "see --limit-size",
        ("unpack", ErrorKind::MemberLimit) => "see --limit-members",
        ("unpack", ErrorKind::AbsoluteName) => {
            "--strip-leading-slash unpacks it below the directory"
        }
        ("unpack", ErrorKind::ThroughLink) => {
            "--keep-directory-symlink follows links to directories of the tree"
        }
        // NFS; the message has the remedy.
        (_, ErrorKind::Unsupported) if error.to_string().contains("change owners") => return None,
        ("unpack" | "pack" | "imager", ErrorKind::Unsupported | ErrorKind::BadCapability) => {
            "--no-xattrs leaves extended attributes out"
        }
        ("unpack", ErrorKind::UnmappedOwner) => "isar-tarball idmap shows the id map",
        ("pack", ErrorKind::UnmappedOwner) => {
            "see --userns and --id-layout; --unmapped squash stores owners as nobody and leaves ACL entries out"
        }
        ("pack", ErrorKind::ForeignTree) => {
            "see --id-layout and --userns; --any-root-owner packs the tree all the same"
        }
        ("chroot", ErrorKind::ForeignTree) => {
            "see --id-layout and --userns; for an empty directory, unpack an archive there first (isar-tarball unpack)"
        }
        ("imager", ErrorKind::Io) if error.to_string().contains("has no package lists") => {
            "--update does so"
        }
        ("pack" | "check" | "diff" | "unpack", ErrorKind::MemoryLimit) => "see --memory",
        ("grant-acl", ErrorKind::InvalidInput) => "see --userns and --sbuild-uid",
        ("grant-acl", ErrorKind::PermissionDenied) => "root can, with --userns NAME",
        ("grant-acl", ErrorKind::UnmappedOwner) => "isar-tarball idmap shows the id map",
        (_, ErrorKind::PermissionDenied) if error.to_string().contains("only root may, of") => {
            "leave out `--userns off` to be root of a user namespace"
        }
        (_, ErrorKind::PermissionDenied) if error.to_string().contains("lacks CAP_SYS_ADMIN") => {
            "--userns NAME does that"
        }
        _ => return None,
    })
}
