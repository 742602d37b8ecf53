//! A tar stream without the data of its members: everything that the rules examine, without the
//! bulk.

#[cfg(any(test, feature = "internals"))]
use super::reader::Limits;
use super::reader::{Error, Event, Member, Reader};

/// A part of a tar stream without the data of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Headers, maps of sparse files, padding and the end of the stream.
    pub bytes: Vec<u8>,
    /// The gaps, in order.
    pub gaps: Vec<Gap>,
}

/// A gap: data that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Offset of the gap in the bytes of the outline.
    pub at: usize,
    /// Length of the data, in bytes.
    pub length: u64,
}

/// The gaps of an outline do not match its bytes.
#[derive(Debug)]
pub enum Mismatch {
    /// The reader refuses the bytes.
    Reader(Error),
    /// A gap is not exactly the data of one member.
    Gap,
}

impl Outline {
    #[cfg(any(test, feature = "internals"))]
    /// Computes the outline of a whole stream.
    pub fn of(stream: &[u8]) -> Result<Outline, Error> {
        let (mut reader, mut outline, mut rest) =
            (Reader::new(Limits::default()), Outline::default(), stream);
        // Position in the stream: everything before it is in the outline or in a gap.
        let mut done = 0;
        while let Some(event) = reader.next(&mut rest)? {
            if let Event::Data(_, data) = event {
                let end = stream.len() - rest.len();
                outline
                    .bytes
                    .extend_from_slice(stream.get(done..end - data.len()).unwrap_or_default());
                outline.gaps.push(Gap {
                    at: outline.bytes.len(),
                    length: data.len() as u64,
                });
                done = end;
            }
        }
        outline
            .bytes
            .extend_from_slice(stream.get(done..).unwrap_or_default());
        reader.finish().map(|_| outline)
    }

    /// Calls `visit` for each member.
    pub fn read(
        &self,
        reader: &mut Reader,
        mut visit: impl FnMut(&Member),
    ) -> Result<(), Mismatch> {
        let mut done = 0;
        let end = Gap {
            at: self.bytes.len(),
            length: 0,
        };
        for Gap { at, length } in self.gaps.iter().copied().chain([end]) {
            let mut input = self.bytes.get(done..at).ok_or(Mismatch::Gap)?;
            while let Some(event) = reader.next(&mut input).map_err(Mismatch::Reader)? {
                if let Event::Member(member) = event {
                    visit(&member);
                }
            }
            if reader.pass_over(length) != length {
                return Err(Mismatch::Gap);
            }
            done = at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::archive::{header, sparse, writer};
    use crate::entry::{Entry, Extent, Kind};

    /// A stream of files with and without holes, and the position of the data of each.
    fn stream() -> (Vec<u8>, Vec<(usize, usize)>) {
        let extents = |list: &[(u64, u64)]| {
            Some(
                list.iter()
                    .map(|&(offset, length)| Extent { offset, length })
                    .collect::<Vec<_>>(),
            )
        };
        let files = [
            (0, None),
            (1, None),
            (512, None),
            (70_000, None),
            (90_000, extents(&[(4096, 100), (8192, 5000)])),
            (90_000, extents(&[])),
        ];
        let (mut bytes, mut data) = (Vec::new(), Vec::new());
        for (index, (size, extents)) in files.into_iter().enumerate() {
            let stored = extents.as_deref().map_or(size, sparse::data);
            let entry = Entry {
                kind: Kind::File { size, extents },
                xattrs: vec![(b"user.name".to_vec(), b"value".to_vec())],
                ..Entry::file(format!("file-{index}").repeat(20 * index + 1), size)
            };
            writer::append_header(&mut bytes, &entry, None).unwrap();
            data.push((bytes.len(), stored as usize));
            bytes.resize(
                bytes.len() + stored as usize + header::padding(stored),
                b'x',
            );
            let end = bytes.len();
            bytes[end - header::padding(stored)..].fill(0);
        }
        bytes.extend_from_slice(&writer::END);
        (bytes, data)
    }

    fn outline(bytes: &[u8], data: &[(usize, usize)]) -> Outline {
        let mut outline = Outline::default();
        let mut done = 0;
        for &(begin, length) in data.iter().filter(|(_, length)| *length > 0) {
            outline.bytes.extend_from_slice(&bytes[done..begin]);
            outline.gaps.push(Gap {
                at: outline.bytes.len(),
                length: length as u64,
            });
            done = begin + length;
        }
        outline.bytes.extend_from_slice(&bytes[done..]);
        outline
    }

    #[test]
    fn an_outline_has_the_members_of_the_stream() {
        let (bytes, data) = stream();
        let (mut reader, mut whole, mut input) =
            (Reader::new(Limits::default()), Vec::new(), bytes.as_slice());
        while let Some(event) = reader.next(&mut input).unwrap() {
            if let Event::Member(member) = event {
                whole.push(format!("{member:?}"));
            }
        }
        let end = reader.finish().unwrap();
        let (mut reader, mut members) = (Reader::new(Limits::default()), Vec::new());
        outline(&bytes, &data)
            .read(&mut reader, |member| members.push(format!("{member:?}")))
            .unwrap();
        assert_eq!((members.len(), &members), (6, &whole));
        assert_eq!(
            (reader.finish().unwrap(), reader.offset()),
            (end, bytes.len() as u64)
        );
    }

    #[test]
    fn a_gap_that_is_not_data_is_told_from_one_that_is() {
        let (bytes, data) = stream();
        let right = outline(&bytes, &data);
        let read = |outline: &Outline| outline.read(&mut Reader::new(Limits::default()), |_| {});
        for (gap, longer) in [(0, 1), (1, 512), (2, 1 << 40)] {
            let mut wrong = right.clone();
            wrong.gaps[gap].length += longer;
            assert!(matches!(read(&wrong), Err(Mismatch::Gap)), "{gap} {longer}");
        }
        let mut wrong = right.clone();
        wrong.gaps[0].at -= 512;
        assert!(matches!(read(&wrong), Err(Mismatch::Gap)));
        let mut wrong = right;
        wrong.gaps[1].length -= 1;
        assert!(matches!(read(&wrong), Err(Mismatch::Reader(_))));
    }
}
