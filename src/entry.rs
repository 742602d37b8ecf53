//! One file of a tree or archive: the type that walk, writer and reader share.

/// Seconds and nanoseconds since 1970-01-01T00:00:00Z. Before 1970 `seconds` is negative and
/// `nanoseconds` still counts upwards (as in `struct timespec`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0..=999_999_999.
    pub nanoseconds: u32,
}

/// A stretch of data in a sparse file; what lies between two of them reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// An extended attribute: name (`user.comment`) and value, bytes both.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What a file is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes, holes included.
        size: u64,
        /// Where its data lies, sorted and disjoint, when it has holes; `None` for a file without.
        extents: Option<Vec<Extent>>,
    },
    /// A symbolic link.
    Symlink {
        /// Its text, as stored.
        target: Vec<u8>,
    },
    /// Another name for a file that came earlier.
    HardLink {
        /// That file's path, in the form of [`Entry::path`].
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl Kind {
    /// The English word for messages and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Directory => "directory",
            Kind::File { .. } => "file",
            Kind::Symlink { .. } => "symbolic link",
            Kind::HardLink { .. } => "hard link",
            Kind::Fifo => "named pipe",
            Kind::CharDevice { .. } => "character device",
            Kind::BlockDevice { .. } => "block device",
        }
    }

    /// True for character and block devices.
    pub fn is_device(&self) -> bool {
        matches!(self, Kind::CharDevice { .. } | Kind::BlockDevice { .. })
    }
}

/// One file with everything that an archive keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path below the root, without `./` in front and without `/` behind; empty for the root
    /// itself. A reader of foreign archives hands out the name as stored, `..` and leading `/`
    /// included.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Owner, as numbered inside the tree (0 is the tree's root).
    pub uid: u32,
    /// Group, as numbered inside the tree.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky: 0..=0o7777.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes apart from ACLs, sorted by name; `security.capability` as v2 (see
    /// `tree::xattr`).
    pub xattrs: Vec<Xattr>,
    /// The access ACL as text (see `acl`), where it says more than the mode.
    pub access_acl: Option<Vec<u8>>,
    /// The default ACL of a directory as text (see `acl`).
    pub default_acl: Option<Vec<u8>>,
}

#[cfg(any(test, feature = "internals"))]
impl Entry {
    /// A plain file of root with mode 0644, changed at the epoch, for tests and benchmarks.
    pub fn file(path: impl Into<Vec<u8>>, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind: Kind::File {
                size,
                extents: None,
            },
            uid: 0,
            gid: 0,
            mode: 0o644,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            access_acl: None,
            default_acl: None,
        }
    }
}
