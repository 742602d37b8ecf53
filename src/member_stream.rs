//! The members of an archive, one after the other: its decoded stream handed to the tar reader.

use crate::archive::reader::{self, End, Event, Limits, Reader};
use crate::error::{Classify, ErrorKind};
use crate::input::{self, Input};

/// An archive that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read or decompressed.
    #[error(transparent)]
    Input(#[from] input::Error),
    /// What it holds is no tar stream that this program takes.
    #[error(transparent)]
    Archive(#[from] reader::Error),
}

/// An archive that was read to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// Length of the tar stream in bytes.
    pub bytes: u64,
}

/// Hands every member and all data to `visit`, in the order of the archive, and reads to the end of
/// the input.
///
/// # Errors
///
/// The first that the input, the tar stream or `visit` has.
pub fn read<E: From<Error>>(
    input: &mut Input,
    limits: Limits,
    mut visit: impl FnMut(Event<'_>) -> Result<(), E>,
) -> Result<Ended, E> {
    let mut reader = Reader::new(limits);
    while let Some(chunk) = input.next().map_err(Error::from)? {
        let mut bytes: &[u8] = &chunk;
        while let Some(event) = reader.next(&mut bytes).map_err(Error::from)? {
            visit(event)?;
        }
    }
    let end = reader.finish().map_err(Error::from)?;
    Ok(Ended {
        end,
        bytes: reader.offset(),
    })
}

/// Reads an archive to its end, and returns the bytes of data of its members.
pub fn data_bytes(input: &mut Input) -> Result<u64, Error> {
    let mut bytes = 0;
    read::<Error>(input, Limits::default(), |event| {
        if let Event::Data(_, data) = event {
            bytes += data.len() as u64;
        }
        Ok(())
    })?;
    Ok(bytes)
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Input(error) => error.kind(),
            Error::Archive(_) => ErrorKind::BadArchive,
        }
    }
}
