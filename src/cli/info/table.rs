//! The table for people.

use std::path::Path;

use isar_tarball::{Compression, Description, Escaped, Frames, InfoReport, System, hex};

use crate::cli::members;
use crate::cli::values::human;

/// Two columns, the first in bold when `is_coloured`.
pub fn text(found: &InfoReport, archive: &Path, is_coloured: bool) -> String {
    let rows = rows(found, archive);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let (bold, plain) = if is_coloured {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    rows.iter()
        .map(|(name, value)| format!("{bold}{name:<width$}{plain}  {value}\n"))
        .collect()
}

fn rows(found: &InfoReport, archive: &Path) -> Vec<(&'static str, String)> {
    let info = &found.description;
    let name = if archive.as_os_str() == "-" {
        String::from("stdin")
    } else {
        format!("{archive:?}")
    };
    let ratio = info.tar_bytes as f64 / info.archive_bytes.max(1) as f64;
    let mut rows = vec![
        ("archive", format!("{name}, {}", human(info.archive_bytes))),
        (
            "compression",
            format!(
                "{}{}",
                compression(info.compression),
                info.frames.map(frames).unwrap_or_default()
            ),
        ),
        (
            "tar stream",
            format!("{}, {ratio:.2} times the archive", human(info.tar_bytes)),
        ),
        ("members", all_members(info)),
        ("content", format!("{} in files", human(info.file_bytes))),
    ];
    system(&info.system, &mut rows);
    match &found.build_users {
        Some(Ok(users)) => {
            let caller = users
                .caller
                .map(|uid| format!(", {uid} (sbuild 0.85)"))
                .unwrap_or_default();
            rows.push((
                "build user",
                format!("uid {} (sbuild 0.89){caller}", users.sbuild),
            ));
        }
        Some(Err(why)) => rows.push(("build user", format!("none: {why}"))),
        None => {}
    }
    rows.push(("sha256", hex(&info.sha256)));
    rows
}

/// The word for it.
pub fn compression(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
        Compression::Xz => "xz",
    }
}

fn frames(frames: Frames) -> String {
    let Frames {
        count,
        skippable,
        with_checksum,
        window,
        ..
    } = frames;
    let skippable = if skippable > 0 {
        format!(" and {skippable} skippable")
    } else {
        String::new()
    };
    let checksums = match with_checksum {
        0 => String::from("no checksums"),
        all if all == count => String::from("checksums"),
        some => format!("checksums on {some}"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!(
        ", {count} frame{plural}{skippable}, window {}, {checksums}",
        window_size(window)
    )
}

/// In powers of 1024, as windows are.
fn window_size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes.div_ceil(1024)),
    }
}

fn all_members(info: &Description) -> String {
    let mut text = members::words(&info.members);
    for (count, what) in [
        (info.with_xattrs, "extended attributes"),
        (info.with_acls, "ACLs"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} with {what}"));
        }
    }
    text
}

fn system(system: &System, rows: &mut Vec<(&'static str, String)>) {
    let shown = |text: &String| Escaped(text.as_str()).to_string();
    let version = system
        .debian_version
        .as_ref()
        .map(|version| format!("debian_version {}", shown(version)));
    let parts: Vec<String> = system
        .name
        .as_ref()
        .map(shown)
        .into_iter()
        .chain(version)
        .collect();
    if !parts.is_empty() {
        rows.push(("distribution", parts.join(", ")));
    }
    for (index, source) in system.sources.iter().enumerate() {
        rows.push((if index == 0 { "sources" } else { "" }, shown(source)));
    }
    if let Some(architecture) = &system.architecture {
        let foreign: Vec<String> = system.foreign_architectures.iter().map(shown).collect();
        let foreign = if foreign.is_empty() {
            String::new()
        } else {
            format!(", foreign: {}", foreign.join(" "))
        };
        rows.push(("architecture", shown(architecture) + &foreign));
    }
    if let Some(packages) = system.packages {
        rows.push(("packages", packages.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_summed_up_in_words() {
        let all = Frames {
            count: 3,
            with_checksum: 3,
            window: 128 << 20,
            ..Frames::default()
        };
        assert_eq!(frames(all), ", 3 frames, window 128 MiB, checksums");
        let some = Frames {
            count: 1,
            skippable: 2,
            window: 5000,
            ..Frames::default()
        };
        assert_eq!(
            frames(some),
            ", 1 frame and 2 skippable, window 5 KiB, no checksums"
        );
        assert_eq!(
            frames(Frames {
                with_checksum: 2,
                ..all
            }),
            ", 3 frames, window 128 MiB, checksums on 2"
        );
    }
}
