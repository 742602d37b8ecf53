//! Emulators for programs of other architectures, as the kernel knows them (binfmt_misc).

use std::fs;
use std::path::Path;

use super::{Finding, State};

/// An entry of binfmt_misc for an emulator of QEMU.
#[derive(Debug, PartialEq, Eq)]
struct Emulator {
    architecture: String,
    /// The kernel opened the emulator when it was registered (flag `F`), so chroots need not have
    /// it.
    is_open: bool,
}

pub fn check(sysctls: &Path) -> Finding {
    const NAME: &str = "architectures";
    let mut emulators = Vec::new();
    // The directory is empty where binfmt_misc is not mounted, as in containers.
    for entry in fs::read_dir(sysctls.join("fs/binfmt_misc"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        emulators.extend(emulator(&entry.file_name().to_string_lossy(), &text));
    }
    emulators.sort_by(|a, b| a.architecture.cmp(&b.architecture));
    let named = |is_open| {
        let found = emulators.iter().filter(|one| one.is_open == is_open);
        let names: Vec<&str> = found.map(|one| one.architecture.as_str()).collect();
        names.join(", ")
    };
    let (good, bad) = (named(true), named(false));
    match (good.is_empty(), bad.is_empty()) {
        (_, false) => Finding::bad(
            NAME,
            State::Worse,
            format!(
                "the emulators for {bad} are registered without the flag F, so chroots do not find them"
            ),
            "install the package qemu-user-static, which registers them with it",
        ),
        (true, true) => Finding::good(
            NAME,
            "no emulator is seen here; chroots of other architectures need the package qemu-user-static on the host",
        ),
        (false, true) => Finding::good(NAME, format!("emulators for {good}")),
    }
}

/// The emulator of an entry with this name and text; `None` if it is disabled or something else.
fn emulator(name: &str, text: &str) -> Option<Emulator> {
    let architecture = name.strip_prefix("qemu-")?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let is_enabled = text.lines().any(|line| line == "enabled");
    is_enabled.then(|| Emulator {
        architecture: architecture.to_owned(),
        is_open: flags.contains('F'),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn emulators_that_a_chroot_cannot_find_are_told_apart() {
        let with = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n";
        /// Name and text of an entry.
        type Entry = (&'static str, &'static str);
        let cases: &[(&[Entry], State, &str)] = &[
            (&[], State::Good, "qemu-user-static"),
            (
                &[("qemu-aarch64", with)],
                State::Good,
                "emulators for aarch64",
            ),
            (
                &[("qemu-aarch64", with), ("qemu-arm", "enabled\nflags: OC\n")],
                State::Worse,
                "for arm are",
            ),
            (
                &[("qemu-arm", "disabled\nflags: OC\n")],
                State::Good,
                "no emulator",
            ),
            (
                &[("python3.11", "enabled\nflags: \n")],
                State::Good,
                "no emulator",
            ),
            (&[("status", "enabled\n")], State::Good, "no emulator"),
        ];
        for (entries, state, found) in cases {
            let dir = tempfile::tempdir().unwrap();
            let entries_dir = dir.path().join("fs/binfmt_misc");
            fs::create_dir_all(&entries_dir).unwrap();
            for (name, text) in *entries {
                fs::write(entries_dir.join(name), text).unwrap();
            }
            let finding = check(dir.path());
            assert!(
                finding.state == *state && finding.found.contains(found),
                "{finding:?}"
            );
        }
    }
}
