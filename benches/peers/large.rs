//! Trees of unusual size.

use std::path::PathBuf;

use crate::machine::{Machine, shown};
use crate::row::{Row, Side};

/// Time is to grow with them, memory not.
pub fn rows(machine: &Machine) -> Vec<Row> {
    let row = |name: &str, slug: &str, make: &str| {
        let tree = machine.disk.join(slug);
        let of_it = machine.with_tree(&tree);
        let (ours, theirs) = (
            machine.disk.join("large.tar.zst"),
            machine.disk.join("large-seed.tar.zst"),
        );
        let shown_tree = shown(&tree);
        let side = |command, path: &PathBuf, clean: String| Side {
            command,
            clean: format!("rm -rf {} {clean}", shown(path)),
            reads: Vec::new(),
            writes: Some(shown(path)),
            ..Side::default()
        };
        Row {
            name: String::from(name),
            peer: "tar \\| zstd -8 -T2 (the seed)",
            setup: vec![machine.script(&format!(
                "rm -rf {shown_tree}; mkdir -p {shown_tree}; cd {shown_tree}; {make}"
            ))],
            most_pairs: Some(3),
            faster: 1.0,
            ours: side(of_it.pack(&ours, &[]), &ours, String::new()),
            theirs: side(of_it.pack_by_seed(&theirs), &theirs, shown_tree.clone()),
            ..Row::default()
        }
    };
    let files = |directories: u32| {
        format!(
            "python3 -c \"import os\nfor d in range({directories}):\n os.mkdir(f'd{{d}}')\n for n in range(1000):\n  open(f'd{{d}}/{{n}}', 'w').write(f'{{d}} {{n}}\\n' * 8)\""
        )
    };
    let sparse = "for n in $(seq 0 39); do head -c 1M /dev/urandom | dd of=disk bs=1M seek=$((n * 1024)) conv=notrunc status=none; done; truncate -s 40G disk";
    vec![
        row("pack 100,000 files", "files", &files(100)),
        row("pack 1,000,000 files", "files", &files(1000)),
        row("pack a sparse file of 40 GiB", "sparse", sparse),
    ]
}
