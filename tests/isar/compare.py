#!/usr/bin/env python3
"""Compares what two isar builds have deployed: compare.py DEPLOY_DIR DEPLOY_DIR

Prints one row for each file of tmp/deploy in either build. Partitions of disk images are mounted and compared file by file,
with all attributes; chroot tarballs by `isar-tarball diff`; bills of materials by their values; other files by their bytes.
Root, in a mount namespace of its own. The exit status is 1 if anything differs that EXPECTED does not name.
"""

import contextlib
import filecmp
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# What differs between any two builds, or where isar's shell is wrong: regular expressions of "file: difference", with the reason.
EXPECTED = {
    r'\.wic: .*etc/machine-id: content': "isar's run_in_chroot gives the command a here-document for stdin, so that the file gets empty",
    r'\.wic: partitions: ': 'wic takes the size from that of the tree, in which /etc/machine-id has a block or none',
    r'\.wic: .*(/grub\.cfg|etc/fstab): content': 'wic draws UUIDs',
    r'\.wic: partition \d+ boot: mtime': 'wic mounts the boot partition there',
    r'\.bmap: ': 'has checksums of the image',
    r'\.json: /(serialNumber|documentNamespace): ': 'the document has a random UUID',
    r'^schroot-.*: etc/apt/preferences\.d/isar-apt: ': "tar's --exclude=isar-apt matches in every directory",
    r'^s(chroot|bom).*: var/(cache/apt/|log/)': 'has times',
    r'^s(chroot|bom).*: var/lib/apt/lists/_isar-apt_': 'what other tasks had put into isar-apt by then',
}


def compare_files(first, second):
    if not filecmp.cmp(first, second, shallow=False):
        yield f'{first.stat().st_size} and {second.stat().st_size} bytes, not the same'


def compare_text(first, second):
    lines = [set(path.read_text().splitlines()) for path in (first, second)]
    for sign, only in ('-', lines[0] - lines[1]), ('+', lines[1] - lines[0]):
        yield from (f'{sign} {line}' for line in sorted(only))


def compare_json(first, second):
    def values(value, path=''):
        if isinstance(value, (dict, list)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                yield from values(part, f'{path}/{key}')
        else:
            yield path, value

    first, second = (dict(values(json.loads(path.read_text()))) for path in (first, second))
    for path in sorted(first.keys() | second.keys()):
        if first.get(path) != second.get(path):
            yield f'{path}: {first.get(path)!r} and {second.get(path)!r}'


def compare_archives(first, second):
    result = subprocess.run(['isar-tarball', 'diff', first, second], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        yield from result.stdout.splitlines() or [f'isar-tarball diff: exit status {result.returncode}']


def attributes(path):
    """Everything that the inode at path says, but its number and the times that no archive keeps."""
    status = os.lstat(path)
    found = {
        'type': stat.filemode(status.st_mode)[0], 'mode': oct(stat.S_IMODE(status.st_mode)),
        'uid': status.st_uid, 'gid': status.st_gid, 'mtime': status.st_mtime_ns,
    }
    for name in os.listxattr(path, follow_symlinks=False):
        found[name] = os.getxattr(path, name, follow_symlinks=False).hex()
    if not stat.S_ISDIR(status.st_mode):
        found['links'] = status.st_nlink
    if stat.S_ISREG(status.st_mode):
        with open(path, 'rb') as file:
            found['content'] = hashlib.file_digest(file, 'sha256').hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        found['target'] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found['device'] = status.st_rdev
    return found


def tree(root):
    found = {'.': attributes(root)}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = attributes(path)
    return found


def compare_trees(first, second):
    first, second = tree(first), tree(second)
    for path in sorted(first.keys() | second.keys()):
        if path not in first or path not in second:
            yield f'{path}: only in the {"first" if path in first else "second"}'
            continue
        for name in sorted(first[path].keys() | second[path].keys()):
            values = first[path].get(name), second[path].get(name)
            if values[0] != values[1]:
                yield f'{path}: {name} {values[0]} and {values[1]}'


def partitions(image):
    """(name, offset, size) of each partition of a disk image, in bytes; of the whole file if it has none."""
    listing = subprocess.run(['sfdisk', '--json', image], capture_output=True, text=True)
    if listing.returncode != 0:
        return [('', 0, image.stat().st_size)]
    table = json.loads(listing.stdout)['partitiontable']
    unit = table.get('sectorsize', 512)
    return [(f'partition {number}', part['start'] * unit, part['size'] * unit)
            for number, part in enumerate(table['partitions'], 1)]


@contextlib.contextmanager
def opened(image, offset, size, place):
    """The file system in a partition of the image, below place. FAT is copied: not every kernel has it."""
    place.mkdir()
    probe = subprocess.run(['blkid', '--probe', '--offset', str(offset), '--size', str(size), '--match-tag', 'TYPE', '--output', 'value',
                            image], capture_output=True, text=True)
    if probe.stdout.strip() == 'vfat':
        subprocess.run(['mcopy', '-s', '-m', '-i', f'{image}@@{offset}', '::', place], check=True)
        yield place
        return
    subprocess.run(['mount', '--options', f'ro,loop,offset={offset},sizelimit={size}', image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(['umount', place], check=True)


def compare_images(first, second):
    parts = [partitions(image) for image in (first, second)]
    if parts[0] != parts[1]:
        yield f'partitions: {parts[0]} and {parts[1]}'
    for (name, *first_part), (_, *second_part) in zip(*parts):
        with tempfile.TemporaryDirectory() as work, \
                opened(first, *first_part, Path(work, '1')) as one, opened(second, *second_part, Path(work, '2')) as other:
            yield from (f'{name} {difference}' for difference in compare_trees(one, other))


KINDS = [
    (r'\.(wic|ext4|vfat)$', compare_images),
    (r'\.tar(\.\w+)?$', compare_archives),
    (r'\.json$', compare_json),
    (r'\.manifest$', compare_text),
    (r'', compare_files),
]


def deployed(directory):
    """Relative paths of the files that a build has made for its user, without copies of what the mirror has."""
    return {path.relative_to(directory) for part in ('images', 'schroot-*', 'sbom*', 'sdk*', 'bootstrap')
            for path in directory.glob(f'{part}/**/*') if path.is_file() and not path.is_symlink()}


def main():
    first, second = map(Path, sys.argv[1:])
    unexpected = 0
    names = sorted(deployed(first) | deployed(second))
    if not names:
        sys.exit(f'nothing is deployed in {first} and {second}')
    for name in names:
        if not (first / name).exists() or not (second / name).exists():
            differences = [f'only in {first if (first / name).exists() else second}']
        else:
            compare = next(compare for pattern, compare in KINDS if re.search(pattern, name.name))
            differences = list(compare(first / name, second / name))
        print(f'{"same" if not differences else "differs":8} {name}')
        reasons = {}
        for difference in differences:
            row = f'{name}: {difference}'
            reason = next((reason for pattern, reason in EXPECTED.items() if re.search(pattern, row)), None)
            reasons.setdefault(reason, []).append(difference)
        for reason, rows in reasons.items():
            print(f'         {len(rows)} {"unexpected" if reason is None else "expected: " + reason}')
            for row in rows[:200]:
                print(f'             {row}')
        unexpected += len(reasons.get(None, []))
    print(f'{unexpected} unexpected differences')
    return unexpected > 0


if __name__ == '__main__':
    sys.exit(main())
