#!/bin/bash
# Unpacks sbuild of Debian trixie beside the installed one, into /var/tmp/isar-tarball-tests/sbuild-0.89, and points it at its own sbuild-usernsexec.
# Run it with
#     PERL5LIB=DIR/usr/share/perl5 DIR/usr/bin/sbuild
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
place=/var/tmp/isar-tarball-tests/sbuild-0.89

mkdir -p "${place%/*}"
chmod 0777 "${place%/*}"
exec 9>"$place.lock"
flock 9
[ ! -d "$place" ] || exit 0

work=$(mktemp -d /var/tmp/sbuild-0.89.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$here/unpack-packages.sh" trixie "$work/unpacked" sbuild libsbuild-perl
cd "$work"
sed --in-place "s,/usr/libexec/sbuild-usernsexec,$place&," unpacked/usr/share/perl5/Sbuild/ChrootUnshare.pm
grep --quiet "$place/usr/libexec/sbuild-usernsexec" unpacked/usr/share/perl5/Sbuild/ChrootUnshare.pm
chmod -R a+rX unpacked
mv unpacked "$place"
