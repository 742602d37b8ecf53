//! The members of an archive.

use std::ffi::OsString;

use super::archive::{ArchivePath, Reading};
use crate::archive::header::decode::Header;
use crate::archive::reader::{Event, Limits, Member};
use crate::error::Error;
use crate::input::Input;
use crate::member_stream;
use crate::tree::selection::{Selection, clean};

/// Lists the members of an archive.
#[derive(Clone, Debug)]
pub struct List {
    /// The archive.
    pub archive: ArchivePath,
    /// Paths or patterns of members; empty for all.
    pub members: Vec<OsString>,
    /// How the archive is read.
    pub reading: Reading,
}

impl List {
    /// Lists all members of `archive`.
    pub fn new(archive: impl Into<ArchivePath>) -> List {
        List {
            archive: archive.into(),
            members: Vec::new(),
            reading: Reading::default(),
        }
    }

    /// Hands the members to `visit`, in the order of the archive. Gives those of
    /// [`List::members`] that the archive lacks.
    ///
    /// # Errors
    ///
    /// The first that reading or `visit` has.
    pub fn run<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&Member) -> Result<(), E>,
    ) -> Result<Vec<OsString>, E> {
        let context = |error: Error| error.context(format!("cannot list {}", self.archive));
        let mut selection = Selection::new(&self.members).map_err(Error::from)?;
        let file = self.archive.open().map_err(context)?;
        let mut input =
            Input::open(file, &self.reading.options()).map_err(|error| context(error.into()))?;
        let is_everything = selection.is_everything();
        let read = member_stream::read(&mut input, Limits::default(), |event| match event {
            Event::Member(member)
                if is_everything || selection.takes(&clean(&member.entry.path)) =>
            {
                visit(&member).map_err(ListError::Visit)
            }
            _ => Ok(()),
        });
        match read {
            Ok(_) => Ok(selection.missing()),
            Err(ListError::Read(error)) => Err(context(error).into()),
            Err(ListError::Visit(error)) => Err(error),
        }
    }
}

/// What a listing shows of a member beside its entry.
impl Member {
    /// The path below the root: without `./` in front and `/` behind.
    pub fn clean_path(&self) -> Vec<u8> {
        clean(&self.entry.path)
    }

    /// The type flag of the member's own header.
    pub fn type_flag(&self) -> Option<u8> {
        self.own_header().map(Header::typeflag)
    }

    /// The size in the member's own header, which kinds without data may have too.
    pub fn stored_size(&self) -> Option<u64> {
        self.own_header().and_then(|header| header.size().ok())
    }

    fn own_header(&self) -> Option<Header<'_>> {
        self.headers.last().map(|header| Header(&header.block))
    }
}

/// Keeps the errors of the two apart.
enum ListError<E> {
    Read(Error),
    Visit(E),
}

impl<E> From<member_stream::Error> for ListError<E> {
    fn from(error: member_stream::Error) -> ListError<E> {
        ListError::Read(error.into())
    }
}
