//! Bytes of a tar stream in, members and their data out. No I/O: whoever has the bytes feeds them.

mod error;
mod member;
mod records;

use super::header::decode::Header;
use super::header::{BLOCK, padding};
use super::sparse::decode::{Error as MapError, OldGnu, Text};
use crate::entry::{Entry, Extent};
pub use error::{Error, Fault};
use member::{Content, Pending, describe, long_name, sparse_file};
use records::{Ownership, Scope, interpret};

/// What one archive may ask for. A reader never keeps more in memory than these allow.
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

/// A 512-byte header block as it stands in the archive.
#[derive(Clone, Debug)]
pub struct RawHeader {
    /// Where it stands in the tar stream, in bytes.
    pub offset: u64,
    /// The block.
    pub block: Box<[u8; 512]>,
    /// Bytes of data that follow it, by the rules of the reader (a PAX size counts for the member's
    /// own header).
    pub payload: u64,
}

/// A member: what it says, and the headers that say it.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the archive says of the file. Names as stored: [`Entry::path`] with only a leading `./`
    /// and trailing `/` taken off.
    pub entry: Entry,
    /// The name exactly as stored (after PAX and GNU long names), `./` and all.
    pub name: Vec<u8>,
    /// The target of a link exactly as stored; empty for what is no link.
    pub link_target: Vec<u8>,
    /// Names of users and groups, where the archive has them.
    pub owner_names: (Vec<u8>, Vec<u8>),
    /// Every header block of the member, extension headers first, its own last (continuation blocks
    /// of an old-GNU sparse map not counted).
    pub headers: Vec<RawHeader>,
    /// Keys of PAX records that this reader does not interpret.
    pub other_records: Vec<Vec<u8>>,
    /// A global PAX header stands before this member (and after the member before).
    pub global_header: bool,
}

/// What the stream holds next.
#[derive(Debug)]
pub enum Event<'b> {
    /// A member begins. Its data, if any, follows.
    Member(Box<Member>),
    /// Data of the current member: where in the file it belongs (holes skipped), and the bytes.
    Data(u64, &'b [u8]),
    /// The member's data is complete.
    MemberEnd,
}

/// How an archive ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The zero blocks that mark the end: 2 as they should be, or 1 or 0 where the stream ended
    /// before.
    pub zero_blocks: u64,
    /// Zero bytes after those two blocks (GNU tar fills its last record of 20 blocks), or after the
    /// one.
    pub trailing_zero_bytes: u64,
    /// How many members the archive has.
    pub members: u64,
}

/// A tar stream as far as it has been read.
///
/// Memory: what [`Limits`] allow for one member. An error is final, every later call gives it
/// again.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    /// Bytes of the stream consumed.
    offset: u64,
    /// Where the header that is being read stands.
    header_at: u64,
    state: State,
    /// The bytes of a block that the input has begun and not finished.
    partial: Vec<u8>,
    pending: Pending,
    global: Ownership,
    /// The name of the current member, for messages.
    current: Vec<u8>,
    members: u64,
    failed: Option<Error>,
}

/// What the stream holds next.
#[derive(Debug)]
enum State {
    Header,
    /// The data of an extension header, `left` bytes of it still to come.
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
    /// A block of a 1.0 map, of the `stored` bytes that hold map and data.
    TextMap {
        member: Box<Member>,
        map: Text,
        size: u64,
        stored: u64,
    },
    /// Data of a file: what is left of one extent, and the extents after it.
    Data {
        extent: Extent,
        others: std::vec::IntoIter<Extent>,
        padding: u64,
    },
    /// Bytes to pass over before the member ends.
    Skip(u64),
    /// Zeros since the last member.
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

    /// Takes bytes from the front of `input` (and advances it) and gives the next event; `None`
    /// when it needs more input.
    ///
    /// Each member is followed by its data, in order, and by [`Event::MemberEnd`]. Pieces of data
    /// are as long as the input has them, at least one byte.
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

    /// Passes over as much of the current member's data as there is, up to `length` bytes, as if it
    /// had been in the input. Gives how much that was. To be called when [`Reader::next`] has given
    /// `None`.
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

    /// The input has ended, and [`Reader::next`] has given `None` on the last of it: how the
    /// archive ended, or an error when it ended inside something.
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

    /// The next block, once the input has all of it.
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

    /// A header block: the member that it begins, unless something stands between the two.
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
            b'x' | b'g' | b'L' | b'K' | b'V' => self.begin_extension(header).map(|()| None),
            _ => self.begin_member(header),
        }
    }

    fn begin_extension(&mut self, header: Header<'_>) -> Result<(), Fault> {
        let typeflag = header.typeflag();
        match (self.pending.extension(), typeflag) {
            (None, _) => {}
            (Some(b'L'), b'K') if self.pending.long_target.is_none() => {}
            (Some(b'K'), b'L') => {}
            // Readers apply all, the first or the last of them, to this member or the next.
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

    /// The data of an extension header is complete.
    fn extension(&mut self, typeflag: u8, data: &[u8]) -> Result<(), Fault> {
        match typeflag {
            b'x' => {
                self.pending.records =
                    Some(Box::new(interpret(data, Scope::OneMember, &self.limits)?))
            }
            b'g' => {
                let records = interpret(data, Scope::AllMembers, &self.limits)?;
                self.global = records.ownership.or(&self.global);
                self.pending.has_global_header = true;
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
            Content::Extents(extents) => {
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

    /// A block of a sparse map: the member, when the map is complete.
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
        let extents = map.finish(size, stored)?;
        member.entry.kind = sparse_file(size, &extents);
        self.state = data(extents, stored);
        self.members += 1;
        Ok(Some(member))
    }
}

/// The data of a file that has `extents`, of `size` bytes together.
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
