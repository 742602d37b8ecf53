//! What the user typed after `unpack`, and what it means.

use std::path::PathBuf;

use isar_tarball::ids::{IdMap, IdMaps};
use isar_tarball::tree::exclude::Patterns;
use isar_tarball::tree::selection::Selection;
use isar_tarball::unpack::names::Rules;
use isar_tarball::unpack::{self, TargetState};
use isar_tarball::userns::Isolation;
use isar_tarball::zst::SBUILD_WINDOW_LOG;
use isar_tarball::{input, unpack::Options};

use crate::cli::values::{size, threads};

/// Unpack a tarball into a directory
///
/// Owners, modes, times, extended attributes, capabilities, ACLs, holes and hard links are
/// restored. ARCHIVE may be compressed with zstd, gzip or xz, or not at all, which its first bytes
/// tell. DIR is made when it is missing, with the directories above it, and belongs to root of the
/// namespace. Nothing outside of DIR is touched, whatever ARCHIVE says.
///
/// When unpacking fails, or a signal stops it, what it has made is removed. With --merge that holds
/// for new files and directories: what was replaced does not come back. Only SIGKILL leaves a tree
/// behind that is not whole; --replace, or isar-tarball remove, clears it away.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball unpack schroot.tar.zst rootfs")]
pub struct Args {
    /// The tarball, or - for stdin
    pub archive: PathBuf,
    /// Where to; missing or empty, unless --replace or --merge is given
    pub dir: PathBuf,
    /// Take only these members (paths or patterns), each with all below it
    #[arg(value_name = "MEMBER")]
    members: Vec<String>,
    /// Remove DIR first, with all in it
    #[arg(long, conflicts_with = "merge")]
    pub replace: bool,
    /// Unpack over what is in DIR
    #[arg(long)]
    pub merge: bool,
    /// Leave out what matches, with all below it; anchored at the root of the tree, * stays within
    /// a path component, ** crosses (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Device nodes: leave them out, or make them [default: create as real root, else skip]
    #[arg(long)]
    devices: Option<Devices>,
    /// Take so many components off the front of each name; what has no more is left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    strip_components: usize,
    /// Take absolute names as if they had no / in front, instead of refusing the archive
    #[arg(long)]
    strip_leading_slash: bool,
    /// Leave out extended attributes, capabilities and ACLs
    #[arg(long)]
    no_xattrs: bool,
    /// Threads that decode, and as many that write: one a processor (0), or fewer. The tree is the
    /// same for any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Refuse the archive unless this is its SHA-256
    #[arg(long, value_name = "HEX", value_parser = digest)]
    pub sha256: Option<[u8; 32]>,
    /// Refuse an archive that holds more than this, as in 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    limit_size: Option<u64>,
    /// Refuse an archive with more members
    #[arg(long, value_name = "N")]
    limit_members: Option<u64>,
    /// The widest zstd window to accept, as a power of two; sbuild takes 27
    #[arg(long, value_name = "10-31", default_value_t = SBUILD_WINDOW_LOG, value_parser = clap::value_parser!(u32).range(10..=31))]
    window_log: u32,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Devices {
    Skip,
    Create,
}

/// What decoded data may take with up to two threads, in bytes.
const MEMORY: u64 = 256 << 20;

/// What each further thread adds, in bytes.
const MEMORY_PER_THREAD: u64 = 96 << 20;

/// How much of it may be on its way to the disk, in bytes.
const WRITING: u64 = 160 << 20;

fn digest(text: &str) -> Result<[u8; 32], String> {
    let wrong = || String::from("a SHA-256 has 64 hexadecimal digits");
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (place, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *place = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}

impl Args {
    /// What `unpack ARCHIVE DIR` says.
    pub fn plain(archive: PathBuf, dir: PathBuf) -> Args {
        Args {
            archive,
            dir,
            members: Vec::new(),
            replace: false,
            merge: false,
            exclude: Vec::new(),
            devices: None,
            strip_components: 0,
            strip_leading_slash: false,
            no_xattrs: false,
            threads: 0,
            sha256: None,
            limit_size: None,
            limit_members: None,
            window_log: SBUILD_WINDOW_LOG,
            json: false,
        }
    }

    /// Is the archive stdin?
    pub fn is_stream(&self) -> bool {
        self.archive.as_os_str() == "-"
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }

    /// How the archive is read.
    pub fn input(&self) -> input::Options {
        let threads = self.threads();
        let memory = MEMORY + MEMORY_PER_THREAD * threads.saturating_sub(2) as u64;
        input::Options {
            threads,
            memory,
            window_log: self.window_log,
            eager: false,
        }
    }

    /// What the library is asked to do with a DIR like `found`, in `place` with the ids of `maps`.
    pub fn options(
        &self,
        found: TargetState,
        place: &Isolation,
        maps: IdMaps,
    ) -> anyhow::Result<Options> {
        let devices = match self.devices {
            Some(Devices::Create) => unpack::Devices::Create,
            Some(Devices::Skip) => unpack::Devices::Skip,
            None if *place == Isolation::None && is_real_root() => unpack::Devices::Create,
            None => unpack::Devices::Skip,
        };
        Ok(Options {
            selection: Selection::new(self.members.iter().map(String::as_str))?,
            exclude: Patterns::new(self.exclude.iter().map(String::as_str))?,
            names: Rules {
                strip_components: self.strip_components,
                strip_leading_slash: self.strip_leading_slash,
            },
            devices,
            xattrs: !self.no_xattrs,
            threads: self.threads(),
            memory: WRITING,
            limit_size: self.limit_size,
            limit_members: self.limit_members,
            maps,
            found,
        })
    }
}

/// Is this root of the whole machine, rather than of a namespace?
fn is_real_root() -> bool {
    let map = std::fs::read("/proc/self/uid_map")
        .ok()
        .and_then(|text| IdMap::parse(&text).ok());
    rustix::process::geteuid().is_root()
        && map.is_some_and(|map| map.count() == u32::MAX && map.to_outer(0) == Some(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_have_64_hexadecimal_digits() {
        assert_eq!(
            digest(&"0aF1".repeat(16)).unwrap(),
            [0x0a, 0xf1].repeat(16)[..]
        );
        for text in [
            "",
            "12",
            &"0".repeat(63),
            &"0".repeat(65),
            &"g".repeat(64),
            &"ü".repeat(32),
            &"+1".repeat(32),
        ] {
            assert!(digest(text).is_err(), "{text}");
        }
    }
}
