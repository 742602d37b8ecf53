//! The state: a record of the frames that `pack` wrote, and its file format.
//!
//! The file, numbers little-endian: [`MAGIC`]; the context (32 bytes); the number of frames (4);
//! for each frame in the order of the archive the digests of its content, recipe, metadata (zeros:
//! none) and compressed bytes (32 each), the lengths of content and compressed bytes and the counts
//! of attributes and ACL entries left out (8 each); at the end the digest of everything before it (32). Digests are
//! BLAKE3.

use crate::tree::xattr::Skipped;

/// Magic of the file; the number is increased when the layout changes.
const MAGIC: &[u8; 24] = b"isar-tarball frames 2\n\0\0";

/// A BLAKE3 digest. Not a faster, weaker hash: the authors of files in a tree must not be able to
/// produce two contents with the same digest.
pub type Digest = [u8; 32];

/// Bytes of the file without the frames: magic, context, number of frames, digest.
const FRAME_FREE: usize = MAGIC.len() + 32 + 4 + 32;

/// Bytes per frame.
const FRAME: usize = 4 * 32 + 4 * 8;

/// Maximum length of a state, in bytes: that of an archive with the maximum number of frames.
pub const LARGEST: u64 = (FRAME_FREE + (FRAME << 20)) as u64;

/// A frame that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Digest of its content, the bytes of the tar stream.
    pub content: Digest,
    /// Digest of its compression parameters.
    pub recipe: Digest,
    /// Digest of the metadata of its members; `None` if one of them had changed so recently that a
    /// further change might not show.
    pub metadata: Option<Digest>,
    /// Digest of its compressed bytes.
    pub compressed: Digest,
    /// Length of its content in bytes.
    pub content_bytes: u64,
    /// Compressed length in bytes.
    pub compressed_bytes: u64,
    /// Skipped extended attributes of its members.
    pub skipped_xattrs: Skipped,
}

/// An archive that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Digest of the program and namespace that wrote it, see [`super::context`].
    pub context: Digest,
    /// Its frames, which make up the whole archive.
    pub frames: Vec<Record>,
}

/// A reason why no frame of an archive can be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The state file is damaged.
    #[error("its state is damaged, or written by another version of isar-tarball")]
    State,
    /// It was written by another program or zstd library, or in another namespace.
    #[error("another build of isar-tarball made it, or this one in another namespace")]
    Context,
    /// The length of the archive is not the total of its frames.
    #[error("it has changed since its state was written")]
    Archive,
}

impl State {
    /// The length of the archive in bytes; `None` on overflow.
    pub fn archive_bytes(&self) -> Option<u64> {
        self.frames
            .iter()
            .try_fold(0u64, |sum, frame| sum.checked_add(frame.compressed_bytes))
    }

    /// Encodes the state for its file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [
            &MAGIC[..],
            &self.context,
            &(self.frames.len() as u32).to_le_bytes(),
        ]
        .concat();
        for frame in &self.frames {
            for digest in [
                &frame.content,
                &frame.recipe,
                &frame.metadata.unwrap_or_default(),
                &frame.compressed,
            ] {
                out.extend_from_slice(digest);
            }
            for number in [
                frame.content_bytes,
                frame.compressed_bytes,
                frame.skipped_xattrs.attributes,
                frame.skipped_xattrs.acl_entries,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Decodes the result of [`State::encode`], and refuses anything else.
    pub fn decode(bytes: &[u8]) -> Result<State, Unusable> {
        let (mut rest, digest) = bytes.split_last_chunk::<32>().ok_or(Unusable::State)?;
        if blake3::hash(rest).as_bytes() != digest {
            return Err(Unusable::State);
        }
        let magic: [u8; MAGIC.len()] = take(&mut rest)?;
        let context = take(&mut rest)?;
        let count = u32::from_le_bytes(take(&mut rest)?) as usize;
        if magic != *MAGIC || count.checked_mul(FRAME) != Some(rest.len()) {
            return Err(Unusable::State);
        }
        let frames = (0..count)
            .map(|_| record(&mut rest))
            .collect::<Result<_, _>>()?;
        Ok(State { context, frames })
    }
}

fn record(rest: &mut &[u8]) -> Result<Record, Unusable> {
    let (content, recipe, metadata) = (take(rest)?, take(rest)?, take(rest)?);
    Ok(Record {
        content,
        recipe,
        metadata: Some(metadata).filter(|digest| *digest != Digest::default()),
        compressed: take(rest)?,
        content_bytes: u64::from_le_bytes(take(rest)?),
        compressed_bytes: u64::from_le_bytes(take(rest)?),
        skipped_xattrs: Skipped {
            attributes: u64::from_le_bytes(take(rest)?),
            acl_entries: u64::from_le_bytes(take(rest)?),
        },
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unusable> {
    let (first, behind) = rest.split_first_chunk().ok_or(Unusable::State)?;
    *rest = behind;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state() -> State {
        let frame = |number: u8, metadata| Record {
            content: [number; 32],
            recipe: [number + 1; 32],
            metadata,
            compressed: [number + 2; 32],
            content_bytes: 1 << 33,
            compressed_bytes: number.into(),
            skipped_xattrs: Skipped {
                attributes: 3,
                acl_entries: 1,
            },
        };
        State {
            context: [9; 32],
            frames: vec![frame(10, None), frame(20, Some([1; 32]))],
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let empty = State {
            context: [0; 32],
            frames: Vec::new(),
        };
        for state in [state(), empty] {
            assert_eq!(State::decode(&state.encode()), Ok(state));
        }
    }

    #[test]
    fn a_state_damaged_anywhere_is_refused() {
        let bytes = state().encode();
        assert_eq!(bytes.len(), FRAME_FREE + 2 * FRAME);
        for at in 0..bytes.len() {
            assert_eq!(
                State::decode(&bytes[..at]),
                Err(Unusable::State),
                "cut at {at}"
            );
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(
                    State::decode(&damaged),
                    Err(Unusable::State),
                    "bit {bit} of byte {at}"
                );
            }
        }
        assert_eq!(
            State::decode(&[&bytes[..], b"\0"].concat()),
            Err(Unusable::State)
        );
    }

    #[test]
    fn a_layout_of_another_number_or_length_is_refused_though_its_digest_is_right() {
        let bytes = state().encode();
        let sealed = |bytes: &[u8]| [bytes, blake3::hash(bytes).as_bytes()].concat();
        let mut other = bytes[..bytes.len() - 32].to_vec();
        assert_eq!(State::decode(&sealed(&other)), Ok(state()));
        assert_eq!(
            State::decode(&sealed(&other[..other.len() - 8])),
            Err(Unusable::State)
        );
        other[20] = b'9';
        assert_eq!(State::decode(&sealed(&other)), Err(Unusable::State));
    }

    #[test]
    fn lengths_that_come_to_more_than_a_number_holds_are_seen() {
        let mut state = state();
        assert_eq!(state.archive_bytes(), Some(30));
        state.frames[0].compressed_bytes = u64::MAX;
        assert_eq!(state.archive_bytes(), None);
    }
}
