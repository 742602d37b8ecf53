//! `isar-tarball chroot`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::bail;
use clap::ValueHint;
use isar_tarball::{Bind, Chroot};

use super::Globals;
use super::observer::Terminal;
use super::report::Status;

/// Run a command in a tree, with /dev, /proc, /sys and parts of the host in it
///
/// The tree gets a private /dev (null, zero, full, random, urandom, tty, pts, ptmx, shm), a /proc
/// of the command's own processes and the host's /sys. Nothing of that is seen outside, and mount
/// points that the tree lacked are gone afterwards. The command is root in namespaces of its own as
/// with `unshare`; without one, /bin/bash reads its script from stdin.
#[derive(clap::Args)]
#[command(after_long_help = DETAILS, after_help = EXAMPLE)]
pub struct Args {
    /// Show HOST in the tree, at INNER or at its own path; with :ro nothing can be written there. A
    /// colon in a path is written \: (repeatable)
    #[arg(long, value_name = "HOST[:INNER][:ro]", value_parser = bind, value_hint = ValueHint::AnyPath)]
    bind: Vec<Bind>,
    /// Set a variable of the command's environment, which is otherwise the caller's (repeatable)
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(OsString, OsString)>,
    /// First write the host's resolv.conf into the tree, in place of a file or link there
    #[arg(long)]
    resolv_conf: bool,
    /// The tree
    rootfs: PathBuf,
    /// The command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

const EXAMPLE: &str =
    "Example: isar-tarball chroot --bind \"$PWD/repo:/isar-apt:ro\" rootfs -- apt-get update";

const DETAILS: &str = "\
Exit status: that of the command; 128+N when signal N killed it; 127 when it is not there; 126 when it cannot be run; 125 when isar-tarball failed or did not understand an option.

PATH is the caller's, followed by the usual directories that it lacks. The command begins in the tree's root directory.

Example: isar-tarball chroot --bind \"$PWD/repo:/isar-apt:ro\" rootfs -- apt-get update
         isar-tarball chroot rootfs <<'EOF'
           dpkg --configure -a
         EOF";

/// The parts of a text between colons. A colon or backslash after a backslash is part of a path.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = characters.next_if(|next| character == '\\' && matches!(next, ':' | '\\'));
        match (escaped, parts.last_mut()) {
            (None, _) if character == ':' => parts.push(String::new()),
            (escaped, Some(part)) => part.push(escaped.unwrap_or(character)),
            (_, None) => {}
        }
    }
    parts
}

/// `HOST[:INNER][:ro]`
pub(super) fn bind(text: &str) -> Result<Bind, String> {
    let parts = parts(text);
    let mut parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let read_only = parts.len() > 1 && parts.last() == Some(&"ro");
    if read_only {
        parts.pop();
    }
    let (host, inner) = match parts.as_slice() {
        [host] => (*host, None),
        [host, inner] => (*host, Some(*inner)),
        _ => {
            return Err(String::from(
                "take HOST, HOST:INNER, HOST:ro or HOST:INNER:ro; write \\: for a colon in a path",
            ));
        }
    };
    if host.is_empty() {
        return Err(String::from("HOST is empty"));
    }
    let inner = match inner {
        Some(inner) if inner.starts_with('/') => PathBuf::from(inner),
        Some(_) => return Err(String::from("INNER must begin with /")),
        None => std::path::absolute(host).map_err(|error| error.to_string())?,
    };
    if inner
        .components()
        .all(|component| component == std::path::Component::RootDir)
    {
        return Err(String::from("INNER must not be the root of the tree"));
    }
    Ok(Bind {
        host: PathBuf::from(host),
        inner,
        read_only,
    })
}

pub(super) fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(String::from("take NAME=VALUE")),
    }
}

/// A word with a dash in front, in the place of a command, is a mistyped option.
pub fn refuse_option(command: &[OsString]) -> anyhow::Result<()> {
    match command.first() {
        Some(program) if program.as_bytes().starts_with(b"-") => {
            bail!(
                "{program:?} is an unknown option, try '--help'; a command of that name needs its path in front (./-x)"
            )
        }
        _ => Ok(()),
    }
}

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    refuse_option(&args.command)?;
    let chroot = Chroot {
        session: globals.session(),
        binds: args.bind,
        environment: args.env,
        resolv_conf: args.resolv_conf,
        ..Chroot::new(args.rootfs, args.command)
    };
    let ended = chroot.run(&mut Terminal::new(globals))?;
    Ok(Status::Command(ended.code()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn binds_are_read_in_all_their_forms() {
        let here = std::env::current_dir().unwrap();
        type Parts = (&'static str, PathBuf, bool);
        let cases: &[(&str, Option<Parts>)] = &[
            ("/a", Some(("/a", "/a".into(), false))),
            ("/a:ro", Some(("/a", "/a".into(), true))),
            ("/a:/b", Some(("/a", "/b".into(), false))),
            ("/a:/b:ro", Some(("/a", "/b".into(), true))),
            ("a", Some(("a", here.join("a"), false))),
            ("ro", Some(("ro", here.join("ro"), false))),
            (r"/a\:b", Some(("/a:b", "/a:b".into(), false))),
            (r"/a\:b:/c\:d:ro", Some(("/a:b", "/c:d".into(), true))),
            (r"/a\:ro", Some(("/a:ro", "/a:ro".into(), false))),
            (r"/a\\:/b\c", Some((r"/a\", r"/b\c".into(), false))),
            ("", None),
            (":/b", None),
            ("/a:b", None),
            ("/a:/", None),
            ("/a:/b:rw", None),
            ("/a:/b:ro:ro", None),
        ];
        for (text, expected) in cases {
            let expected = expected.clone().map(|(host, inner, read_only)| Bind {
                host: host.into(),
                inner,
                read_only,
            });
            assert_eq!(bind(text).ok(), expected, "{text}");
        }
    }
}
