#!/bin/bash
# Builds images of an isar checkout without root, with the class of fixtures/isar and with isar's own shell, and compares the results:
#     tests/isar.sh ISAR_DIR [TARGET...]
# A TARGET is what bitbake builds; by default mc:qemuamd64-CODENAME:isar-image-base with the release of this machine.
#
# Needs root, a mirror that apt knows, and some 20 GB in /var/tmp. Both builds run as an ordinary user in a Debian system of their own,
# so nothing of the machine changes but for mmdebstrap, which is installed if it is missing. A second run continues
# the builds and adds to the recorded programs in *.calls: remove these after a change of the class.
#
#   BUILDER=trixie     release of the system that builds; with bookworm, whose unshare isar's own shell can't use, the class alone
#   BUILDS=...         builds to run and compare: "class shell" (default, with bookworm "class") or one of them
#   PROGRAM=FILE       the isar-tarball to test, by default built from this checkout
#   DOWNLOADS=DIR      bitbake's DL_DIR, with the sources that this machine can't fetch
#   LOCAL_CONF=FILE    more lines for local.conf of both builds
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
isar=$(readlink -f "${1:?"which isar checkout? usage: tests/isar.sh ISAR_DIR [TARGET...]"}")
targets=("${@:2}")
release=${BUILDER:-trixie}
possible=(class shell)
[ "$release" != bookworm ] || possible=(class)
read -ra builds <<<"${BUILDS:-${possible[*]}}"
if [[ "${builds[*]}" = *shell* && "${possible[*]}" = class ]]; then
    echo "with BUILDER=bookworm only BUILDS=class can run: isar's own shell needs a newer unshare" >&2
    exit 2
fi

place=/var/tmp/isar-tarball-tests/isar
root=$place/$release      # the system that builds
home=$place/home-$release # /home/builder in it

PACKAGES=(
    # what isar's manual names
    acl apt-utils arch-test bubblewrap bzip2 dpkg-dev gettext-base git git-buildpackage mmdebstrap pristine-tar python3 quilt
    reprepro sbuild uidmap unzip wget xz-utils zstd
    # what a minimal system lacks
    ca-certificates cpio e2fsprogs fdisk locales mount mtools procps python3-apt python3-debian sudo
)
# Programs that the class does without. Each start is recorded.
RECORDED=(setfacl sudo tar unshare zstd)
# Starts that do not come from isar's functions: those by bitbake itself, for signatures, sstate and unpacking, and those by dpkg,
# mmdebstrap and sbuild.
OTHERS=' ((tar|zstd)(<another pid namespace)?|tar<sh|tar<run\.sstate.*|.*<(dpkg-deb|dpkg-source|mmdebstrap|sbuild)(<.*)?)$'

[ "$release" != bookworm ] || PACKAGES+=(python3-distutils)

section() {
    printf '\n== %s\n' "$*"
}

# repository LABEL: the first one of apt's with this label ("Debian", "Debian-Security"), else Debian's own.
repository() {
    local uri
    # shellcheck disable=SC2016 # apt-get expands it
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Label: $1" | sed -n '1s,/*$,,p')
    echo "${uri:-http://deb.debian.org/${1,,}}"
}

# The lines of local.conf that tell isar about mirrors other than Debian's own.
premirrors() {
    local label own other
    for label in Debian Debian-Security; do
        own=http://deb.debian.org/${label,,} other=$(repository "$label")
        [ "$own" = "$other" ] || printf 'DISTRO_APT_PREMIRRORS:append = "^%s$ %s\\n"\n' "$own" "$other"
    done
}

# inside [--root] COMMAND...: runs the command in the system that builds, as the ordinary user. A mere chroot won't do: the kernel
# refuses user namespaces in one.
inside() {
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount --pid --fork --kill-child /bin/bash -ec '
        root=$1 home=$2
        shift 2
        mount --make-rprivate /
        mount --rbind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount --types proc proc "$root/proc"
        mount --bind "$home" "$root/home/builder"
        cd "$root"
        pivot_root . mnt
        umount --lazy /mnt
        cd /home/builder
        [ "$1" = --root ] && shift || set -- setpriv --reuid builder --regid builder --init-groups "$@"
        exec env --ignore-environment HOME=/home/builder USER=builder LANG=en_US.UTF-8 \
            PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@"
    ' inside "$root" "$home" "$@"
}

make_system() {
    [ ! -d "$root" ] || return 0
    command -v mmdebstrap >/dev/null || apt-get --quiet --yes install mmdebstrap
    local sources=("deb $(repository Debian) $release main") options=()
    if [ "$release" != bookworm ]; then
        # isar's rootfs_cmd binds to /bin, which is a symlink, and bubblewrap 0.12 refuses that.
        sources+=("deb $(repository Debian) bookworm main")
        # shellcheck disable=SC2016 # mmdebstrap's shell expands it
        options+=(--setup-hook='printf "Package: %s\nPin: release n=bookworm\nPin-Priority: %s\n\n" bubblewrap 1001 "*" -1 \
            >"$1/etc/apt/preferences.d/bookworm"')
    fi
    mkdir -p "$place"
    apt-config dump Acquire | grep --ignore-case -e proxy -e '::check-' >"$place/apt.conf" || true
    rm -rf "$root.new"
    printf '%s\n' "${sources[@]}" |
        mmdebstrap --variant=apt --include="$(IFS=,; echo "${PACKAGES[*]}")" --aptopt='APT::Install-Recommends "false"' \
            --aptopt="$place/apt.conf" "${options[@]}" "$release" "$root.new" -
    echo 'en_US.UTF-8 UTF-8' >"$root.new/etc/locale.gen"
    chroot "$root.new" locale-gen
    chroot "$root.new" useradd --uid 2000 --create-home --shell /bin/bash builder
    echo builder:1000000:65536 | tee "$root.new/etc/subuid" >"$root.new/etc/subgid"
    local program
    for program in "${RECORDED[@]}"; do
        mv "$root.new/usr/bin/$program" "$root.new/usr/bin/$program.real"
        cp "$here/isar/record-call" "$root.new/usr/bin/$program"
    done
    mv "$root.new" "$root"
}

# What may differ from run to run: the program, the class, isar, the settings.
prepare() {
    local program=${PROGRAM:-$here/../target/release/isar-tarball}
    [ -n "${PROGRAM:-}" ] || (cd "$here/.." && cargo build --locked --release)
    install "$program" "$root/usr/bin/isar-tarball"
    install -D --mode=644 --target-directory="$root/usr/share/isar-tarball/classes" "$here"/../fixtures/isar/*.bbclass
    install "$here"/isar/*.py "$root/usr/local/bin"
    cp /etc/resolv.conf /etc/hosts "$root/etc"
    mkdir -p "$home/downloads"
    rm -rf "$home/isar"
    cp --archive "$isar" "$home/isar"
    [ -z "${DOWNLOADS:-}" ] || cp --archive --update "$DOWNLOADS/." "$home/downloads"
    cat - ${LOCAL_CONF:+"$LOCAL_CONF"} >"$home/shell.conf" <<EOF
ISAR_ROOTLESS = "1"
BBMULTICONFIG = "$(printf '%s\n' "${targets[@]}" | sed -n 's/^mc:\([^:]*\):.*/\1/p' | sort -u | tr '\n' ' ')"
USE_CCACHE = "1"
USE_BUILDSTATS = "1"
CCACHE_TOP_DIR = "\${TOPDIR}/ccache"
DL_DIR = "/home/builder/downloads"
$(premirrors)
EOF
    { cat "$home/shell.conf"; printf '%s\n' 'BBPATH .= ":/usr/share/isar-tarball"' 'INHERIT += "isar-tarball"'; } >"$home/class.conf"
    chown --recursive 2000:2000 "$home/isar" "$home/downloads"
    chown 2000:2000 "$home"
}

# build NAME: in /home/builder/NAME, with NAME.conf in local.conf; the output in NAME.log. Started programs go to NAME.calls.
build() {
    : >"$root/var/log/calls"
    chmod 666 "$root/var/log/calls"
    local status=0
    # shellcheck disable=SC2016
    inside bash -c '
        umask 022
        name=$1
        shift
        cd ~/isar
        . ./isar-init-build-env ~/"$name" >/dev/null
        settings="require /home/builder/$name.conf"
        grep --quiet --fixed-strings "$settings" conf/local.conf || echo "$settings" >>conf/local.conf
        exec bitbake "$@"
    ' build "$1" "${targets[@]}" </dev/null >"$home/$1.log" 2>&1 || status=$?
    cat "$root/var/log/calls" >>"$home/$1.calls"
    [ "$status" = 0 ] || grep --max-count=20 -e ERROR -e 'No space' "$home/$1.log" || tail "$home/$1.log"
    return "$status"
}

# started NAME: the processes that a build has started: how many, and by whom, from the nearest parent on. The last one of the chain is
# the recipe's task, in which bitbake itself works.
started() {
    sed 's/: .*//; /another pid/!s/<[^<]*$//' "$home/$1.calls" | sort | uniq --count | sort --numeric-sort --reverse
}

# called NAME: the lines of the scripts that bitbake ran for a build in which such a program is called.
called() {
    find "$home/$1/tmp/work" -path '*/temp/run.*' -type f -print0 |
        xargs --null grep --no-filename --extended-regexp \
            "(^|[|;&(\`]|-- |then |do |else )\s*(exec )?($(IFS='|'; echo "${RECORDED[*]}"))( |$)" |
        sed 's/^\s*//; s,/home/builder/\S*,PATH,g' | sort | uniq --count | sort --numeric-sort --reverse
}

[ "$(id -u)" = 0 ] || { echo "tests/isar.sh: needs root" >&2; exit 1; }
if [ "${#targets[@]}" = 0 ]; then
    targets=("mc:qemuamd64-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release):isar-image-base")
fi
section "a system that builds: Debian $release"
make_system
prepare
for name in "${builds[@]}"; do
    section "${targets[*]}: $name"
    begin=$SECONDS
    build "$name"
    echo "$((SECONDS - begin)) s"
done
for name in "${builds[@]}"; do
    section "programs: $name"
    printf '%s\n' 'calls in scripts:' "$(called "$name")" 'started processes:' "$(started "$name")"
done
status=0
if [[ " ${builds[*]} " = *' class '* ]] && [ ! -s "$home/class.calls" ]; then
    echo 'no started program was recorded' >&2
    status=1
fi
if [[ " ${builds[*]} " = *' class '* ]] && started class | grep --extended-regexp --invert-match "$OTHERS"; then
    echo 'unexpected: the class does without these'
    status=1
fi
section 'times'
inside times.py "${builds[@]}"
[ "${#builds[@]}" = 2 ] || exit "$status"
section 'differences'
inside --root compare.py class/tmp/deploy shell/tmp/deploy || status=1
exit "$status"
