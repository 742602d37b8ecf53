//! Archives by hand, with what no honest program writes.

use std::fs;
use std::path::{Path, PathBuf};

use isar_tarball::internals::archive::header::{Fields, block, padding};
use isar_tarball::internals::archive::pax::record;

use crate::world::Scratch;

/// The bytes of a tar stream.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    /// A header with data behind it.
    pub fn member(self, fields: Fields<'_>, data: &[u8]) -> Tar {
        self.header(Fields {
            size: data.len() as u64,
            ..fields
        })
        .raw(data)
        .raw(&vec![0; padding(data.len() as u64)])
    }

    pub fn header(self, fields: Fields<'_>) -> Tar {
        self.raw(&block(&fields))
    }

    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self
    }

    /// PAX records for the member that comes next.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut data = Vec::new();
        for (key, value) in records {
            record(&mut data, key.as_bytes(), value);
        }
        self.member(
            Fields {
                name: b"./PaxHeaders/x",
                mode: 0o644,
                typeflag: b'x',
                ..Fields::default()
            },
            &data,
        )
    }

    pub fn file(self, name: &str, data: &str) -> Tar {
        self.member(
            Fields {
                name: name.as_bytes(),
                mode: 0o644,
                mtime: 1,
                typeflag: b'0',
                ..Fields::default()
            },
            data.as_bytes(),
        )
    }

    pub fn directory(self, name: &str, mode: u32) -> Tar {
        self.header(Fields {
            name: name.as_bytes(),
            mode,
            mtime: 1,
            typeflag: b'5',
            ..Fields::default()
        })
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(name, target, b'2')
    }

    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.link(name, target, b'1')
    }

    fn link(self, name: &str, target: &str, typeflag: u8) -> Tar {
        let (name, linkname) = (name.as_bytes(), target.as_bytes());
        self.header(Fields {
            name,
            linkname,
            mode: 0o777,
            mtime: 1,
            typeflag,
            ..Fields::default()
        })
    }

    pub fn fifo(self, name: &str) -> Tar {
        self.header(Fields {
            name: name.as_bytes(),
            mode: 0o622,
            mtime: 1,
            typeflag: b'6',
            ..Fields::default()
        })
    }

    /// A character device like /dev/null.
    pub fn device(self, name: &str) -> Tar {
        let device = (1, 3);
        self.header(Fields {
            name: name.as_bytes(),
            mode: 0o666,
            mtime: 1,
            typeflag: b'3',
            device,
            ..Fields::default()
        })
    }

    /// Changes the last header, whose checksum follows.
    pub fn change_last(mut self, at: usize, bytes: &[u8]) -> Tar {
        let begin = self.0.len() - 512;
        let header = &mut self.0[begin..];
        header[at..at + bytes.len()].copy_from_slice(bytes);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self
    }

    /// With the blocks that end an archive.
    pub fn end(self) -> Tar {
        self.raw(&[0; 1024])
    }

    /// Written to a file that everybody may read.
    pub fn write(&self, scratch: &Scratch, name: &str) -> PathBuf {
        let path = scratch.join(name);
        fs::write(&path, &self.0).unwrap();
        path
    }
}

/// The bytes of a file below a directory, as root sees it.
pub fn content(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}
