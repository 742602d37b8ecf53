//! `isar-tarball info`.

mod json;
mod table;

use std::path::PathBuf;

use isar_tarball::Info;

use super::Globals;
use super::report::{self, Status};
use super::session::{ReadingArgs, archive};
use super::values::size;

/// Show what an archive is: its compression, its members, and the root file system in it
///
/// Everything is read and decompressed once. What the archive does not say (a tarball that is no
/// root file system has no packages) is left out.
#[derive(clap::Args)]
#[command(after_help = "Example: isar-tarball info schroot.tar.zst", after_long_help = DETAILS)]
pub struct Args {
    /// The tarball, compressed or not, or - for stdin
    archive: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Limit of decompressed data that waits to be processed
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    memory: u64,
    #[command(flatten)]
    reading: ReadingArgs,
}

const DETAILS: &str = "\
Example: isar-tarball info schroot.tar.zst

--json prints an object; what is not known is null:
  archive               as named on the command line
  archive_bytes         length of the archive
  sha256                64 hexadecimal digits
  compression           \"none\", \"zstd\", \"gzip\" or \"xz\"
  ratio                 tar_bytes divided by archive_bytes
  frames                {\"count\", \"skippable\", \"with_checksum\", \"with_size\", \"window\", \"longest\"}:
                        numbers of zstd frames, the widest window and the longest content in bytes;
                        null for another compression, and for stdin from a pipe
  tar_bytes             length of the tar stream
  members               {\"total\", \"directories\", \"files\", \"sparse\", \"hard_links\", \"symlinks\", \"fifos\",
                        \"devices\"}: numbers, sparse ones among the files
  file_bytes            length of all files, holes included
  with_xattrs           number of members with extended attributes
  with_acls             number of members with ACLs
  distribution          {\"name\", \"id\", \"codename\", \"debian_version\"}: from os-release and debian_version
  sources               [\"URI SUITE COMPONENT…\", …]: where apt takes binary packages from
  architecture          dpkg's own
  foreign_architectures [\"ARCH\", …]: those that dpkg takes besides
  packages              number of packages that are installed
  build_users           {\"sbuild\", \"caller\"}: uids that sbuild 0.89 and 0.85 build as; caller is null
                        for a caller without a name";

pub fn run(args: Args, globals: &Globals) -> anyhow::Result<Status> {
    let info = Info {
        reading: args.reading.within(args.memory),
        ..Info::new(archive(&args.archive))
    };
    let found = info.run()?;
    let text = match args.json {
        true => format!("{:#}\n", json::object(&found, &args)),
        false => table::text(&found, &args.archive, report::is_coloured(globals.color)),
    };
    report::result(&text)?;
    Ok(Status::Done)
}
