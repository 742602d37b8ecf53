//! Packs a rootless tree: `cargo run --no-default-features --example pack rootfs schroot.tar.zst`

use isar_tarball::{Error, Pack};

fn main() -> Result<(), Error> {
    let [rootfs, archive] =
        std::array::from_fn(|n| std::env::args().nth(n + 1).unwrap_or_default());
    let packed = Pack::new(rootfs, archive.as_str()).run(&mut ())?;
    println!(
        "{} members, {} bytes",
        packed.members.total, packed.archive_bytes
    );
    Ok(())
}
