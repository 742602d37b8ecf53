#!/bin/bash
# All checks and tests. Does its own set-up on a Debian machine that has a Rust toolchain: packages by apt-get, a test user, sbuild of the next release.
# Root, or a user that may sudo: the end-to-end tests start as root, make an ordinary user and act as it.
#
# CI=true: a test that cannot run here is a failure instead of a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(
    # to build
    build-essential libacl1-dev
    # what the tool is made for, and what it is compared with
    mmdebstrap sbuild uidmap debian-archive-keyring dpkg-dev
    acl attr libcap2-bin tar libarchive-tools zstd xz-utils gzip bzip2 python3 python3-pip
    # for the scripts themselves
    e2fsprogs iproute2 procps shellcheck util-linux
    # shells, for their completions
    bash fish zsh
)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# section NAME COMMAND...: runs the command, says how long it took, and stops when it fails.
section() {
    local name=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if ! "$@"; then
        printf '== %s: FAILED after %d s\n' "$name" "$((SECONDS - begin))"
        exit 1
    fi
    printf '== %s: %d s\n' "$name" "$((SECONDS - begin))"
}

install_packages() {
    local package missing=()
    for package in "${PACKAGES[@]}"; do
        dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    as_root apt-get --quiet --option Acquire::Retries=3 update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --option Acquire::Retries=3 \
            install --no-install-recommends "${missing[@]}"
}

install_rust_components() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        [ "$component" = fmt ] && component=rustfmt
        rustup component add "$component" || return
    done
}

# The tests run as root, the build does not unless all of this does: no file of another user in target/.
as_root_runner=()
if [ "$(id -u)" != 0 ]; then
    as_root_runner=(--config "target.'cfg(all())'.runner = ['sudo', 'env', 'CI=${CI:-}']")
    # An unset variable and an empty one are different things to the tests.
    [ -n "${CI:-}" ] || as_root_runner=(--config "target.'cfg(all())'.runner = ['sudo']")
fi

# Built twice, to the same bytes.
build_package() {
    local first
    first=$(fixtures/deb.sh >&2 && sha256sum target/debian/*.deb) && fixtures/deb.sh && sha256sum --check <<<"$first"
}

# The oldest toolchain that Cargo.toml promises. It only checks, so nothing is optimised.
check_oldest_rust() {
    local version
    version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    if ! rustup toolchain install --profile minimal --no-self-update "$version"; then
        echo "SKIPPED: Rust $version cannot be had here; clippy's incompatible_msrv has looked all the same"
        return
    fi
    cargo "+$version" check --locked --target-dir target/oldest-rust --config 'profile.dev.package."*".opt-level=0'
}

check_scripts() {
    find tests fixtures -name '*.sh' -exec shellcheck .ci/run {} +
}

section 'packages' install_packages
section 'rustfmt and clippy' install_rust_components
section 'sbuild 0.89' as_root tests/sbuild-0.89.sh
section 'bitbake' as_root tests/bitbake.sh
section 'shell scripts' check_scripts
section 'format' cargo fmt --check
section 'clippy' cargo clippy --locked --all-targets -- --deny warnings
section 'clippy, the library alone' cargo clippy --locked --lib --examples --no-default-features -- --deny warnings
section 'oldest Rust' check_oldest_rust
section 'build' cargo test --locked --no-run
section 'Debian package' build_package
section 'unit tests' cargo test --locked --lib --bins --quiet
section 'end-to-end tests' cargo test --locked --test suite --quiet "${as_root_runner[@]}"
section 'examples in the documentation' cargo test --locked --doc --quiet
section 'public names' tests/public-names.sh
section 'documentation' env RUSTDOCFLAGS='--deny warnings' cargo doc --locked --no-deps --quiet
printf '\n== all passed in %d s\n' "$SECONDS"
