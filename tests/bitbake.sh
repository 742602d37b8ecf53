#!/bin/bash
# Puts the modules of bitbake into /var/tmp/isar-tarball-tests/bitbake, where the tests of the bitbake class find them.
set -euo pipefail

place=/var/tmp/isar-tarball-tests/bitbake
wheel='bitbake-setup==2.19.0 --hash=sha256:b6ae77afc234d872f89938272317157f8553621467818825db7dbf70380bcdd2'

mkdir -p "${place%/*}"
chmod 0777 "${place%/*}"
exec 9>"$place.lock"
flock 9
[ ! -d "$place" ] || exit 0

work=$(mktemp -d /var/tmp/bitbake.XXXXXX)
trap 'rm -rf "$work"' EXIT
echo "$wheel" >"$work/requirements.txt"
python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes --requirement "$work/requirements.txt" --dest "$work"
python3 -m zipfile --extract "$work"/*.whl "$work/unpacked"
chmod -R a+rX "$work/unpacked"
mv "$work/unpacked" "$place"
