//! Applies the rules to the members of an archive. No I/O.

mod headers;

use super::extraction::{self, Extraction, Place, Standing, Way};
use super::filter::Walk;
use super::findings::Findings;
use super::owners::{self, Owner};
use super::rules::{self, Rule};
use crate::archive::reader::{End, Error, Fault, Member};
use crate::archive::sparse::decode::Misread;
use crate::entry::Kind;
use headers::FilterState;

/// The largest id that the namespace maps.
const MAX_ID: u32 = 65535;

/// Maximum length of a path in a system call, in bytes (`PATH_MAX` without the NUL).
const MAX_PATH: usize = 4095;

/// Maximum length of a path component, in bytes (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// The device nodes that sbuild 0.85 excludes, below `./dev/`.
const SKIPPED_DEVICES: [&[u8]; 8] = [
    b"urandom", b"random", b"full", b"null", b"console", b"zero", b"tty", b"ptmx",
];

/// The reason why `unpack` refuses a member, if it does: a rule and the details.
pub type Refuses = fn(&Member) -> Option<(&'static Rule, String)>;

/// The examination of an archive.
#[derive(Debug)]
pub struct Examination {
    /// The findings.
    pub findings: Findings,
    tree: Extraction,
    root: Option<Root>,
    filter: FilterState,
    refuses: Option<Refuses>,
}

/// The root directory, by its last entry.
#[derive(Debug)]
struct Root {
    name: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

impl Examination {
    /// Starts an examination of members alone, without their data. `findings` has the findings
    /// about the file itself.
    pub fn new(findings: Findings) -> Examination {
        Examination {
            findings,
            tree: Extraction::default(),
            root: None,
            filter: FilterState::default(),
            refuses: None,
        }
    }

    /// Starts an examination of a whole stream, whose bytes go to [`Examination::bytes`] too. It
    /// keeps at most `max_entries` paths and links.
    pub fn of_stream(findings: Findings, refuses: Refuses, max_entries: usize) -> Examination {
        Examination {
            tree: Extraction::with_room_for(max_entries),
            filter: FilterState {
                walk: Some(Walk::default()),
                ..FilterState::default()
            },
            refuses: Some(refuses),
            ..Examination::new(findings)
        }
    }

    /// Examines the next bytes of the stream, up to the end of the next member's headers at most.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(walk) = &mut self.filter.walk {
            walk.add(bytes);
        }
    }

    /// Examines the next member.
    pub fn member(&mut self, member: &Member) {
        let refusals = self.findings.refusals();
        self.blocks(member);
        self.owners(member);
        self.sparse_map(member);
        if member.global_header {
            self.found(&rules::GLOBAL_HEADER, member);
        }
        if !member.has_known_type() {
            self.found(&rules::UNKNOWN_TYPE, member);
        }
        self.name(member);
        // Most refusals have a rule of their own.
        if self.findings.refusals() == refusals
            && let Some((rule, detail)) = self.refuses.and_then(|refuses| refuses(member))
        {
            self.found_that(rule, member, || detail);
        }
    }

    /// True if it keeps the maximum number of paths and links.
    pub fn is_full(&self) -> bool {
        self.tree.is_full()
    }

    /// Ends the examination.
    pub fn end(mut self, end: &End) -> Findings {
        match end.zero_blocks {
            0 => self.findings.add(&rules::NO_END, None, || None),
            1 => self.findings.add(&rules::SHORT_END, None, || None),
            _ => {}
        }
        let steps = self.filter.walk.as_mut().map(Walk::take_steps);
        self.strays(steps.as_deref().unwrap_or_default(), &[]);
        let is_there = |path| self.tree.has_program(path) || self.tree.is_full();
        if !is_there(b"bin/sh") && !is_there(b"usr/bin/sh") {
            self.findings.add(&rules::NO_SHELL, None, || None);
        }
        match self.root {
            None => self.findings.add(&rules::NO_ROOT, None, || None),
            Some(root) => {
                if root.mode & 0o001 == 0 {
                    let detail = || Some(format!("mode {:04o}", root.mode));
                    self.findings
                        .add(&rules::ROOT_MODE, Some(&root.name), detail);
                }
                if root.owner != (0, 0) {
                    let (uid, gid) = root.owner;
                    let detail = || Some(format!("user {uid}, group {gid}"));
                    self.findings
                        .add(&rules::ROOT_OWNER, Some(&root.name), detail);
                }
            }
        }
        self.findings
    }

    /// Ends the examination of an archive that cannot be read to its end.
    pub fn broken(mut self, error: &Error) -> Findings {
        let rule = match error.fault {
            Fault::LoneZeroBlock => &rules::LONE_ZERO_BLOCK,
            Fault::DataAfterEnd => &rules::DATA_AFTER_END,
            _ => &rules::MALFORMED,
        };
        let detail = || match rule {
            rule if *rule == rules::MALFORMED => Some(format!(
                "{} (at byte {} of the tar stream)",
                error.fault, error.offset
            )),
            _ => Some(format!("at byte {} of the tar stream", error.offset)),
        };
        self.findings.add(rule, error.member.as_deref(), detail);
        self.findings
    }

    fn found(&mut self, rule: &'static Rule, member: &Member) {
        self.findings.add(rule, Some(&member.name), || None);
    }

    fn found_that(
        &mut self,
        rule: &'static Rule,
        member: &Member,
        detail: impl FnOnce() -> String,
    ) {
        self.findings
            .add(rule, Some(&member.name), || Some(detail()));
    }

    fn owners(&mut self, member: &Member) {
        // tar does not change the owner of hard links and of files that it does not create.
        if matches!(member.entry.kind, Kind::HardLink { .. }) || member.entry.kind.is_device() {
            return;
        }
        let (uname, gname) = &member.owner_names;
        let (uid, gid) = (member.entry.uid, member.entry.gid);
        for (what, name, id, owner) in [
            ("user", uname, uid, owners::user(uname, uid)),
            ("group", gname, gid, owners::group(gname, gid)),
        ] {
            let stored = || format!("{what} {id}, called {}", crate::error::Escaped(name));
            match owner {
                Owner::Id(other) if other != id => {
                    self.found_that(&rules::OWNER_NAME, member, stored)
                }
                Owner::Unknown => self.found_that(&rules::OWNER_NAME, member, stored),
                Owner::Id(_) => {}
            }
            if id > MAX_ID && !matches!(owner, Owner::Id(known) if known <= MAX_ID) {
                self.found_that(&rules::ID_RANGE, member, || format!("{what} id {id}"));
            }
        }
    }

    fn sparse_map(&mut self, member: &Member) {
        match member.misread {
            Some(Misread::SharedBlock { offset }) => {
                let detail = || format!("extent at {offset}");
                self.found_that(&rules::SHARED_BLOCK, member, detail);
            }
            Some(Misread::ShortMap { end }) => {
                self.found_that(&rules::SHORT_MAP, member, || format!("map up to {end}"));
            }
            None => {}
        }
    }

    /// Applies the rules about the path of the member.
    fn name(&mut self, member: &Member) {
        let path = &member.name;
        // No loader creates a device node, so its path does not matter.
        if member.entry.kind.is_device() {
            if let Some(place) = self.tree.place(path) {
                self.tree.put_device(place);
            }
            return;
        }
        if is_skipped(path) && extraction::components(path).count() != 2 {
            self.found(&rules::SKIPPED_NAME, member);
        }
        if extraction::has_dot_dot(path) {
            return self.found(&rules::DOT_DOT, member);
        }
        if path.starts_with(b"/") {
            self.found(&rules::ABSOLUTE_NAME, member);
        }
        if is_too_long(path)
            || matches!(&member.entry.kind, Kind::Symlink { target } if target.len() > MAX_PATH)
        {
            self.found(&rules::NAME_TOO_LONG, member);
        }
        match self.tree.place(path) {
            None => self.root(member),
            Some(_) if self.tree.is_full() => self.found(&rules::TOO_MANY_MEMBERS, member),
            Some(place) => self.place(member, place),
        }
    }

    fn root(&mut self, member: &Member) {
        match member.entry.kind {
            Kind::Directory => {
                self.root = Some(Root {
                    name: member.name.clone(),
                    mode: member.entry.mode,
                    owner: (member.entry.uid, member.entry.gid),
                })
            }
            _ => self.found_that(&rules::ROOT_NOT_DIRECTORY, member, || {
                member.entry.kind.name().to_owned()
            }),
        }
    }

    fn place(&mut self, member: &Member, place: Place) {
        let path = &member.name;
        match place.way {
            Way::Blocked => return self.found(&rules::THROUGH_LINK, member),
            Way::Followed => self.found(&rules::FOLLOWED_LINK, member),
            Way::Plain => {}
        }
        let is_directory = matches!(member.entry.kind, Kind::Directory);
        match self.tree.standing(place) {
            Some(Standing::Link) if is_directory => self.found(&rules::DIRECTORY_OVER_LINK, member),
            Some(Standing::LateLink) if is_directory => {
                self.found(&rules::DIRECTORY_OVER_LATE_LINK, member)
            }
            Some(Standing::LateLink) => match &member.entry.kind {
                Kind::HardLink { .. } => {}
                Kind::Symlink { target } if self.tree.is_late_link_to(place, target) => {}
                _ => self.found(&rules::OVER_LATE_LINK, member),
            },
            Some(Standing::Directory { is_occupied: true }) if !is_directory => {
                return self.found(&rules::OVER_DIRECTORY, member);
            }
            _ => {}
        }
        let standing = match &member.entry.kind {
            Kind::Directory => Standing::Directory { is_occupied: false },
            Kind::HardLink { target } => match self.hard_link(member, target) {
                Some(Standing::Device) => return self.tree.put_device(place),
                Some(standing) => standing,
                None => return,
            },
            _ if is_skipped(path) => Standing::Skipped,
            Kind::Symlink { target } => return self.tree.put_link(path, place, target),
            _ => Standing::File,
        };
        self.tree.put(path, place, standing);
    }

    /// Applies the rules about the target of a hard link.
    fn hard_link(&mut self, member: &Member, target: &[u8]) -> Option<Standing> {
        let shown = || format!("target {}", crate::error::Escaped(target));
        if extraction::is_outside(target) {
            self.found_that(&rules::HARD_LINK_OUTSIDE, member, shown);
        }
        let place = self.tree.place(extraction::safe_suffix(target));
        let standing = place
            .filter(|place| place.way != Way::Blocked)
            .and_then(|place| self.tree.standing(place));
        if place.is_some_and(|place| place.way == Way::Followed) {
            self.found_that(&rules::FOLLOWED_LINK, member, shown);
        }
        match standing {
            None | Some(Standing::Directory { .. }) => {
                self.found_that(&rules::HARD_LINK_TARGET, member, shown)
            }
            Some(Standing::Device) => {
                self.found_that(&rules::HARD_LINK_TO_DEVICE, member, shown);
                return standing;
            }
            Some(Standing::Skipped) => {
                self.found_that(&rules::HARD_LINK_TO_SKIPPED, member, shown);
                return standing;
            }
            Some(_) => return standing,
        }
        None
    }
}

/// True if an exclude pattern of sbuild 0.85 matches. The patterns are not anchored, and also match
/// everything below.
fn is_skipped(name: &[u8]) -> bool {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts
        .windows(3)
        .any(|parts| matches!(parts, [b".", b"dev", device] if SKIPPED_DEVICES.contains(device)))
}

fn is_too_long(path: &[u8]) -> bool {
    path.len() > MAX_PATH
        || extraction::components(path).any(|component| component.len() > MAX_COMPONENT)
}
