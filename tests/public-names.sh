#!/bin/bash
# Compares the public names of the library with tests/public-names.txt, so that a change of the
# interface shows in review. With --update, writes the file anew.
set -euo pipefail
cd "$(dirname "$0")/.."

names() {
    cargo doc --locked --no-deps --lib --quiet
    # One link for each item: <a href="struct.Pack.html">Pack</a>
    grep -o '<a href="[a-z]*\.[A-Za-z_:/.]*html">[^<]*</a>' "${CARGO_TARGET_DIR:-target}/doc/isar_tarball/all.html" |
        sed 's|<a href="\([a-z]*\)\..*html">\(.*\)</a>|\1 \2|' | LC_ALL=C sort
}

case ${1:-} in
    --update) names >tests/public-names.txt ;;
    '') diff --unified tests/public-names.txt <(names) || {
        echo 'The public names have changed. If that is intended: tests/public-names.sh --update'
        exit 1
    } ;;
    *) echo "usage: $0 [--update]" >&2; exit 2 ;;
esac
