#!/bin/bash
# Downloads packages of a Debian suite and unpacks them into the directory DIR:
#     unpack-packages.sh SUITE DIR PACKAGE...
# They come through apt with a state of its own, so nothing of the machine changes. MIRROR names another mirror.
set -euo pipefail

suite=$1
mkdir -p "$2"
directory=$(realpath "$2")
shift 2

state=$(mktemp -d /var/tmp/unpack-packages.XXXXXX)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/packages"
: >"$state/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${MIRROR:-http://deb.debian.org/debian} $suite main" >"$state/sources.list"
apt=(
    apt-get --quiet
    --option Acquire::Retries=3
    --option Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    --option Acquire::Languages=none
    --option APT::Sandbox::User=root
    --option "Dir::Cache=$state/cache"
    --option "Dir::Etc::SourceList=$state/sources.list"
    --option Dir::Etc::SourceParts=/dev/null
    --option "Dir::State=$state"
    --option "Dir::State::Status=$state/status"
)
cd "$state/packages"
"${apt[@]}" update
"${apt[@]}" download "$@"
for package in ./*.deb; do
    dpkg-deb --extract "$package" "$directory"
done
