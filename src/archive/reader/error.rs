//! Errors of the tar reader.

use std::fmt;

use super::super::{number, sparse};
use crate::acl;
use crate::error::Escaped;

/// A refused archive, with the fault, the member and the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The fault.
    pub fault: Fault,
    /// The member's name as stored, if known.
    pub member: Option<Vec<u8>>,
    /// Offset in the tar stream, in bytes: of the faulty header, or the end of the stream.
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

/// A reason to refuse an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A block is not a header, or is damaged.
    #[error(
        "this is no tar header: its checksum is wrong; the archive is damaged, or no tar archive"
    )]
    Checksum,
    /// A number in the header is invalid.
    #[error("the header's {field} {cause}")]
    Field {
        /// The field.
        field: &'static str,
        /// The cause.
        cause: number::Error,
    },
    /// A number in a PAX record is invalid.
    #[error("the PAX record {} {cause}", Escaped(key))]
    Record {
        /// The key of the record.
        key: Vec<u8>,
        /// The cause.
        cause: number::Error,
    },
    /// The data of a PAX header is not a sequence of records.
    #[error("the PAX header has a malformed record")]
    MalformedRecord,
    /// A record occurs twice. Readers differ in which one counts.
    #[error("the PAX header has the record {} twice", Escaped(key))]
    DuplicateRecord {
        /// The key of the record.
        key: Vec<u8>,
    },
    /// A global header has a record that can apply to one member only.
    #[error(
        "a global PAX header has the record {}, which can be true of one member only",
        Escaped(key)
    )]
    GlobalRecord {
        /// The key of the record.
        key: Vec<u8>,
    },
    /// A record has an invalid value.
    #[error("the PAX record {} has an unknown value", Escaped(key))]
    UnknownValue {
        /// The key of the record.
        key: Vec<u8>,
    },
    /// The name of a file or attribute contains a NUL, which programs interpret differently.
    #[error("its {what} has a NUL byte in it")]
    Nul {
        /// Kind of name: `path`, `link target` …
        what: &'static str,
    },
    /// A name is empty.
    #[error("its {what} is empty")]
    Empty {
        /// Kind of name: `path`, `link target`.
        what: &'static str,
    },
    /// It exceeds the [`Limits`](super::Limits).
    #[error("its {what} has {length} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The extension headers of one member are larger than the [`Limits`](super::Limits) allow.
    #[error("the extension headers in front of it have more than {limit} bytes")]
    RecordsTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A combination of extension headers that readers interpret differently.
    #[error("an extension header `{}` follows one of type `{}` for the same member", second.escape_ascii(), first.escape_ascii())]
    MixedExtensions {
        /// Type of the first one.
        first: u8,
        /// Type of the second one.
        second: u8,
    },
    /// An extension header without a member after it.
    #[error("the archive ends after an extension header `{}`, without the member that it belongs to", typeflag.escape_ascii())]
    DanglingExtension {
        /// Type of that header.
        typeflag: u8,
    },
    /// A malformed ACL, stored as an extended attribute in the kernel's form.
    #[error(transparent)]
    Acl(#[from] acl::Error),
    /// A malformed sparse file.
    #[error(transparent)]
    Sparse(#[from] sparse::decode::Error),
    /// A member of an unknown type.
    #[error("a member of type `{}` cannot be read", typeflag.escape_ascii())]
    UnknownType {
        /// The type in the header.
        typeflag: u8,
    },
    /// A member begins in another volume.
    #[error("a member begins in another volume; multi-volume archives cannot be read")]
    MultiVolume,
    /// `tar -t` and bsdtar then skip data that `tar -x`, Python and Perl read as the next member.
    #[error(
        "a PAX record gives it a size and it is a {kind}, which has no data: programs differ in what comes next"
    )]
    SizeWithoutData {
        /// Type of the member.
        kind: &'static str,
    },
    /// A file with data whose name ends with a slash.
    #[error("it is a directory by its name and a file with data by its type")]
    DirectoryWithData,
    /// The stream is truncated.
    #[error("the archive is cut off in {within}")]
    Truncated {
        /// Position of the end: `a header`, `the data of a member` …
        within: &'static str,
    },
    /// sbuild's loaders would silently lose what follows.
    #[error(
        "there is a single zero block between members: many programs take it for the end and lose the rest"
    )]
    LoneZeroBlock,
    /// The end is followed by other bytes than zeros.
    #[error("there is data after the end of the archive")]
    DataAfterEnd,
}
