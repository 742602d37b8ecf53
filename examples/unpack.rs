//! Unpacks a tree, which belongs to the caller's subordinate ids afterwards:
//! `cargo run --no-default-features --example unpack schroot.tar.zst rootfs`

use isar_tarball::{Error, Unpack, UnpackMode};

fn main() -> Result<(), Error> {
    let [archive, rootfs] =
        std::array::from_fn(|n| std::env::args().nth(n + 1).unwrap_or_default());
    let mut unpack = Unpack::new(archive.as_str(), rootfs);
    unpack.mode = UnpackMode::Replace;
    let unpacked = unpack.run(&mut ())?;
    println!(
        "{} members, {} bytes",
        unpacked.members.total, unpacked.data_bytes
    );
    Ok(())
}
