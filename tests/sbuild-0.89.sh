#!/bin/bash
# Unpacks sbuild of Debian trixie beside the installed one, into /var/tmp/isar-tarball-tests/sbuild-0.89, and points it at its own sbuild-usernsexec.
# Its packages come through apt with a state of its own, so nothing of the machine changes. Run it with
#     PERL5LIB=DIR/usr/share/perl5 DIR/usr/bin/sbuild
set -euo pipefail

place=/var/tmp/isar-tarball-tests/sbuild-0.89
mirror=${MIRROR:-http://deb.debian.org/debian}

mkdir -p "${place%/*}"
chmod 0777 "${place%/*}"
exec 9>"$place.lock"
flock 9
[ ! -d "$place" ] || exit 0

work=$(mktemp -d /var/tmp/sbuild-0.89.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked"
: >"$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
apt=(
    apt-get --quiet
    --option Acquire::Retries=3
    --option Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    --option Acquire::Languages=none
    --option APT::Sandbox::User=root
    --option "Dir::Cache=$work/cache"
    --option "Dir::Etc::SourceList=$work/sources.list"
    --option Dir::Etc::SourceParts=/dev/null
    --option "Dir::State=$work"
    --option "Dir::State::Status=$work/status"
)
cd "$work"
"${apt[@]}" update
"${apt[@]}" download sbuild libsbuild-perl
for package in ./*.deb; do
    dpkg-deb --extract "$package" unpacked
done
sed --in-place "s,/usr/libexec/sbuild-usernsexec,$place&," unpacked/usr/share/perl5/Sbuild/ChrootUnshare.pm
grep --quiet "$place/usr/libexec/sbuild-usernsexec" unpacked/usr/share/perl5/Sbuild/ChrootUnshare.pm
chmod -R a+rX unpacked
mv unpacked "$place"
