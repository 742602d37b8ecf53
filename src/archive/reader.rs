//! The tar reader: bytes of a stream in, members and their data out. No I/O: the caller supplies
//! the bytes.

mod error;
mod member;
mod records;

use super::header::decode::Header;
use super::header::{BLOCK, padding};
use super::sparse::decode::{Error as MapError, Misread, OldGnu, Text};
use crate::entry::{Entry, Extent};
pub use error::{Error, Fault};
use member::{Content, Pending, describe, long_name, sparse_file};
use records::{Ownership, Scope, interpret};

/// Limits on the memory that an archive can make the reader use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length of a name or link target in bytes.
    pub path: usize,
    /// Length of one extended attribute's value in bytes.
    pub xattr_value: usize,
    /// All extension headers of one member together, in bytes.
    pub member_records: usize,
    /// Number of data extents of a sparse file.
    pub extents: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            path: 4096,
            xattr_value: 64 << 10,
            member_records: 1 << 20,
            extents: 1 << 20,
        }
    }
}

/// A 512-byte header block of an archive.
#[derive(Clone, Debug)]
pub struct RawHeader {
    /// Offset in the tar stream, in bytes.
    pub offset: u64,
    /// The block.
    pub block: Box<[u8; 512]>,
    /// Bytes of data after it, by the rules of the reader (a PAX size applies to the member's own
    /// header).
    pub payload: u64,
}

/// A member and its headers.
#[derive(Clone, Debug)]
pub struct Member {
    /// The file that the member describes. Names are as stored: [`Entry::path`] is only without a
    /// leading `./` and trailing `/`.
    pub entry: Entry,
    /// The name exactly as stored (after PAX and GNU long names), `./` and all.
    pub name: Vec<u8>,
    /// The target of a link exactly as stored; empty for other members.
    pub link_target: Vec<u8>,
    /// Names of user and group, if stored.
    pub owner_names: (Vec<u8>, Vec<u8>),
    /// All header blocks of the member, extension headers first, its own last (without continuation
    /// blocks of an old-GNU sparse map).
    pub headers: Vec<RawHeader>,
    /// Keys of PAX records that this reader does not interpret.
    pub other_records: Vec<Vec<u8>>,
    /// True if there is a global PAX header between the previous member and this one.
    pub global_header: bool,
    /// Number of extended attributes and ACLs in such headers. They apply to no member, as in GNU
    /// tar and bsdtar.
    pub global_attributes: u64,
    /// What GNU tar makes of a sparse file otherwise than its map says.
    pub misread: Option<Misread>,
}

impl Member {
    /// True if POSIX or GNU tar defines its type. A member of another type is a file.
    pub fn has_known_type(&self) -> bool {
        let own = self.headers.last();
        own.is_none_or(|own| Header(&own.block).has_known_type())
    }
}

/// An event: the next part of a member.
#[derive(Debug)]
pub enum Event<'b> {
    /// A member begins. Its data, if any, follows.
    Member(Box<Member>),
    /// Data of the current member: its offset in the file (holes are skipped), and the bytes.
    Data(u64, &'b [u8]),
    /// The member's data is complete.
    MemberEnd,
}

/// The end of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Number of zero blocks that mark the end: 2, or 1 or 0 if the stream ended earlier.
    pub zero_blocks: u64,
    /// Zero bytes after those blocks (GNU tar fills its last record of 20 blocks).
    pub trailing_zero_bytes: u64,
    /// Number of members.
    pub members: u64,
}

/// A reader of a tar stream.
///
/// Memory use is limited by [`Limits`] for one member. An error is final: every later call returns
/// it again.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    /// Bytes of the stream consumed.
    offset: u64,
    /// Offset of the current header.
    header_at: u64,
    state: State,
    /// The bytes of an incomplete block.
    partial: Vec<u8>,
    pending: Pending,
    global: Ownership,
    /// The name of the current member, for messages.
    current: Vec<u8>,
    members: u64,
    failed: Option<Error>,
}

/// The part of the stream that the reader expects next.
#[derive(Debug)]
enum State {
    Header,
    /// The data of an extension header, with `left` bytes to read.
    Extension {
        typeflag: u8,
        data: Vec<u8>,
        left: u64,
        padding: u64,
    },
    /// A block of an old-GNU map.
    OldGnuMap {
        member: Box<Member>,
        map: OldGnu,
        size: u64,
        stored: u64,
    },
    /// A block of a 1.0 map. Map and data take `stored` bytes.
    TextMap {
        member: Box<Member>,
        map: Text,
        size: u64,
        stored: u64,
    },
    /// Data of a file: the rest of one extent, and the extents after it.
    Data {
        extent: Extent,
        others: std::vec::IntoIter<Extent>,
        padding: u64,
    },
    /// Bytes to skip before the member ends.
    Skip(u64),
    /// Zero bytes since the last member.
    End {
        zeros: u64,
    },
}

impl Reader {
    /// A reader at the beginning of a stream.
    pub fn new(limits: Limits) -> Reader {
        Reader {
            limits,
            offset: 0,
            header_at: 0,
            state: State::Header,
            partial: Vec::new(),
            pending: Pending::default(),
            global: Ownership::default(),
            current: Vec::new(),
            members: 0,
            failed: None,
        }
    }

    /// Consumes bytes from the front of `input` and returns the next event. `None` if it needs more
    /// input.
    ///
    /// Each member is followed by its data, in order, and by [`Event::MemberEnd`]. Pieces of data
    /// have at least one byte and are as long as the input permits.
    pub fn next<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Event<'b>>, Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.step(input).map_err(|fault| self.fail(fault)),
        }
    }

    /// Bytes of the tar stream consumed so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips up to `length` bytes of the current member's data, as if they had been in the input,
    /// and returns the number of bytes skipped. Call it after [`Reader::next`] has returned `None`.
    pub fn pass_over(&mut self, length: u64) -> u64 {
        let State::Data { extent, others, .. } = &mut self.state else {
            return 0;
        };
        let mut left = length;
        while left > 0 {
            if extent.length == 0 {
                let Some(next) = others.next() else { break };
                *extent = next;
                continue;
            }
            let step = left.min(extent.length);
            extent.offset += step;
            extent.length -= step;
            left -= step;
        }
        self.offset += length - left;
        length - left
    }

    /// Ends the stream, after [`Reader::next`] has returned `None` for the last input. Returns the
    /// end of the archive, or an error if the archive is truncated.
    pub fn finish(&mut self) -> Result<End, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let members = self.members;
        let within = match &self.state {
            State::End { zeros } => {
                let zero_blocks = (zeros / BLOCK as u64).min(2);
                return Ok(End {
                    zero_blocks,
                    trailing_zero_bytes: zeros - zero_blocks * BLOCK as u64,
                    members,
                });
            }
            State::Header if self.partial.is_empty() => match self.pending.extension() {
                Some(typeflag) => return Err(self.fail(Fault::DanglingExtension { typeflag })),
                None => {
                    return Ok(End {
                        zero_blocks: 0,
                        trailing_zero_bytes: 0,
                        members,
                    });
                }
            },
            State::Header => "a header",
            State::Extension { .. } => "an extension header",
            State::OldGnuMap { .. } | State::TextMap { .. } => "a sparse map",
            State::Data { .. } => "the data of a member",
            State::Skip(_) => "the padding of a member",
        };
        self.header_at = self.offset;
        Err(self.fail(Fault::Truncated { within }))
    }

    fn fail(&mut self, fault: Fault) -> Error {
        let known = Some(self.current.as_slice())
            .filter(|name| !name.is_empty())
            .or(self.pending.name());
        let error = Error {
            fault,
            member: known.map(<[u8]>::to_vec),
            offset: self.header_at,
        };
        self.failed = Some(error.clone());
        error
    }

    fn step<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Event<'b>>, Fault> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(block) = self.block(input) else {
                        return Ok(None);
                    };
                    self.header_at = self.offset - BLOCK as u64;
                    if let Some(member) = self.header(&block)? {
                        return Ok(Some(Event::Member(member)));
                    }
                }
                State::Extension {
                    typeflag,
                    data,
                    left,
                    padding,
                } => {
                    let taken = take(input, *left, &mut self.offset);
                    data.extend_from_slice(taken);
                    *left -= taken.len() as u64;
                    if *left == 0 {
                        *padding -= take(input, *padding, &mut self.offset).len() as u64;
                    }
                    if *left + *padding > 0 {
                        return Ok(None);
                    }
                    let (typeflag, data) = (*typeflag, std::mem::take(data));
                    self.state = State::Header;
                    self.extension(typeflag, &data)?;
                }
                State::OldGnuMap { .. } | State::TextMap { .. } => {
                    let Some(block) = self.block(input) else {
                        return Ok(None);
                    };
                    if let Some(member) = self.map_block(&block)? {
                        return Ok(Some(Event::Member(member)));
                    }
                }
                State::Data {
                    extent,
                    others,
                    padding,
                } => {
                    if extent.length == 0 {
                        match others.next() {
                            Some(next) => *extent = next,
                            None => self.state = State::Skip(*padding),
                        }
                        continue;
                    }
                    let taken = take(input, extent.length, &mut self.offset);
                    if taken.is_empty() {
                        return Ok(None);
                    }
                    let place = extent.offset;
                    // Extents end below 2^64.
                    extent.offset += taken.len() as u64;
                    extent.length -= taken.len() as u64;
                    return Ok(Some(Event::Data(place, taken)));
                }
                State::Skip(left) => {
                    *left -= take(input, *left, &mut self.offset).len() as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    self.current.clear();
                    return Ok(Some(Event::MemberEnd));
                }
                State::End { zeros } => {
                    let found = input.iter().position(|byte| *byte != 0);
                    let taken = take(input, found.unwrap_or(input.len()) as u64, &mut self.offset);
                    *zeros += taken.len() as u64;
                    if found.is_none() {
                        return Ok(None);
                    }
                    let is_lone = *zeros < 2 * BLOCK as u64;
                    self.header_at = self.offset;
                    return Err(if is_lone {
                        Fault::LoneZeroBlock
                    } else {
                        Fault::DataAfterEnd
                    });
                }
            }
        }
    }

    /// Returns the next block when it is complete.
    fn block(&mut self, input: &mut &[u8]) -> Option<[u8; BLOCK]> {
        if self.partial.is_empty()
            && let Some((block, rest)) = input.split_first_chunk::<BLOCK>()
        {
            *input = rest;
            self.offset += BLOCK as u64;
            return Some(*block);
        }
        let missing = BLOCK - self.partial.len();
        self.partial
            .extend_from_slice(take(input, missing as u64, &mut self.offset));
        let block = self.partial.as_slice().try_into().ok()?;
        self.partial.clear();
        Some(block)
    }

    /// Processes a header block. Returns the member that it begins, unless a map precedes the data.
    fn header(&mut self, block: &[u8; BLOCK]) -> Result<Option<Box<Member>>, Fault> {
        if block.iter().all(|byte| *byte == 0) {
            if let Some(typeflag) = self.pending.extension() {
                return Err(Fault::DanglingExtension { typeflag });
            }
            self.state = State::End {
                zeros: BLOCK as u64,
            };
            return Ok(None);
        }
        let header = Header(block);
        if !header.has_valid_checksum() {
            return Err(Fault::Checksum);
        }
        match header.typeflag() {
            b'x' | b'X' | b'g' | b'L' | b'K' | b'V' => self.begin_extension(header).map(|()| None),
            _ => self.begin_member(header),
        }
    }

    fn begin_extension(&mut self, header: Header<'_>) -> Result<(), Fault> {
        let typeflag = header.typeflag();
        match (self.pending.extension(), typeflag) {
            (None, _) => {}
            (Some(b'L'), b'K') if self.pending.long_target.is_none() => {}
            (Some(b'K'), b'L') => {}
            // Readers differ: they apply all, the first or the last of them, to this member or the
            // next.
            (Some(first), second) => return Err(Fault::MixedExtensions { first, second }),
        }
        let size = header.size().map_err(|cause| Fault::Field {
            field: "size",
            cause,
        })?;
        self.pending.bytes = self
            .pending
            .bytes
            .saturating_add(size)
            .saturating_add(BLOCK as u64);
        if self.pending.bytes > self.limits.member_records as u64 {
            return Err(Fault::RecordsTooLong {
                limit: self.limits.member_records,
            });
        }
        self.pending.headers.push(RawHeader {
            offset: self.header_at,
            block: Box::new(*header.0),
            payload: size,
        });
        let data = Vec::with_capacity(size as usize);
        self.state = State::Extension {
            typeflag,
            data,
            left: size,
            padding: padding(size) as u64,
        };
        Ok(())
    }

    /// Processes the complete data of an extension header.
    fn extension(&mut self, typeflag: u8, data: &[u8]) -> Result<(), Fault> {
        match typeflag {
            // Solaris has its own letter for the same header.
            b'x' | b'X' => {
                self.pending.records =
                    Some(Box::new(interpret(data, Scope::OneMember, &self.limits)?))
            }
            b'g' => {
                let records = interpret(data, Scope::AllMembers, &self.limits)?;
                self.global = records.ownership.or(&self.global);
                self.pending.has_global_header = true;
                self.pending.global_attributes += records.ignored_attributes;
            }
            b'L' => self.pending.long_name = Some(long_name(data, "path", &self.limits)?),
            b'K' => self.pending.long_target = Some(long_name(data, "link target", &self.limits)?),
            // The name of the volume.
            _ => {}
        }
        Ok(())
    }

    fn begin_member(&mut self, header: Header<'_>) -> Result<Option<Box<Member>>, Fault> {
        match self.pending.name() {
            Some(name) => self.current.extend_from_slice(name),
            None => self.current.extend_from_slice(&header.name()),
        }
        let pending = std::mem::take(&mut self.pending);
        let (member, content) =
            describe(header, self.header_at, pending, &self.global, &self.limits)?;
        self.state = match content {
            Content::None => State::Skip(0),
            Content::Ignored(size) => State::Skip(size.saturating_add(padding(size) as u64)),
            Content::Whole(size) => State::Data {
                extent: Extent {
                    offset: 0,
                    length: size,
                },
                others: Vec::new().into_iter(),
                padding: padding(size) as u64,
            },
            Content::Extents(extents, _) => {
                let size = extents.iter().map(|extent| extent.length).sum();
                data(extents, size)
            }
            Content::OldGnuMap { map, size, stored } => {
                self.state = State::OldGnuMap {
                    member,
                    map,
                    size,
                    stored,
                };
                return Ok(None);
            }
            Content::TextMap { map, size, stored } => {
                self.state = State::TextMap {
                    member,
                    map,
                    size,
                    stored,
                };
                return Ok(None);
            }
        };
        self.members += 1;
        Ok(Some(member))
    }

    /// Processes a block of a sparse map. Returns the member when the map is complete.
    fn map_block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Box<Member>>, Fault> {
        let state = std::mem::replace(&mut self.state, State::Header);
        let (mut member, map, size, stored) = match state {
            State::OldGnuMap {
                member,
                mut map,
                size,
                stored,
            } => {
                if map.read_block(block)? {
                    self.state = State::OldGnuMap {
                        member,
                        map,
                        size,
                        stored,
                    };
                    return Ok(None);
                }
                (member, map.map, size, stored)
            }
            State::TextMap {
                member,
                mut map,
                size,
                stored,
            } => {
                let stored = stored
                    .checked_sub(BLOCK as u64)
                    .ok_or(MapError::Malformed)?;
                if map.read_block(block)? {
                    self.state = State::TextMap {
                        member,
                        map,
                        size,
                        stored,
                    };
                    return Ok(None);
                }
                (member, map.map, size, stored)
            }
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        member.misread = map.misread(size);
        let extents = map.finish(size, stored)?;
        member.entry.kind = sparse_file(size, &extents);
        self.state = data(extents, stored);
        self.members += 1;
        Ok(Some(member))
    }
}

/// The state for the data of a file with `extents` of `size` bytes in total.
fn data(extents: Vec<Extent>, size: u64) -> State {
    State::Data {
        extent: Extent {
            offset: 0,
            length: 0,
        },
        others: extents.into_iter(),
        padding: padding(size) as u64,
    }
}

/// Takes at most `most` bytes from the front of `input`.
fn take<'b>(input: &mut &'b [u8], most: u64, offset: &mut u64) -> &'b [u8] {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at(length);
    *input = rest;
    *offset += length as u64;
    taken
}

#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
