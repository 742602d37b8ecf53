//! An archive named on the command line, opened for reading.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::anyhow;
use isar_tarball::error::describe;
use isar_tarball::input;
use isar_tarball::zst::SBUILD_WINDOW_LOG;

use super::values::{size, threads};

/// The options of everything that reads archives.
#[derive(clap::Args, Clone, Copy)]
pub struct Reading {
    /// Threads that decompress: one a processor (0), or fewer
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// How much decompressed data may wait to be looked at
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    memory: u64,
}

/// What a command reads with that offers no choice.
impl Default for Reading {
    fn default() -> Reading {
        Reading {
            threads: 0,
            memory: 256 << 20,
        }
    }
}

impl Reading {
    pub fn options(&self) -> input::Options {
        let (threads, memory) = (self.threads(), self.memory);
        // Wider windows are read where they are asked for.
        input::Options {
            threads,
            memory,
            window_log: SBUILD_WINDOW_LOG,
            eager: true,
        }
    }

    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

/// Opens the file, or stdin for `-`.
pub fn open(archive: &Path) -> anyhow::Result<File> {
    let file = match archive.as_os_str() == "-" {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(archive),
    };
    file.map_err(|error| anyhow!("open: {}", describe(&error)))
}
