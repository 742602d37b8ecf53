//! Why the kernel does not run a program that is there.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

/// Bytes of a program that are looked at: the longest line `#!` that the kernel reads.
const HEAD: u64 = 256;

/// What keeps `program` from being run, with the remedy, where `cause` does not say it.
pub fn of(program: &Path, cause: &io::Error) -> Option<String> {
    match cause.raw_os_error() {
        Some(libc::EACCES) => {
            let flags = statvfs(program).ok()?.f_flag;
            flags.contains(StatVfsMountFlags::NOEXEC).then(|| {
                "its file system is mounted noexec: as root, run `mount -o remount,exec` on it, or use a directory elsewhere".to_owned()
            })
        }
        Some(errno @ (libc::ENOEXEC | libc::ENOENT)) => {
            let head = head(program)?;
            let interpreter = interpreter(&head);
            let machine = match &interpreter {
                Some(path) => machine(&self::head(Path::new(path)).unwrap_or_default()),
                None => machine(&head),
            };
            match machine {
                Some(machine) if machine != std::env::consts::ARCH => Some(format!(
                    "it is a program for {machine}, and this machine is {}: install the package qemu-user-static on the host, \
                     which registers an emulator that is found in chroots (binfmt_misc with the flag F)",
                    std::env::consts::ARCH
                )),
                _ if errno == libc::ENOENT => Some(format!(
                    "it is there, but its interpreter {}is missing",
                    interpreter.map_or_else(String::new, |path| format!("{path} "))
                )),
                None if interpreter.is_none() => {
                    Some("it is neither a program nor a script that begins with #!".to_owned())
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The beginning of the file, if there is such a file.
fn head(program: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(program)
        .ok()?
        .take(HEAD)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}

/// The program that runs a script.
fn interpreter(head: &[u8]) -> Option<String> {
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let mut words = line.split(|byte| byte.is_ascii_whitespace());
    let word = words.find(|word| !word.is_empty())?;
    Some(String::from_utf8_lossy(word).into_owned())
}

/// The architecture of an ELF file, as `uname -m` names it (elf(5): e_machine in the byte order of
/// e_ident).
fn machine(head: &[u8]) -> Option<&'static str> {
    let (ident, number) = match head {
        [0x7f, b'E', b'L', b'F', class, order, ..] => {
            let number = <[u8; 2]>::try_from(head.get(18..20)?).ok()?;
            ((*class, *order), number)
        }
        _ => return None,
    };
    const BIG: u8 = 2;
    const BITS_64: u8 = 2;
    let number = match ident.1 {
        BIG => u16::from_be_bytes(number),
        _ => u16::from_le_bytes(number),
    };
    Some(match (number, ident) {
        (3, _) => "x86",
        (8, _) => "mips",
        (21, (_, BIG)) => "powerpc64",
        (21, _) => "powerpc64le",
        (22, _) => "s390x",
        (40, _) => "arm",
        (62, _) => "x86_64",
        (183, _) => "aarch64",
        (243, (BITS_64, _)) => "riscv64",
        (258, _) => "loongarch64",
        _ => "another architecture",
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    /// An ELF header of this class, byte order and machine.
    fn elf(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', class, order];
        head.resize(18, 0);
        head.extend(machine);
        head
    }

    #[test]
    fn foreign_programs_and_missing_interpreters_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            fs::write(dir.path().join(name), content).unwrap();
            dir.path().join(name)
        };
        let foreign = file("foreign", &elf(2, 1, [183, 0]));
        let script = file(
            "script",
            format!("#! {} -e\n", foreign.display()).as_bytes(),
        );
        let orphan = file("orphan", b"#!/no/such/shell\n");
        let text = file("text", b"echo\n");
        let cases = [
            (&foreign, libc::ENOEXEC, Some("a program for aarch64")),
            (&foreign, libc::ENOENT, Some("a program for aarch64")),
            (&script, libc::ENOEXEC, Some("qemu-user-static")),
            (
                &orphan,
                libc::ENOENT,
                Some("its interpreter /no/such/shell is missing"),
            ),
            (&text, libc::ENOEXEC, Some("neither a program nor a script")),
            (&text, libc::EACCES, None),
            (&dir.path().join("missing"), libc::ENOENT, None),
        ];
        for (program, errno, expected) in cases {
            let found = of(program, &io::Error::from_raw_os_error(errno));
            match expected {
                Some(expected) => assert!(found.as_ref().unwrap().contains(expected), "{found:?}"),
                None => assert_eq!(found, None, "{program:?}"),
            }
        }
        for (head, expected) in [
            (elf(2, 2, [0, 21]), Some("powerpc64")),
            (elf(2, 1, [21, 0]), Some("powerpc64le")),
            (elf(1, 1, [40, 0]), Some("arm")),
            (elf(2, 1, [62, 0]), Some("x86_64")),
            (b"\x7fELF\x02\x01".to_vec(), None),
            (b"#!/bin/sh".to_vec(), None),
        ] {
            assert_eq!(machine(&head), expected);
        }
    }
}
