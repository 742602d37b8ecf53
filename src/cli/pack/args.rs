//! What the user typed after `pack`, and what it means.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use isar_tarball::chroot::points;
use isar_tarball::pack::plan::FrameSizing;
use isar_tarball::pack::{Format, Memory, Options, Unmapped};
use isar_tarball::tree::exclude::Patterns;
use isar_tarball::tree::walk;
use isar_tarball::zst::compress::Level;

use crate::cli::Globals;
use crate::cli::report;
use crate::cli::values::{size, threads};

/// Pack a directory tree into a tarball that sbuild loads
///
/// ROOTFS belongs to the caller's subordinate ids, or to whoever --userns names. ARCHIVE appears
/// whole or not at all: it is written beside its place, each frame is decoded again, the rules of
/// sbuild's loaders are asked, and it is synced and renamed.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  isar-tarball pack rootfs schroot.tar.zst\n  isar-tarball pack --reuse schroot.tar.zst rootfs schroot.tar.zst"
)]
pub struct Args {
    /// The tree
    pub rootfs: PathBuf,
    /// The tarball: *.tar.zst or *.tar, or - for stdout (with --format)
    pub archive: PathBuf,
    /// The form of the archive, where its name does not say it
    #[arg(long)]
    format: Option<FormatName>,
    /// How hard to compress; a higher level is neither faster nor larger [default: ZSTD_CLEVEL, or
    /// 3]
    #[arg(long, value_name = "1-22", value_parser = level)]
    level: Option<Level>,
    /// Worker threads: one a processor (0), or fewer; the archive is the same for any number
    /// [default: ZSTD_NBTHREADS, or 0]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Stay below this much memory [default: 512M, and 192M for each worker but the first two];
    /// less may mean smaller frames
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// How much of the tree stands in a frame, at least [default: 12M]; with smaller ones --reuse
    /// takes over more, of a larger archive
    #[arg(long, value_name = "1M-64M", value_parser = frame_size)]
    frame_size: Option<u64>,
    /// Enter other file systems and bind mounts, of which else only the empty mount point is packed
    #[arg(long)]
    cross_mounts: bool,
    /// Leave out what matches, anchored at the root of the tree; * stays within a path component,
    /// ** crosses (repeatable)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Do not leave out /var/cache/apt/archives and /isar-apt
    #[arg(long)]
    no_default_excludes: bool,
    /// Device nodes: leave them out, or keep them (sbuild makes its own)
    #[arg(long, default_value = "skip")]
    devices: Devices,
    /// Leave out extended attributes, capabilities and ACLs
    #[arg(long)]
    no_xattrs: bool,
    /// Owners that sbuild cannot map: refuse the tree, or store them as nobody
    #[arg(long, default_value = "error")]
    unmapped: UnmappedName,
    /// Precision of modification times
    #[arg(long, default_value = "ns")]
    mtime_precision: Precision,
    /// Remove ROOTFS once the archive stands
    #[arg(long)]
    pub remove_source: bool,
    /// Write the archive's SHA-256 to FILE in the form of sha256sum
    #[arg(long, value_name = "FILE")]
    pub digest: Option<PathBuf>,
    /// Take over from the tarball OLD the compressed frames whose content is the same; ARCHIVE
    /// becomes what it would be without
    ///
    /// Every file is read and compared with a state that the earlier pack left, as this one leaves
    /// it for the next: a file of some kilobytes, .NAME.state beside NAME, only for this build of
    /// isar-tarball. OLD and ARCHIVE may be the same. When OLD or its state is missing, damaged or
    /// another program's, a warning says so and everything is compressed. Whoever can write to the
    /// state decides what is taken over, so it must be yours or root's.
    #[arg(long, value_name = "OLD")]
    pub reuse: Option<PathBuf>,
    /// Keep the states of tarballs in DIR rather than beside them; without --reuse only leaves one
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// With --reuse: do not even read files whose metadata are those that OLD's pack saw
    ///
    /// Compared are path, kind, size, mtime, ctime, inode, device, owner, mode, links and holes of
    /// all files of a frame. What is promised: as long as every change of a file's content or
    /// extended attributes changes its ctime, ARCHIVE becomes what it would be without. No program
    /// can keep ctime from changing, except: one that writes through a memory mapping which it had
    /// while OLD was packed; one that sets the system's clock back; one that writes to the disk
    /// past the file system. Files changed less than 2 seconds before they were packed are read
    /// again. The clocks of this machine and of the tree's file system must agree so far.
    #[arg(long, requires = "reuse")]
    pub trust_metadata: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// What never belongs into a build chroot: downloaded packages, the mount point of isar's own
/// repository, and what a killed `chroot` has left to the next one.
pub const DEFAULT_EXCLUDES: [&str; 3] = ["/var/cache/apt/archives", "/isar-apt", points::RECORD];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    Zst,
    Tar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Devices {
    Skip,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum UnmappedName {
    Error,
    Squash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    Ns,
    S,
}

fn level(text: &str) -> Result<Level, String> {
    text.parse()
        .ok()
        .and_then(Level::new)
        .ok_or_else(|| format!("{text:?} is no level from 1 to 22"))
}

fn frame_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (1 << 20..=64 << 20).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(String::from("a frame has from 1M to 64M"))
    }
}

impl Args {
    /// Does the archive go to stdout?
    pub fn is_stream(&self) -> bool {
        self.archive.as_os_str() == "-"
    }

    /// The form of the archive, from `--format` or its name.
    fn format(&self) -> anyhow::Result<Format> {
        let name = self.archive.as_os_str().as_bytes();
        let by_name = match name {
            name if name.ends_with(b".tar.zst") => Some(FormatName::Zst),
            name if name.ends_with(b".tar") => Some(FormatName::Tar),
            _ => None,
        };
        let format = match (self.format, by_name) {
            (Some(FormatName::Zst), by_name)
                if by_name != Some(FormatName::Zst) && !self.is_stream() =>
            {
                bail!(
                    "the name of the archive, {:?}, must end in .tar.zst: sbuild 0.85 tells the compression by it",
                    self.archive
                )
            }
            (Some(FormatName::Tar), Some(FormatName::Zst)) => {
                bail!(
                    "a plain tar must not be named .tar.zst: sbuild 0.85 would take it for compressed"
                )
            }
            (Some(format), _) | (None, Some(format)) => format,
            (None, None) if self.is_stream() => {
                bail!("say which form stdout gets: --format zst or --format tar")
            }
            (None, None) => {
                bail!(
                    "the name of the archive, {:?}, must end in .tar.zst or .tar: sbuild 0.85 tells the compression by it",
                    self.archive
                )
            }
        };
        Ok(match format {
            FormatName::Zst => {
                let from_environment = || from_environment("ZSTD_CLEVEL", |text| level(text).ok());
                Format::Zstd(
                    self.level
                        .or_else(from_environment)
                        .unwrap_or(Level::DEFAULT),
                )
            }
            FormatName::Tar => Format::Tar,
        })
    }

    /// What the library is asked to do.
    pub fn options(&self, globals: &Globals) -> anyhow::Result<Options> {
        let defaults: &[&str] = if self.no_default_excludes {
            &[]
        } else {
            &DEFAULT_EXCLUDES
        };
        let patterns = defaults
            .iter()
            .copied()
            .chain(self.exclude.iter().map(String::as_str));
        let asked = self
            .threads
            .or_else(|| from_environment("ZSTD_NBTHREADS", |text| text.parse().ok()));
        let threads = threads(asked.unwrap_or(0));
        let format = self.format()?;
        Ok(Options {
            walk: walk::Options {
                exclude: Patterns::new(patterns)?,
                cross_mounts: self.cross_mounts,
                devices: self.devices == Devices::Keep,
            },
            format,
            threads,
            memory: self.memory.map_or(Memory::DEFAULT, Memory::limit),
            xattrs: !self.no_xattrs,
            unmapped: match self.unmapped {
                UnmappedName::Error => Unmapped::Error,
                UnmappedName::Squash => Unmapped::Squash,
            },
            clamp_mtime: source_date_epoch()?,
            whole_seconds: self.mtime_precision == Precision::S,
            // Whoever wants to hear nothing of it does not wait for it.
            sha256: self.digest.is_some() || self.json || !globals.quiet,
            cuts: match format {
                Format::Zstd(_) => self
                    .frame_size
                    .map_or_else(FrameSizing::default, FrameSizing::sized),
                Format::Tar => FrameSizing::PLAIN,
            },
        })
    }
}

/// The value of a variable that belongs to the zstd program: like there, one that cannot be used is
/// passed over with a warning.
fn from_environment<T>(name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var_os(name).filter(|text| !text.is_empty())?;
    let value = text.to_str().and_then(parse);
    if value.is_none() {
        report::warning(&format!(
            "{name} is {text:?}, which cannot be used; the default is taken"
        ));
    }
    value
}

/// `SOURCE_DATE_EPOCH` of the environment, in seconds since 1970.
fn source_date_epoch() -> anyhow::Result<Option<i64>> {
    match std::env::var_os("SOURCE_DATE_EPOCH") {
        Some(text) if !text.is_empty() => {
            let seconds = text.to_str().and_then(|text| text.parse().ok());
            Ok(Some(seconds.ok_or_else(|| {
                anyhow!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")
            })?))
        }
        _ => Ok(None),
    }
}
