//! Runs a command in the tree of an archive, which is gone afterwards:
//! `cargo run --no-default-features --example imager schroot.tar.zst cat /etc/debian_version`

use isar_tarball::{Error, Imager};

fn main() -> Result<(), Error> {
    let mut words = std::env::args_os().skip(1);
    let archive = words.next().unwrap_or_default();
    let status = Imager::new(archive, words).run(&mut ())?;
    std::process::exit(status.code().into())
}
