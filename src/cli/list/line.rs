//! A member as `tar -tv --numeric-owner --full-time` prints it (GNU tar 1.34, `simple_print_header`
//! in `src/list.c`).

use std::io::Write;

use isar_tarball::{Kind, Member, Timestamp};

use crate::cli::quoting;
use crate::cli::values::local_time_text;

/// Lines below each other. Columns only ever become wider, as in GNU tar, which cannot know what is
/// to come either.
pub struct Lines {
    /// Of owner and size together.
    owner_width: usize,
    time_width: usize,
    is_utf8: bool,
}

impl Lines {
    pub fn new(is_utf8: bool) -> Lines {
        Lines {
            owner_width: 19,
            time_width: "YYYY-MM-DD HH:MM".len(),
            is_utf8,
        }
    }

    /// Appends the line of `member` to `out`, without the end of the line.
    pub fn append(&mut self, out: &mut Vec<u8>, member: &Member) {
        let entry = &member.entry;
        let owner = format!("{}/{}", entry.uid, entry.gid);
        let (size, time) = (size(member), time(entry.mtime));
        self.owner_width = self.owner_width.max(owner.len() + 1 + size.len());
        self.time_width = self.time_width.max(time.len());
        let (size_width, time_width) = (self.owner_width - owner.len() - 1, self.time_width);
        let mode = mode(member);
        // Writing to memory cannot fail.
        let _ = write!(
            out,
            "{mode} {owner} {size:>size_width$} {time:<time_width$} "
        );
        quoting::append(out, &member.name, self.is_utf8);
        match &entry.kind {
            Kind::Symlink { .. } => out.extend_from_slice(b" -> "),
            Kind::HardLink { .. } => out.extend_from_slice(b" link to "),
            _ if !member.has_known_type() => return self.append_type(out, member),
            _ => return,
        }
        quoting::append(out, &member.link_target, self.is_utf8);
    }

    /// Appends what GNU tar prints for a type that neither POSIX nor it defines.
    fn append_type(&self, out: &mut Vec<u8>, member: &Member) {
        let (begin, end) = match self.is_utf8 {
            true => ("‘", "’"),
            false => ("'", "'"),
        };
        out.extend_from_slice(b" unknown file type ");
        out.extend_from_slice(begin.as_bytes());
        quoting::append(out, member.type_flag().as_slice(), self.is_utf8);
        out.extend_from_slice(end.as_bytes());
    }
}

/// `-rwxr-xr-x`.
fn mode(member: &Member) -> String {
    let mode = member.entry.mode;
    let kind = match (&member.entry.kind, member.type_flag()) {
        (Kind::File { .. }, Some(b'7')) => 'C',
        (Kind::File { .. }, _) if !member.has_known_type() => '?',
        (Kind::File { .. }, _) => '-',
        (Kind::Directory, _) => 'd',
        (Kind::Symlink { .. }, _) => 'l',
        (Kind::HardLink { .. }, _) => 'h',
        (Kind::Fifo, _) => 'p',
        (Kind::CharDevice { .. }, _) => 'c',
        (Kind::BlockDevice { .. }, _) => 'b',
    };
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::from(kind);
    for (shift, (bit, with, without)) in [6, 3, 0].into_iter().zip(special) {
        let has = |permission: u32| mode >> shift & permission != 0;
        text.push(if has(4) { 'r' } else { '-' });
        text.push(if has(2) { 'w' } else { '-' });
        text.push(match (mode & bit != 0, has(1)) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Bytes of a file with its holes, or `major,minor`. What else has a size in its header shows that.
fn size(member: &Member) -> String {
    match member.entry.kind {
        Kind::File { size, .. } => size.to_string(),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            format!("{major},{minor}")
        }
        _ => member.stored_size().unwrap_or(0).to_string(),
    }
}

/// Local time, with as many decimals as it has; seconds since 1970 where no calendar has the year.
fn time(
    Timestamp {
        mut seconds,
        mut nanoseconds,
    }: Timestamp,
) -> String {
    if seconds < 0 && nanoseconds > 0 {
        // What GNU tar shows of the time before 1970.
        seconds += 1;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    let mut text = local_time_text(seconds);
    if nanoseconds > 0 {
        let decimals = format!("{nanoseconds:09}");
        text.push('.');
        text.push_str(decimals.trim_end_matches('0'));
    }
    text
}
