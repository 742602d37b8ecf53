//! Bytes of a tar stream in, members and their data out. No I/O: whoever has the bytes feeds them.

use crate::entry::Entry;

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
        Limits { path: 4096, xattr_value: 64 << 10, member_records: 1 << 20, extents: 1 << 20 }
    }
}

/// A 512-byte header block as it stands in the archive.
#[derive(Clone, Debug)]
pub struct RawHeader {
    /// Where it stands in the tar stream, in bytes.
    pub offset: u64,
    /// The block.
    pub block: Box<[u8; 512]>,
    /// Bytes of data that follow it, by the rules of the reader (a PAX size counts for the member's own header).
    pub payload: u64,
}

/// A member: what it says, and the headers that say it.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the archive says of the file. Names as stored: [`Entry::path`] with only a leading `./` and trailing `/` taken off.
    pub entry: Entry,
    /// The name exactly as stored (after PAX and GNU long names), `./` and all.
    pub name: Vec<u8>,
    /// Names of users and groups, where the archive has them.
    pub owner_names: (Vec<u8>, Vec<u8>),
    /// Every header block of the member, extension headers first, its own last (continuation blocks of an old-GNU sparse map not counted).
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
