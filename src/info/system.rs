//! The distribution of a root file system, from its own files. Pure.

use std::collections::BTreeMap;

use super::system_files::SystemFiles;
use crate::sbuild::accounts::Accounts;

/// A root file system, described by its own files. Unknown values are `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// `PRETTY_NAME` of os-release(5): `Debian GNU/Linux 12 (bookworm)`.
    pub name: Option<String>,
    /// `ID` of it: `debian`.
    pub id: Option<String>,
    /// `VERSION_CODENAME` of it: `bookworm`.
    pub codename: Option<String>,
    /// The content of `etc/debian_version`: `12.8`, `trixie/sid`.
    pub debian_version: Option<String>,
    /// The binary package sources of apt: URI, suite and components.
    pub sources: Vec<String>,
    /// The architecture of dpkg.
    pub architecture: Option<String>,
    /// The foreign architectures of dpkg.
    pub foreign_architectures: Vec<String>,
    /// Number of installed packages.
    pub packages: Option<u64>,
    /// The files that decide the uids of sbuild's users.
    pub accounts: Option<Accounts>,
}

impl System {
    /// Derives the description from the files.
    pub fn of(files: &SystemFiles) -> System {
        let release = files
            .get(b"etc/os-release")
            .or(files.get(b"usr/lib/os-release"))
            .map(text);
        let release = release.as_deref().map(assignments).unwrap_or_default();
        let value = |key: &str| release.get(key).filter(|value| !value.is_empty()).cloned();
        let status = files
            .get(b"var/lib/dpkg/status")
            .map(text)
            .map(|status| Status::of(&status))
            .unwrap_or_default();
        let architectures = files
            .get(b"var/lib/dpkg/arch")
            .map(text)
            .unwrap_or_default();
        let mut architectures = architectures
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned);
        let debian_version = files.get(b"etc/debian_version").map(text);
        let login_defs = || files.get(b"etc/login.defs").unwrap_or_default().to_vec();
        System {
            name: value("PRETTY_NAME"),
            id: value("ID"),
            codename: value("VERSION_CODENAME"),
            debian_version: debian_version
                .and_then(|text| text.lines().next().map(|line| line.trim().to_owned())),
            sources: sources(files),
            // The first line of the file is the native architecture; the file may be missing on a
            // system without foreign ones.
            architecture: architectures.next().or(status.architecture),
            foreign_architectures: architectures.collect(),
            packages: status.packages,
            accounts: files.get(b"etc/passwd").map(|passwd| Accounts {
                passwd: passwd.to_vec(),
                login_defs: login_defs(),
            }),
        }
    }
}

fn text(content: &[u8]) -> String {
    String::from_utf8_lossy(content).into_owned()
}

/// Parses the lines `KEY=value` of os-release(5), whose values may be quoted as in a shell.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| -> Option<(String, String)> {
        let (key, value) = line.trim().split_once('=')?;
        if key.starts_with('#') {
            return None;
        }
        let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = match (inner('\''), inner('"')) {
            (Some(literal), _) => literal.to_owned(),
            (None, quoted) => unescaped(quoted.unwrap_or(value)),
        };
        Some((key.to_owned(), value))
    };
    text.lines().filter_map(pair).collect()
}

/// Removes the backslashes before other characters.
fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    text
}

/// Parses the status file of dpkg.
#[derive(Default)]
struct Status {
    architecture: Option<String>,
    packages: Option<u64>,
}

impl Status {
    fn of(text: &str) -> Status {
        let mut status = Status {
            architecture: None,
            packages: Some(0),
        };
        for stanza in stanzas(text) {
            let is_installed = stanza
                .get("status")
                .is_some_and(|status| status.ends_with(" installed"));
            status.packages = status.packages.map(|count| count + u64::from(is_installed));
            if is_installed && stanza.get("package").is_some_and(|name| name == "dpkg") {
                status.architecture = stanza.get("architecture").cloned();
            }
        }
        status
    }
}

/// The paragraphs of a control file (deb822(5)): keys in lower case, values with continuation lines
/// joined by a space.
fn stanzas(text: &str) -> impl Iterator<Item = BTreeMap<String, String>> {
    let is_end = |line: &str| line.trim().is_empty();
    let mut lines = text.lines().peekable();
    std::iter::from_fn(move || {
        while lines.next_if(|line| is_end(line)).is_some() {}
        lines.peek()?;
        let mut stanza: BTreeMap<String, String> = BTreeMap::new();
        let mut key = None;
        while let Some(line) = lines.next_if(|line| !is_end(line)) {
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some(value) = key.as_ref().and_then(|key| stanza.get_mut(key)) {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                let name = name.to_ascii_lowercase();
                stanza.insert(name.clone(), value.trim().to_owned());
                key = Some(name);
            }
        }
        Some(stanza)
    })
}

/// Every enabled source of binary packages, in apt's order of files.
fn sources(files: &SystemFiles) -> Vec<String> {
    let mut sources = Vec::new();
    for (path, content) in files
        .all()
        .filter(|(path, _)| path.starts_with(b"etc/apt/"))
    {
        let content = text(content);
        if path.ends_with(b".sources") {
            sources.extend(stanzas(&content).flat_map(|stanza| of_stanza(&stanza)));
        } else {
            sources.extend(content.lines().filter_map(of_line));
        }
    }
    sources
}

/// `deb [options] URI SUITE COMPONENT...` (sources.list(5)).
fn of_line(line: &str) -> Option<String> {
    let line = line.split('#').next()?.trim();
    let rest = line
        .strip_prefix("deb")
        .filter(|rest| rest.starts_with([' ', '\t', '[']))?
        .trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    Some(rest.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|source| !source.is_empty())
}

fn of_stanza(stanza: &BTreeMap<String, String>) -> Vec<String> {
    let words = |key: &str| {
        stanza
            .get(key)
            .map(String::as_str)
            .unwrap_or_default()
            .split_whitespace()
    };
    let is_off = stanza
        .get("enabled")
        .is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if is_off || !words("types").any(|kind| kind == "deb") {
        return Vec::new();
    }
    let components: String = words("components")
        .map(|component| format!(" {component}"))
        .collect();
    let of_uri = |uri| words("suites").map(move |suite| (uri, suite));
    words("uris")
        .flat_map(of_uri)
        .map(|(uri, suite)| format!("{uri} {suite}{components}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Kind};

    fn system(files: &[(&str, &str)]) -> System {
        let mut picked = SystemFiles::default();
        for (path, content) in files {
            picked.begin(&Entry::file(*path, content.len() as u64));
            picked.data(0, content.as_bytes());
            picked.end();
        }
        System::of(&picked)
    }

    #[test]
    fn the_release_is_read_with_its_quotes() {
        let text = "# x\nPRETTY_NAME=\"Debian \\\"12\\\"\"\nID=debian\nVERSION_CODENAME='book worm'\nEMPTY=\n";
        let found = system(&[
            ("usr/lib/os-release", text),
            ("etc/debian_version", "12.8\n"),
        ]);
        assert_eq!(found.name.as_deref(), Some("Debian \"12\""));
        assert_eq!(found.id.as_deref(), Some("debian"));
        assert_eq!(found.codename.as_deref(), Some("book worm"));
        assert_eq!(found.debian_version.as_deref(), Some("12.8"));
        assert_eq!(system(&[("x", "y")]), System::default());
    }

    #[test]
    fn packages_count_when_they_are_installed() {
        let status = "Package: dpkg\nStatus: install ok installed\nArchitecture: arm64\nDescription: x\n Status: none\n\n\n\
            Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\n\n\
            Package: half\nStatus: install ok half-installed\n\nPackage: b\nStatus: hold ok installed\n";
        let found = system(&[("var/lib/dpkg/status", status)]);
        assert_eq!(
            (found.packages, found.architecture.as_deref()),
            (Some(2), Some("arm64"))
        );
        let found = system(&[
            ("var/lib/dpkg/status", status),
            ("var/lib/dpkg/arch", "amd64\ni386\n"),
        ]);
        assert_eq!(found.architecture.as_deref(), Some("amd64"));
        assert_eq!(found.foreign_architectures, ["i386"]);
    }

    #[test]
    fn sources_are_read_in_both_forms() {
        let list = "deb http://a/debian bookworm main  contrib\n#deb http://off x y\ndeb-src http://src x y\n\
            deb [trusted=yes arch=amd64] copy:/isar-apt isar main # why\ndeb\n";
        let deb822 = "Types: deb deb-src\nURIs: http://b/ http://c/\nSuites: trixie\n trixie-updates\nComponents: main\n# x\nSigned-By: y\n\n\
            Types: deb\nEnabled: no\nURIs: http://off/\nSuites: x\n\nTypes: deb\nURIs: http://d/\nSuites: ./\n";
        let found = system(&[
            ("etc/apt/sources.list", list),
            ("etc/apt/sources.list.d/x.sources", deb822),
            ("etc/apt/sources.list.d/ignored.txt", list),
        ]);
        let expected = [
            "http://a/debian bookworm main contrib",
            "copy:/isar-apt isar main",
            "http://b/ trixie main",
            "http://b/ trixie-updates main",
            "http://c/ trixie main",
            "http://c/ trixie-updates main",
            "http://d/ ./",
        ];
        assert_eq!(found.sources, expected);
    }

    #[test]
    fn a_file_that_is_too_long_is_passed_over() {
        let mut picked = SystemFiles::default();
        let mut entry = Entry::file("var/lib/dpkg/status", u64::MAX);
        picked.begin(&entry);
        picked.data(0, b"Package: x\n");
        picked.end();
        assert_eq!(System::of(&picked), System::default());
        entry.path = b"etc/debian_version".to_vec();
        entry.kind = Kind::File {
            size: 4,
            extents: None,
        };
        picked.begin(&entry);
        // Too much data, or a wrong offset, must not panic.
        picked.data(1, b"12.8");
        picked.data(u64::MAX, b"12.8");
        assert!(System::of(&picked).debian_version.is_some());
    }
}
