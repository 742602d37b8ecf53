//! The rules for header blocks. Most of them model the filter of sbuild 0.89.

use super::super::filter::{self, Seen, Step, Walk};
use super::super::rules::{self, Rule};
use super::{Examination, is_skipped};
use crate::archive::header::decode::Header;
use crate::archive::reader::{Member, RawHeader};
use crate::entry::Kind;

/// State of the filter of sbuild 0.89 that affects further members.
#[derive(Debug, Default)]
pub struct FilterState {
    /// Its way through the stream. Without it, each header after which the filter expects another
    /// number of blocks is a finding.
    pub walk: Option<Walk>,
    /// The rule and the member of a header after which the filter has expected another number of
    /// blocks, until it comes upon a header again.
    pub astray: Option<(&'static Rule, Vec<u8>)>,
    /// The device node at which it stopped.
    pub stopped: Option<Vec<u8>>,
    /// A device node that it dropped without its PAX records.
    pub records_of: Option<Vec<u8>>,
    /// A device node that it dropped without its GNU long name.
    pub long_name_of: Option<Vec<u8>>,
}

impl Examination {
    /// Applies the rules about header blocks.
    pub(super) fn blocks(&mut self, member: &Member) {
        let steps = self.filter.walk.as_mut().map(Walk::take_steps);
        self.strays(steps.as_deref().unwrap_or_default(), &member.headers);
        let is_seen = |header: &RawHeader| match &steps {
            Some(steps) => steps.iter().any(|step| step.offset == header.offset),
            None => true,
        };
        for header in member.headers.iter().filter(|header| is_seen(header)) {
            self.filter.astray = None;
            let data = header.payload.div_ceil(512);
            match filter::see(&header.block) {
                Seen::NoMagic => self.found(&rules::NO_MAGIC, member),
                Seen::BadSize => {
                    let field = header.block[124..136].escape_ascii().to_string();
                    self.found_that(&rules::SIZE_FIELD, member, || format!("size \"{field}\""));
                }
                Seen::Header { data: seen } if seen != data => {
                    self.goes_astray(wrong_size(member, header), member)
                }
                Seen::Header { .. } if header.block[156] == b'S' && header.block[482] != 0 => {
                    self.goes_astray(&rules::OLD_GNU_SPARSE, member);
                }
                Seen::Header { .. } | Seen::Device | Seen::DeviceWithOddChecksum => {}
            }
        }
        let own_is_seen = member.headers.last().is_some_and(is_seen);
        match member.entry.kind {
            Kind::CharDevice { major, minor } => {
                self.device(member, (major, minor) == (0, 0), own_is_seen)
            }
            Kind::BlockDevice { .. } => self.device(member, false, own_is_seen),
            _ => self.after_device(member),
        }
        let own = member.headers.last().map(|header| Header(&header.block));
        let is_without_data = !matches!(member.entry.kind, Kind::File { .. });
        if is_skipped(&member.name)
            && is_without_data
            && own.is_some_and(|own| own.size().is_ok_and(|size| size != 0))
        {
            self.found(&rules::SIZE_OF_SKIPPED, member);
        }
    }

    /// The filter expects another number of blocks after a header of the member than there are.
    fn goes_astray(&mut self, rule: &'static Rule, member: &Member) {
        if self.filter.walk.is_some() {
            self.filter.astray = Some((rule, member.name.clone()));
        } else {
            self.found(rule, member);
        }
    }

    /// Examines what the filter takes for headers. It passes what it takes for a header or for
    /// data, so only a block at which it stops, or which it drops, is lost.
    pub(super) fn strays(&mut self, steps: &[Step], headers: &[RawHeader]) {
        let is_header = |step: &Step| headers.iter().any(|header| header.offset == step.offset);
        let is_lost = |step: &Step| !matches!(step.seen, Seen::Header { .. });
        if steps.iter().any(|step| is_lost(step) && !is_header(step)) {
            self.loses();
        }
    }

    /// The filter does harm after it has gone astray.
    fn loses(&mut self) {
        if let Some((rule, member)) = self.filter.astray.take() {
            self.findings.add(rule, Some(&member), || None);
        }
    }

    /// Applies the rules about device nodes. Number 0:0 is a whiteout, which the kernel lets every
    /// user create.
    fn device(&mut self, member: &Member, is_whiteout: bool, is_seen: bool) {
        if !is_skipped(&member.name) && !is_whiteout {
            self.found(&rules::DEVICE_NODE, member);
        }
        if let Some(first) = self.filter.stopped.take_if(|_| !is_whiteout) {
            self.findings
                .add(&rules::DEVICE_CHECKSUM, Some(&first), || None);
        }
        if !is_seen {
            // tar gets it.
            return self.loses();
        }
        let seen = member
            .headers
            .last()
            .map(|header| filter::see(&header.block));
        match seen {
            Some(Seen::DeviceWithOddChecksum) => self.filter.stopped = Some(member.name.clone()),
            Some(Seen::Device) => {}
            _ => return,
        }
        if has_extension(member, b"xX") {
            self.filter.records_of = Some(member.name.clone());
        }
        if has_extension(member, b"LK") {
            self.filter.long_name_of = Some(member.name.clone());
        }
    }

    /// The extension headers of dropped device nodes now precede this member. Its own extension
    /// headers, if any, replace them.
    fn after_device(&mut self, member: &Member) {
        let has_records = has_extension(member, b"xX");
        if let Some(device) = self.filter.records_of.take().filter(|_| !has_records) {
            self.found_that(&rules::PAX_BEFORE_DEVICE, member, || of(&device));
        }
        let own_name = member
            .headers
            .last()
            .map(|header| Header(&header.block).name());
        let is_named =
            has_extension(member, b"LK") || has_records && own_name.as_ref() != Some(&member.name);
        if let Some(device) = self.filter.long_name_of.take().filter(|_| !is_named) {
            self.found_that(&rules::LONG_NAME_BEFORE_DEVICE, member, || of(&device));
        }
    }
}

/// The rule for a header after which the filter expects another number of blocks.
fn wrong_size(member: &Member, header: &RawHeader) -> &'static Rule {
    let said = Header(&header.block).size().unwrap_or_default();
    let is_own = member
        .headers
        .last()
        .is_some_and(|own| own.offset == header.offset);
    let eleven_digits =
        matches!(filter::see(&header.block), Seen::Header { data } if data == said.div_ceil(512));
    match member.entry.kind {
        _ if !eleven_digits => &rules::SIZE_FIELD,
        Kind::File { .. } if is_own => &rules::PAX_SIZE,
        _ => &rules::SIZE_WITHOUT_DATA,
    }
}

fn has_extension(member: &Member, types: &[u8]) -> bool {
    member.headers.split_last().is_some_and(|(_, extensions)| {
        extensions
            .iter()
            .any(|header| types.contains(&header.block[156]))
    })
}

fn of(device: &[u8]) -> String {
    format!("after {}", crate::error::Escaped(device))
}
