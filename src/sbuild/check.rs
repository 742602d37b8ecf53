//! Checks whether sbuild loads an archive: the rules, applied to a file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::mem;
use std::os::unix::fs::FileExt;

use super::examination::Examination;
pub use super::examination::Refuses;
use super::extraction::PER_ENTRY;
use super::filter;
use super::findings::{Finding, Findings};
use super::rules::{self, Loader, Rule};
use crate::allowance::{Allowance, Exceeded};
use crate::archive::header::BLOCK;
use crate::archive::outline::{Mismatch, Outline};
use crate::archive::reader::{Event, Limits, Reader};
use crate::error::{Classify, ErrorKind};
use crate::input::{self, Compression, Input};
use crate::zst::SBUILD_WINDOW_LOG;
use crate::zst::frames::{Fault, Frame};

/// Options of a check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of decoding threads, at least 1.
    pub threads: usize,
    /// Limit of memory, in bytes. Half of it is for decoding, the other half for 60 bytes per
    /// member and per symbolic link.
    pub memory: u64,
    /// What `unpack` refuses of a member alone. What it refuses because of other members is among
    /// the rules.
    pub refuses: Refuses,
}

/// Results of a check, with the findings.
#[derive(Debug)]
pub struct Report {
    /// sbuild 0.85 loads it as it is.
    pub loads_0_85: bool,
    /// sbuild 0.89 loads it as it is.
    pub loads_0_89: bool,
    /// It is whole: not damaged, not truncated, with an end.
    pub intact: bool,
    /// `unpack` accepts all of it with default options, in a namespace of 65536 ids.
    pub safe: bool,
    /// The findings, in the archive's order; at most 20 per rule.
    pub findings: Vec<Finding>,
    /// Number of further findings per rule.
    pub left_out: Vec<(&'static Rule, u64)>,
}

impl Report {
    /// True if this loader loads the archive as it is.
    pub fn loads(&self, loader: Loader) -> bool {
        match loader {
            Loader::V0_85 => self.loads_0_85,
            Loader::V0_89 => self.loads_0_89,
        }
    }
}

impl From<Findings> for Report {
    fn from(findings: Findings) -> Report {
        Report {
            loads_0_85: findings.loads(Loader::V0_85),
            loads_0_89: findings.loads(Loader::V0_89),
            intact: findings.is_intact(),
            safe: findings.is_safe(),
            left_out: findings.left_out().collect(),
            findings: findings.into_kept(),
        }
    }
}

/// An archive that cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on it failed.
    #[error("read: {}", crate::error::describe(.0))]
    Read(#[from] io::Error),
    /// Not a regular file: the frames of a pipe cannot be found without reading it.
    #[error("it is not a regular file")]
    NotAFile,
    /// It cannot be decoded here, although sbuild may be able to.
    #[error(transparent)]
    Input(input::Error),
    /// It has too many members.
    #[error(transparent)]
    Memory(#[from] Exceeded),
}

/// [`check_watched`] without progress.
#[cfg(any(test, feature = "internals"))]
pub fn check(archive: &File, name: Option<&[u8]>, options: &Options) -> Result<Report, Error> {
    check_watched(archive, name, options, |_, _| {})
}

/// Checks the archive in a regular file, from its beginning, independent of its position. sbuild
/// 0.85 derives the compression from `name`; without a name, the check skips this. Calls `watch`
/// with the number of bytes read and the length of the archive.
pub fn check_watched(
    archive: &File,
    name: Option<&[u8]>,
    options: &Options,
    mut watch: impl FnMut(u64, u64),
) -> Result<Report, Error> {
    let about = archive.metadata()?;
    if !about.is_file() {
        return Err(Error::NotAFile);
    }
    let mut findings = Findings::default();
    if about.len() < BLOCK as u64 {
        findings.add(&rules::TOO_SHORT, None, || {
            Some(format!("{} bytes", about.len()))
        });
    }
    // Accept wider windows and dictionaries than sbuild and unpack if there is memory for them, to
    // check the other rules as well. The window of a zstd frame is known beforehand, the dictionary
    // of xz is not.
    let widest = options
        .memory
        .checked_ilog2()
        .unwrap_or(0)
        .clamp(SBUILD_WINDOW_LOG, 31);
    let is_xz = matches!(input::compression(archive), Ok(Compression::Xz));
    let window_log = if is_xz { SBUILD_WINDOW_LOG } else { widest };
    let mut examine = |findings: &Findings, window_log| {
        let watch = |done| watch(done, about.len());
        examine(archive, name, options, window_log, findings.clone(), watch)
    };
    let examined = match examine(&findings, window_log)? {
        Examined::Ended(_, input::Error::XzMemory { .. }) if window_log < widest => {
            findings.add(&rules::XZ_DICTIONARY, None, || None);
            examine(&findings, widest)?
        }
        examined => examined,
    };
    match examined {
        Examined::Whole(findings) => Ok(findings.into()),
        Examined::Ended(findings, error) => ended(findings, error).map(Report::from),
    }
}

/// The findings in an archive.
enum Examined {
    /// All of them.
    Whole(Findings),
    /// Those up to an error of the input.
    Ended(Findings, input::Error),
}

fn examine(
    archive: &File,
    name: Option<&[u8]>,
    options: &Options,
    window_log: u32,
    mut findings: Findings,
    mut watch: impl FnMut(u64),
) -> Result<Examined, Error> {
    let mut input = match open(archive, options, window_log) {
        Ok(input) => input,
        Err(error) => return Ok(Examined::Ended(findings, error)),
    };
    file_rules(
        archive,
        name,
        input.compression(),
        input.frames(),
        &mut findings,
    )?;
    let room = Allowance::new(options.memory / 2);
    let mut examination =
        Examination::of_stream(findings, options.refuses, room.room_for(PER_ENTRY));
    let mut reader = Reader::new(Limits::default());
    loop {
        let chunk = match input.next() {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return Ok(Examined::Ended(examination.findings, error)),
        };
        watch(input.consumed());
        let mut rest: &[u8] = &chunk;
        loop {
            let before = rest;
            let event = reader.next(&mut rest);
            let read = before.len() - rest.len();
            examination.bytes(before.get(..read).unwrap_or_default());
            match event {
                Ok(Some(Event::Member(member))) => {
                    examination.member(&member);
                    if examination.is_full() {
                        return Err(room.exceeded().into());
                    }
                }
                Ok(Some(Event::Data(..) | Event::MemberEnd)) => {}
                Ok(None) => break,
                Err(error) => return Ok(Examined::Whole(examination.broken(&error))),
            }
        }
    }
    Ok(Examined::Whole(match reader.finish() {
        Ok(end) => examination.end(&end),
        Err(error) => examination.broken(&error),
    }))
}

/// Applies the rules to an archive while it is written: first to outlines of its members, then to
/// the complete file.
#[derive(Debug)]
pub struct StreamingCheck {
    examination: Examination,
    reader: Reader,
    /// The findings, if the outlines are not those of an archive.
    broken: Option<Findings>,
}

impl Default for StreamingCheck {
    fn default() -> StreamingCheck {
        StreamingCheck {
            examination: Examination::new(Findings::default()),
            reader: Reader::new(Limits::default()),
            broken: None,
        }
    }
}

impl StreamingCheck {
    /// Adds the outline of the next part of the tar stream.
    pub fn add(&mut self, outline: &Outline) {
        if self.broken.is_some() {
            return;
        }
        let examination = &mut self.examination;
        let Err(mismatch) = outline.read(&mut self.reader, |member| examination.member(member))
        else {
            return;
        };
        let mut examination = mem::replace(examination, Examination::new(Findings::default()));
        self.broken = Some(match mismatch {
            Mismatch::Reader(error) => examination.broken(&error),
            Mismatch::Gap => {
                examination.findings.add(&rules::MALFORMED, None, || {
                    Some("data where a header belongs".to_owned())
                });
                examination.findings
            }
        });
    }

    /// Ends the check with the complete archive, a regular file of this name. Scans its frames. The
    /// packer has already verified their content.
    pub fn end(mut self, archive: &File, name: &[u8]) -> Result<Report, Error> {
        let mut findings = match (self.broken, self.reader.finish()) {
            (Some(findings), _) => findings,
            (None, Ok(end)) => self.examination.end(&end),
            (None, Err(error)) => self.examination.broken(&error),
        };
        let length = archive.metadata()?.len();
        if length < BLOCK as u64 {
            findings.add(&rules::TOO_SHORT, None, || Some(format!("{length} bytes")));
        }
        match input::look(archive) {
            Ok((compression, frames)) => {
                file_rules(
                    archive,
                    Some(name),
                    compression,
                    frames.as_deref(),
                    &mut findings,
                )?;
                Ok(findings.into())
            }
            Err(error) => ended(findings, error).map(Report::from),
        }
    }
}

/// Opens the stream of the whole file without changing its position.
fn open(mut archive: &File, options: &Options, window_log: u32) -> Result<Input, input::Error> {
    let position = archive.stream_position().map_err(input::Error::Read)?;
    archive.rewind().map_err(input::Error::Read)?;
    let options = input::Options {
        threads: options.threads,
        memory: options.memory / 2,
        window_log,
        eager: true,
    };
    let input = archive
        .try_clone()
        .map_err(input::Error::Read)
        .and_then(|file| Input::open(file, &options));
    archive
        .seek(SeekFrom::Start(position))
        .map_err(input::Error::Read)?;
    input
}

/// Applies the rules about the file.
fn file_rules(
    archive: &File,
    name: Option<&[u8]>,
    compression: Compression,
    frames: Option<&[Frame]>,
    findings: &mut Findings,
) -> Result<(), Error> {
    if let Some(name) = name.filter(|name| !is_told_by_suffix(name, compression)) {
        let is_what = compression_name(compression);
        findings.add(&rules::SUFFIX, None, || {
            Some(format!("{} is {is_what}", crate::error::Escaped(name)))
        });
    }
    if compression == Compression::None {
        let mut block = [0; BLOCK];
        archive.read_exact_at(&mut block, 0)?;
        if !filter::begins_tar(&block) {
            findings.add(&rules::FIRST_HEADER, None, || None);
        }
    }
    let frames = frames.unwrap_or_default();
    if frames.first().is_some_and(|frame| frame.is_skippable) {
        findings.add(&rules::SKIPPABLE_FRAME_FIRST, None, || None);
    }
    for frame in frames.iter().filter(|frame| frame.window > MAX_WINDOW) {
        findings.add(&rules::WINDOW, None, || {
            Some(format!(
                "{} bytes in the frame at byte {}",
                frame.window, frame.offset
            ))
        });
    }
    Ok(())
}

/// The widest window that sbuild's zstd accepts, in bytes: it compares with one byte more.
const MAX_WINDOW: u64 = (1 << SBUILD_WINDOW_LOG) + 1;

/// The finding for an archive that could not be decoded to its end, or an error if the cause is not
/// the archive.
fn ended(mut findings: Findings, error: input::Error) -> Result<Findings, Error> {
    let rule = match &error {
        input::Error::Empty | input::Error::EmptyContent | input::Error::Unknown => {
            &rules::NOT_AN_ARCHIVE
        }
        input::Error::Zstd(frame) => match frame.fault {
            Fault::Read(_) | Fault::TooMany | Fault::Memory => return Err(Error::Input(error)),
            Fault::Window { .. } => &rules::WIDE_WINDOW,
            _ => &rules::DAMAGED,
        },
        input::Error::Damaged { cause, .. } if cause.raw_os_error().is_none() => &rules::DAMAGED,
        _ => return Err(Error::Input(error)),
    };
    findings.add(rule, None, || Some(error.to_string()));
    Ok(findings)
}

/// True if the program that sbuild 0.85 chooses for a file of this name (`get_tar_compress_options`
/// of `Sbuild::Utility`) reads this compression.
///
/// Debian's zstd also reads gzip and xz; the others read only their own format.
fn is_told_by_suffix(name: &[u8], compression: Compression) -> bool {
    let suffix = name
        .iter()
        .rposition(|byte| *byte == b'.')
        .map_or(&b""[..], |dot| &name[dot + 1..]);
    match suffix {
        b"zst" => compression != Compression::None,
        b"gz" | b"tgz" | b"taz" => compression == Compression::Gzip,
        b"xz" | b"txz" => compression == Compression::Xz,
        b"Z" | b"taZ" | b"bz2" | b"tbz" | b"tbz2" | b"tz2" | b"lz" | b"lzma" | b"tlz" | b"lzo"
        | b"lz4" => false,
        _ => compression == Compression::None,
    }
}

fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "a plain tar",
        Compression::Zstd => "compressed with zstd",
        Compression::Gzip => "compressed with gzip",
        Compression::Xz => "compressed with xz",
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Memory(error) => error.kind(),
            _ => ErrorKind::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_tells_the_compression() {
        use Compression::{Gzip, None, Xz, Zstd};
        for (name, told) in [
            (&b"a.tar.zst"[..], &[Zstd, Gzip, Xz][..]),
            (b"a.zst", &[Zstd, Gzip, Xz]),
            (b"a.tar.ZST", &[None]),
            (b"a.tar.zstd", &[None]),
            (b"a.tzst", &[None]),
            (b"a", &[None]),
            (b"zst", &[None]),
            (b"a.tar", &[None]),
            (b"a.tgz", &[Gzip]),
            (b"a.tar.xz", &[Xz]),
            (b"a.tar.bz2", &[]),
        ] {
            for compression in [None, Zstd, Gzip, Xz] {
                let is_told = told.contains(&compression);
                assert_eq!(
                    is_told_by_suffix(name, compression),
                    is_told,
                    "{} {compression:?}",
                    name.escape_ascii()
                );
            }
        }
    }
}
