//! Why an archive is refused.

use std::fmt;

use super::super::{number, sparse};
use crate::acl;
use crate::error::Escaped;

/// A refused archive: what is wrong, with which member, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub fault: Fault,
    /// The member's name as stored, when it is known.
    pub member: Option<Vec<u8>>,
    /// Where in the tar stream, in bytes: at the header that is wrong, or where the stream ended.
    pub offset: u64,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(member) = &self.member {
            write!(out, "{}: ", Escaped(member))?;
        }
        write!(
            out,
            "{} (at byte {} of the tar stream)",
            self.fault, self.offset
        )
    }
}

/// What is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The block is no header, or was damaged.
    #[error(
        "this is no tar header: its checksum is wrong; the archive is damaged, or no tar archive"
    )]
    Checksum,
    /// A number in the header.
    #[error("the header's {field} {cause}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        cause: number::Error,
    },
    /// A number in a PAX record.
    #[error("the PAX record {} {cause}", Escaped(key))]
    Record {
        /// Which record.
        key: Vec<u8>,
        /// What is wrong with it.
        cause: number::Error,
    },
    /// The data of a PAX header is not a sequence of records.
    #[error("the PAX header has a malformed record")]
    MalformedRecord,
    /// Readers differ in whether the first or the last counts.
    #[error("the PAX header has the record {} twice", Escaped(key))]
    DuplicateRecord {
        /// Which record.
        key: Vec<u8>,
    },
    /// A global header says of all members what can be true of one only.
    #[error(
        "a global PAX header has the record {}, which can be true of one member only",
        Escaped(key)
    )]
    GlobalRecord {
        /// Which record.
        key: Vec<u8>,
    },
    /// A record with a value that is none of those it can have.
    #[error("the PAX record {} has an unknown value", Escaped(key))]
    UnknownValue {
        /// Which record.
        key: Vec<u8>,
    },
    /// The name of a file or attribute has a NUL in it, and programs differ in what they make of
    /// that.
    #[error("its {what} has a NUL byte in it")]
    Nul {
        /// Which name: `path`, `link target` …
        what: &'static str,
    },
    /// Nothing stands where a name must.
    #[error("its {what} is empty")]
    Empty {
        /// Which name: `path`, `link target`.
        what: &'static str,
    },
    /// Longer than the [`Limits`](super::Limits) allow.
    #[error("its {what} has {length} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most that are allowed, in bytes.
        limit: usize,
    },
    /// The extension headers of one member are larger than the [`Limits`](super::Limits) allow.
    #[error("the extension headers in front of it have more than {limit} bytes")]
    RecordsTooLong {
        /// The most that are allowed, in bytes.
        limit: usize,
    },
    /// Two extension headers whose order or number readers understand differently.
    #[error("an extension header `{}` follows one of type `{}` for the same member", second.escape_ascii(), first.escape_ascii())]
    MixedExtensions {
        /// Type of the one in front.
        first: u8,
        /// Type of the one that follows.
        second: u8,
    },
    /// An extension header and no member after it.
    #[error("the archive ends after an extension header `{}`, without the member that it belongs to", typeflag.escape_ascii())]
    DanglingExtension {
        /// Type of that header.
        typeflag: u8,
    },
    /// An ACL, stored as an extended attribute in the kernel's form, that cannot be understood.
    #[error(transparent)]
    Acl(#[from] acl::Error),
    /// A sparse file that cannot be read.
    #[error(transparent)]
    Sparse(#[from] sparse::decode::Error),
    /// A member of a type that this reader does not know.
    #[error("a member of type `{}` cannot be read", typeflag.escape_ascii())]
    UnknownType {
        /// The type in the header.
        typeflag: u8,
    },
    /// The first part of a member is in another archive.
    #[error("a member begins in another volume; multi-volume archives cannot be read")]
    MultiVolume,
    /// `tar -t` and bsdtar then pass over data that `tar -x`, Python and Perl take for the next
    /// member.
    #[error(
        "a PAX record gives it a size and it is a {kind}, which has no data: programs differ in what comes next"
    )]
    SizeWithoutData {
        /// What it is.
        kind: &'static str,
    },
    /// Half a file, half a directory: its name ends in a slash.
    #[error("it is a directory by its name and a file with data by its type")]
    DirectoryWithData,
    /// The stream ended too early.
    #[error("the archive is cut off in {within}")]
    Truncated {
        /// Where it ended: `a header`, `the data of a member` …
        within: &'static str,
    },
    /// sbuild's loaders would silently lose what follows.
    #[error(
        "a lone zero block stands in the middle: many programs take it for the end and lose what follows"
    )]
    LoneZeroBlock,
    /// Something other than zeros follows the end.
    #[error("there is data after the end of the archive")]
    DataAfterEnd,
}
