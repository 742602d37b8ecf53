//! How sbuild's loaders treat the features of an archive: one table, measured with the loaders
//! themselves.
//!
//! Version 0.85 derives the compression from the file's suffix and runs `tar --exclude=./dev/null …
//! --extract` (with seven more device names). Version 0.89 detects it by the first 512 bytes, and
//! passes the tar stream through a filter that drops device nodes (see [`super::filter`]) to `tar
//! --extract`. Both run GNU tar as root of a user namespace that maps the ids 0 to 65535.

use std::fmt;

/// A version of sbuild whose loader differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loader {
    /// Debian bookworm's.
    V0_85,
    /// Debian trixie's. Newer versions (0.91) have the same loader.
    V0_89,
}

impl Loader {
    /// Its name in reports: `sbuild-0.85`.
    pub fn name(self) -> &'static str {
        match self {
            Loader::V0_85 => "sbuild-0.85",
            Loader::V0_89 => "sbuild-0.89",
        }
    }
}

/// A feature of an archive that has consequences for loading.
#[derive(Debug)]
pub struct Rule {
    /// Its name in reports: `hard-link-target`.
    pub name: &'static str,
    /// The feature of the archive that breaks the rule.
    pub cause: &'static str,
    /// The loaders that refuse such an archive, or load it differently.
    pub loaders: &'static [Loader],
    /// True if such an archive can still be whole: neither damaged nor truncated.
    pub is_intact: bool,
    /// True if `unpack` accepts such an archive.
    pub is_safe: bool,
    /// The consequence.
    pub effect: &'static str,
}

impl Rule {
    /// All rules: the file, its blocks, the tree.
    pub const ALL: &[&Rule] = ALL;
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.name == other.name
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}

const BOTH: &[Loader] = &[Loader::V0_85, Loader::V0_89];
const OLD: &[Loader] = &[Loader::V0_85];
const NEW: &[Loader] = &[Loader::V0_89];
const NEITHER: &[Loader] = &[];

/// Implications of a broken rule for the archive itself.
#[derive(Clone, Copy)]
struct State {
    is_intact: bool,
    is_safe: bool,
}

const SOUND: State = State {
    is_intact: true,
    is_safe: true,
};
const UNSAFE: State = State {
    is_intact: true,
    is_safe: false,
};
const BROKEN: State = State {
    is_intact: false,
    is_safe: false,
};
const UNFINISHED: State = State {
    is_intact: false,
    is_safe: true,
};

macro_rules! table {
    ($($rule:ident $name:literal $loaders:ident $state:ident $cause:literal => $effect:literal)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $cause, ".")]
            pub static $rule: Rule = Rule {
                name: $name,
                cause: $cause,
                loaders: $loaders,
                is_intact: $state.is_intact,
                is_safe: $state.is_safe,
                effect: $effect,
            };
        )*

        /// All rules: the file, its blocks, the tree.
        pub const ALL: &[&Rule] = &[$(&$rule),*];
    };
}

table! {
    SUFFIX "suffix" OLD SOUND
        "the name's suffix is not one of the compression (.zst for zstd, .gz or .tgz for gzip, .xz or .txz for xz, another one for none)"
        => "sbuild 0.85 goes by the suffix and gives it to a program that cannot read it: it refuses the archive"
    SKIPPABLE_FRAME_FIRST "skippable-frame-first" NEW SOUND
        "the file begins with a skippable zstd frame, as pzstd writes it"
        => "sbuild 0.89 does not find zstd's magic number at the beginning and refuses the archive"
    TOO_SHORT "too-short" NEW SOUND
        "the file has less than 512 bytes"
        => "sbuild 0.89 reads 512 bytes to tell the compression and refuses the archive"
    FIRST_HEADER "first-header" NEW SOUND
        "a plain tar begins with a header whose checksum is not six octal digits and NUL, or whose magic is not ustar"
        => "sbuild 0.89 does not take it for a tar archive and refuses it"
    WINDOW "window" BOTH UNSAFE
        "a zstd frame needs a window of more than 128 MiB (a window log above 27)"
        => "zstd refuses to decompress it without --long or --memory, which sbuild does not give; unpack refuses it too"
    XZ_DICTIONARY "xz-dictionary" NEITHER UNSAFE
        "decompressing an xz archive takes a dictionary of more than 128 MiB"
        => "unpack refuses it, unless it may use a wider window"
    WIDE_WINDOW "wide-window" BOTH BROKEN
        "a zstd frame needs a window that is wider than the memory limit"
        => "zstd refuses to decompress it; what is in it is not checked"
    NOT_AN_ARCHIVE "not-an-archive" BOTH BROKEN
        "the file is empty, or neither tar nor compressed in a way that sbuild knows"
        => "sbuild refuses it"
    DAMAGED "damaged" BOTH BROKEN
        "the compressed data is damaged, cut off, or followed by something else"
        => "the decompressor fails, and sbuild refuses the archive"

    SIZE_FIELD "size-field" NEW SOUND
        "a header's size is not 11 octal digits with a NUL or blank behind them (base-256, leading blanks, fewer or 12 digits)"
        => "the filter of sbuild 0.89 stops there: the header is lost, the data is taken for headers, device nodes are no longer dropped"
    PAX_SIZE "pax-size" NEW SOUND
        "the size is in a PAX record, the header has another one, and the data is not zeros"
        => "the filter of sbuild 0.89 goes by the header: it takes data for headers, stops and loses one block of it"
    OLD_GNU_SPARSE "old-gnu-sparse" NEW SOUND
        "a sparse file in GNU tar's old format, with a map of more than four extents"
        => "the filter of sbuild 0.89 takes the rest of its data for headers: the archive is refused or the file corrupted"
    SIZE_WITHOUT_DATA "size-without-data" NEW SOUND
        "a directory, link, pipe or device has a size but no data, and what follows is not just whole members"
        => "the filter of sbuild 0.89 takes what follows for its data: the archive is refused, or what follows is corrupted"
    SIZE_OF_SKIPPED "size-of-skipped" OLD SOUND
        "a device node that sbuild 0.85 skips has a size, and no data"
        => "sbuild 0.85 skips what follows as its data and refuses the archive"
    NO_MAGIC "no-ustar-magic" NEW SOUND
        "a header without ustar magic (v7)"
        => "the filter of sbuild 0.89 stops there: the member is lost, device nodes are no longer dropped"
    DEVICE_NODE "device-node" OLD SOUND
        "a device node other than ./dev/null, zero, full, random, urandom, tty, console, ptmx"
        => "sbuild 0.85 hands it to tar, which cannot create it in a user namespace: the archive is refused"
    SKIPPED_NAME "skipped-name" OLD SOUND
        "a file below the name of a device that sbuild 0.85 skips, or with ./dev/ and the name of such a device within its name"
        => "sbuild 0.85 takes it for the device and skips it: the file is lost"
    DEVICE_CHECKSUM "device-checksum" NEW SOUND
        "a device node whose checksum is not six octal digits and NUL, with others after it"
        => "the filter of sbuild 0.89 stops there: tar gets the device nodes that follow, cannot create them, and the archive is refused"
    PAX_BEFORE_DEVICE "pax-before-device" NEW SOUND
        "a device node has PAX records, and the member after it has none"
        => "sbuild 0.89 drops the device node alone: the records (name, owner, times) are applied to this member"
    LONG_NAME_BEFORE_DEVICE "long-name-before-device" NEW SOUND
        "a device node has a GNU long name, and the member after it has none"
        => "sbuild 0.89 drops the device node alone: this member gets its name"
    GLOBAL_HEADER "global-header" NEITHER SOUND
        "a global PAX header"
        => "its records are applied to all members that follow"
    UNKNOWN_TYPE "unknown-type" NEITHER SOUND
        "a member of a type that neither POSIX nor GNU tar defines"
        => "it loads as a regular file, with a warning from tar"
    SHARED_BLOCK "sparse-shared-block" BOTH SOUND
        "a sparse file whose map has an extent that begins within a block of the archive"
        => "tar reads each extent from a block of its own: the file gets other data"
    SHORT_MAP "sparse-short-map" BOTH SOUND
        "a sparse file whose map ends before the file does"
        => "tar makes the file as long as the map: it is cut off"
    LONE_ZERO_BLOCK "lone-zero-block" BOTH BROKEN
        "there is a single zero block between members"
        => "tar takes it for the end: what follows is silently lost"
    DATA_AFTER_END "data-after-end" BOTH BROKEN
        "something follows the two zero blocks that end an archive"
        => "tar stops at the end: what follows is silently lost"
    MALFORMED "malformed" BOTH BROKEN
        "the tar stream is damaged, cut off, or says things that programs understand differently"
        => "it cannot be read from here on"
    NO_END "no-end" NEITHER UNFINISHED
        "no zero blocks mark the end of the archive"
        => "it loads, but may have been cut off between two members"
    SHORT_END "short-end" NEITHER SOUND
        "one zero block marks the end of the archive instead of two"
        => "it loads, with a warning from tar"

    NO_ROOT "no-root-entry" BOTH SOUND
        "there is no entry for the root directory, ./"
        => "the root directory keeps mode 0700 and the build user cannot enter it: the tree loads, the build fails"
    ROOT_MODE "root-mode" BOTH SOUND
        "the mode of the root directory does not let others enter it"
        => "the build user cannot enter the root directory: the tree loads, the build fails"
    ROOT_OWNER "root-owner" NEITHER SOUND
        "the root directory does not belong to user 0 and group 0"
        => "it loads, but the tree was probably packed with another id map than it was made with: then all its files have wrong owners, and setuid files run as the wrong user"
    NO_SHELL "no-shell" NEITHER SOUND
        "there is no /bin/sh"
        => "it loads, but no build can start in it"
    ROOT_NOT_DIRECTORY "root-not-directory" BOTH UNSAFE
        "the root entry . is something else than a directory"
        => "tar cannot create it and the archive is refused"
    ID_RANGE "id-range" BOTH UNSAFE
        "a user or group id of 65536 or more"
        => "the user namespace does not map it: tar cannot change the owner and the archive is refused"
    OWNER_NAME "owner-name" BOTH SOUND
        "a user or group name that is not the id's own on every Debian system"
        => "tar looks the name up on the build host and prefers what it finds to the id: the file may get another owner"
    DOT_DOT "dot-dot" BOTH UNSAFE
        "a name with .. in it"
        => "tar refuses the member, and sbuild the archive"
    ABSOLUTE_NAME "absolute-name" NEITHER UNSAFE
        "a name with / in front"
        => "tar takes the / off; unpack refuses it"
    NAME_TOO_LONG "name-too-long" BOTH SOUND
        "a path or link target of 4096 bytes or more, or a component of more than 255"
        => "no file can have this name: tar fails and the archive is refused"
    HARD_LINK_TARGET "hard-link-target" BOTH UNSAFE
        "a hard link to a missing or later member, or to a directory"
        => "tar cannot create the link and the archive is refused"
    HARD_LINK_TO_DEVICE "hard-link-to-device" BOTH SOUND
        "a hard link to a device node"
        => "the device node is not created, so tar cannot create the link and the archive is refused"
    HARD_LINK_TO_SKIPPED "hard-link-to-skipped" OLD SOUND
        "a hard link to a file with the name of a device that sbuild 0.85 skips"
        => "sbuild 0.85 skips the file, so tar cannot create the link and the archive is refused"
    HARD_LINK_OUTSIDE "hard-link-outside" NEITHER UNSAFE
        "a hard link to an absolute path, or through .."
        => "tar takes off what leads outside; unpack refuses it"
    THROUGH_LINK "through-link" BOTH UNSAFE
        "a path that leads through a symbolic link that is dangling, absolute or has .. in it, or through another file"
        => "tar cannot go there and the archive is refused"
    FOLLOWED_LINK "followed-link" NEITHER UNSAFE
        "a path that leads through a symbolic link"
        => "tar follows the link; unpack refuses it"
    DIRECTORY_OVER_LINK "directory-over-link" NEITHER UNSAFE
        "a directory in place of a symbolic link"
        => "tar replaces the link; unpack refuses it"
    DIRECTORY_OVER_LATE_LINK "directory-over-late-link" BOTH UNSAFE
        "a directory in place of a symbolic link that is absolute or has .. in it"
        => "tar creates such links last and recognises its placeholder by the inode number: if the directory has got this number, the archive is refused"
    OVER_LATE_LINK "over-late-link" BOTH SOUND
        "a file, pipe or other link in place of a symbolic link that is absolute or has .. in it"
        => "tar creates such links last and recognises its placeholder by the inode number: if the later member has got this number, the link replaces it"
    OVER_DIRECTORY "over-directory" BOTH UNSAFE
        "another file in place of a directory that is not empty"
        => "tar cannot replace the directory and the archive is refused"
    FOREIGN_CAPABILITY "foreign-capability" NEITHER UNSAFE
        "a file capability of another user namespace's root"
        => "sbuild does not restore capabilities; unpack refuses it"
    UNPACK_REFUSES "unpack-refuses" NEITHER UNSAFE
        "a member that unpack refuses for another reason, such as an ACL with names or without a mask, or a path of more than 1024 components"
        => "unpack refuses the archive"
    TOO_MANY_MEMBERS "too-many-members" NEITHER UNSAFE
        "more members than can be kept in mind"
        => "links and paths are not checked from here on"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_causes_and_effects_are_told() {
        for (index, rule) in ALL.iter().enumerate() {
            assert!(
                ALL.iter().skip(index + 1).all(|other| *other != *rule),
                "{rule}"
            );
            assert!(
                rule.name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{rule}"
            );
            assert!(!rule.cause.is_empty() && !rule.effect.is_empty(), "{rule}");
        }
    }
}
