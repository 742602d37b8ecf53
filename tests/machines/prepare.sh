#!/bin/bash
# Prepares what the machines need in the directory PLACE: four kernels and one bookworm user space.
#     prepare.sh PLACE
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
place=$1
mirror=${MIRROR:-http://deb.debian.org/debian}
mkdir -p "$place"
cd "$place"

# User-mode Linux of a suite: SUITE/linux.uml, SUITE/lib (the C library that it needs) and SUITE/modules.
kernel() {
    local suite=$1 work=$PWD/$1.part
    [ ! -d "$suite" ] || return 0
    rm -rf "$work"
    "$here/../unpack-packages.sh" "$suite" "$work/package" user-mode-linux libc6
    mv "$work/package/usr/bin/linux.uml" "$work/package/usr/lib/uml/modules" "$work/"
    mkdir "$work/lib"
    find "$work/package" -path '*/x86_64-linux-gnu/*.so*' ! -path '*/gconv/*' -exec cp --no-dereference {} "$work/lib/" \;
    rm -rf "$work/package"
    mv "$work" "$suite"
}

# root.img: the user space that all machines mount read-only. Its /init mounts the directory of the host that the kernel's
# command line names, and runs guest.sh.
user_space() {
    [ ! -e root.img ] || return 0
    cat >init <<'INIT'
#!/bin/sh
mount -t hostfs -o "$payload" hostfs /payload
exec sh /payload/guest.sh "$job" >/dev/console 2>&1
INIT
    chmod 0755 init
    # shellcheck disable=SC2016 # mmdebstrap expands $1
    mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include=uidmap,acl,sbuild,mmdebstrap,e2fsprogs,xfsprogs,btrfs-progs,f2fs-tools,kmod,iproute2,nfs-kernel-server,nfs-common,busybox-static \
        --customize-hook='echo "builder:x:1000:1000::/home/builder:/bin/sh" >>"$1/etc/passwd"' \
        --customize-hook='echo "builder:x:1000:" >>"$1/etc/group"' \
        --customize-hook='echo "builder:100000:65536" | tee "$1/etc/subuid" >"$1/etc/subgid"' \
        --customize-hook='mkdir -p "$1/home/builder" "$1/payload" "$1/m" "$1/lib/modules"' \
        --customize-hook='copy-in init /' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' \
        bookworm root.tar "$mirror"
    rm -rf root root.part
    mkdir root
    tar --extract --preserve-permissions --numeric-owner --file root.tar --directory root
    mke2fs -q -t ext4 -O ^has_journal -d root root.part 1500M
    rm -rf root root.tar init
    mv root.part root.img
}

# chroot.tar: the chroot that the machines pack.
chroot_tree() {
    [ ! -e chroot.tar ] || return 0
    mmdebstrap --quiet --variant=essential --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm chroot.new.tar "$mirror"
    mv chroot.new.tar chroot.tar
}

for suite in bullseye bookworm trixie sid; do
    kernel "$suite"
done
chroot_tree
user_space
