#!/bin/sh
# Runs in a machine of run.sh as root: `guest.sh matrix`, or `guest.sh cuts`. Results are lines on the console that start with "@".
# Every command of isar-tarball runs as the ordinary user builder.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
isar=/payload/isar-tarball
kernel=$(uname -r)

# The root file system is read-only.
start() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev 2>/dev/null
    for directory in /tmp /run /m /home/builder /var/lib/nfs; do
        mount -t tmpfs tmpfs $directory
    done
    chmod 1777 /tmp
    chown 1000:1000 /home/builder
    mkdir -p /dev/shm /run/lock
    # shellcheck disable=SC2154 # the kernel's command line sets it
    mount -t hostfs -o "$modules" hostfs /lib/modules
    for module in f2fs overlay nfsd nfsv4; do
        modprobe $module
    done
    ip link set lo up
}

as_builder() {
    setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/builder USER=builder "$@"
}

# Reports the status of a command and its first error line: run NAME COMMAND...
run() {
    name=$1
    shift
    as_builder "$@" >/tmp/out 2>/tmp/err </dev/null
    status=$?
    message=
    [ $status = 0 ] || message=$(grep -h -v -e '^$' -e '^ok ' -e '^warning ' /tmp/err /tmp/out | head -n 4 | cut -d: -f2- | tr '\n' ' ')
    echo "@row $kernel $fs $name $status $message"
}

# The commands with trees and archives on a file system: every_command FS DIRECTORY [TREES], in a directory that belongs to
# builder. The trees lie in the directory TREES of another file system if that is given.
every_command() {
    fs=$1
    cd "$2" || return
    trees=${3:-.}
    run doctor $isar doctor "$trees"
    grep '^warning ' /tmp/out | grep -v -E "^warning +(verdict|setuid)" | sed "s/^warning/@warning $kernel $fs/"
    run unpack $isar unpack -q /payload/chroot.tar.zst "$trees/tree"
    run pack $isar pack -q --threads 1 "$trees/tree" again.tar.zst
    [ ! -e again.tar.zst ] || echo "@sum $kernel $fs $(sha256sum again.tar.zst | cut -d' ' -f1)"
    run check $isar check again.tar.zst
    run info $isar info again.tar.zst
    run list $isar list again.tar.zst
    run diff $isar diff --mtime "$trees/tree" again.tar.zst
    run replace $isar unpack -q --replace again.tar.zst "$trees/tree"
    run merge $isar unpack -q --merge again.tar.zst "$trees/tree"
    run diff-again $isar diff --mtime "$trees/tree" again.tar.zst
    run reuse $isar pack -q --reuse again.tar.zst "$trees/tree" reused.tar.zst
    run same cmp again.tar.zst reused.tar.zst
    as_builder mkdir "$trees/ccache"
    run grant-acl $isar grant-acl --share "$trees/ccache"
    run export $isar export "$trees/tree" /etc/debian_version version
    run chroot $isar chroot "$trees/tree" -- cat /etc/debian_version
    run unshare $isar unshare -- chown 1:1 "$trees/tree/etc/debian_version"
    run imager-root $isar imager --root "$trees/work" again.tar.zst -- sh -c 'echo x >/etc/new && rm /etc/debian_version'
    run imager-cache $isar imager --cache "$trees/cache" again.tar.zst -- sh -c 'echo x >/etc/new && rm /etc/debian_version'
    run imager-cache-again $isar imager --cache "$trees/cache" again.tar.zst -- sh -c '[ ! -e /etc/new ] && [ -e /etc/debian_version ]'
    run remove-source $isar pack -q --remove-source "$trees/tree" again.tar.zst
    run remove $isar remove "$trees/tree" "$trees/cache"
    # shellcheck disable=SC2016 # the inner shell expands it
    run nothing-left sh -c '! ls -A . "$0" | grep -v -x -e "" -e ".*:" -e again.tar.zst -e ccache -e ".*reused.tar.zst.*" -e version' "$trees"
    cd /
}

own() {
    mkdir -p "$1/b"
    chown 1000:1000 "$1/b"
}

disk=/dev/ubdb

matrix() {
    for fs in ext4 xfs btrfs f2fs; do
        new_disk $fs || continue
        own "/m/$fs"
        every_command "$fs" "/m/$fs/b"
        umount "/m/$fs"
    done
    mkdir -p /m/tmpfs
    mount -t tmpfs -o size=1G tmpfs /m/tmpfs
    own /m/tmpfs
    every_command tmpfs /m/tmpfs/b
    umount /m/tmpfs
    new_disk ext4 || return
    overlay
    nfs
}

# Makes a file system on the disk and mounts it.
new_disk() {
    fs=$1
    mkdir -p "/m/$fs"
    case $fs in
        ext4) force=-F ;;
        *) force=-f ;;
    esac
    "mkfs.$fs" $force $disk >/tmp/mkfs 2>&1 && mount -t "$fs" $disk "/m/$fs" 2>/tmp/mkfs && return
    echo "@row $kernel $fs mount 1 $(tr '\n' ' ' </tmp/mkfs)"
    return 1
}

overlay() {
    mkdir -p /m/ext4/lower /m/ext4/upper /m/ext4/work /m/overlay
    mount -t overlay -o lowerdir=/m/ext4/lower,upperdir=/m/ext4/upper,workdir=/m/ext4/work overlay /m/overlay
    own /m/overlay
    every_command overlay /m/overlay/b
    umount /m/overlay
}

nfs() {
    mkdir -p /m/ext4/share /m/nfs /var/lib/nfs/v4recovery /run/rpcbind
    mount -t nfsd nfsd /proc/fs/nfsd
    {
        rpcbind
        exportfs -o rw,no_root_squash,no_subtree_check,fsid=0,insecure '*:/m/ext4/share'
        rpc.mountd
        rpc.nfsd --no-nfs-version 3 --grace-time 10 2
    } >/tmp/nfs 2>&1
    if timeout 60 mount -t nfs4 -o vers=4.2 127.0.0.1:/ /m/nfs >>/tmp/nfs 2>&1; then
        own /m/nfs
        own /m/ext4
        every_command nfs /m/nfs/b
        rm -rf /m/nfs/b/*
        every_command nfs-archives /m/nfs/b /m/ext4/b
    else
        echo "@row $kernel nfs mount 1 $(tr '\n' ' ' </tmp/nfs)"
    fi
}

# Power loss. Each job has a disk of its own; the kernel's command line names them in order: disks=JOB-FS,JOB-FS...
# A disk's job changes it all the time; the host kills the machine and starts it again; verify tells what the disk has.
# seed-a.tar and seed-b.tar are two small trees that differ in every file.

verdict() {
    echo "@cut $kernel $fs $job $*"
}

# The name of the tree that DIR equals: a, b, or neither. `diff` compares every byte and attribute.
tree_in() {
    : >"/tmp/verify-$job-$fs"
    for seed in a b; do
        if as_builder $isar diff --mtime "$1" /payload/seed-$seed.tar >>"/tmp/verify-$job-$fs" 2>&1; then
            echo $seed
            return
        fi
    done
    echo neither
}

# The same of an archive.
archive_in() {
    if ! as_builder $isar check -q "$1" >"/tmp/verify-$job-$fs" 2>&1; then
        echo neither
        return
    fi
    for seed in a b; do
        if cmp -s "$1" /payload/seed-$seed.tar.zst; then
            echo $seed
            return
        fi
    done
    echo neither
}

# What the disk has after a cut.
state() {
    case $job in
        pack) archive_in out.tar.zst ;;
        remove-source)
            if [ -e tree ] && [ "$(tree_in tree)" = neither ]; then
                echo neither
            elif [ -e out.tar.zst ]; then
                archive_in out.tar.zst
            elif [ -e tree ]; then
                tree_in tree
            else
                echo neither
            fi
            ;;
        replace | sync) tree_in tree ;;
        # A copy is used, or unpacked again.
        cache) change_to a >"/tmp/verify-$job-$fs" 2>&1 && echo a || echo neither ;;
    esac
}

# Whether the next run succeeds, leaves the new state and no other file.
next_run() {
    change_to a >"/tmp/verify-$job-$fs" 2>&1 || return
    case $job in
        pack) [ "$(archive_in out.tar.zst)" = a ] || return ;;
        remove-source | replace | sync) [ "$(tree_in tree)" = a ] || return ;;
    esac
    ls -A >"/tmp/verify-$job-$fs"
    ! grep --quiet --invert-match --line-regexp -e ready -e 'tree\(-[ab]\)\?' -e out.tar.zst -e cache "/tmp/verify-$job-$fs"
}

verify() {
    found=$(state)
    [ "$found" != neither ] || head -n 20 "/tmp/verify-$job-$fs"
    if next_run; then
        verdict "$found" next-run-succeeds
    else
        verdict "$found" next-run-fails
        head -n 20 "/tmp/verify-$job-$fs"
    fi
}

# What is there before the first cut.
prepare() {
    case $job in
        pack)
            as_builder $isar unpack -q /payload/seed-a.tar tree-a
            as_builder $isar unpack -q /payload/seed-b.tar tree-b
            cp /payload/seed-a.tar.zst out.tar.zst
            chown 1000:1000 out.tar.zst
            ;;
        remove-source | replace | sync) as_builder $isar unpack -q /payload/seed-a.tar tree ;;
    esac
    sync
    touch ready
    sync
}

# Changes what the disk has, until the host kills the machine.
change() {
    seed=a
    while true; do
        if [ $seed = a ]; then seed=b; else seed=a; fi
        if change_to $seed >"/tmp/change-$job-$fs" 2>&1; then
            echo "@changed $kernel $fs $job"
        else
            echo "@failed $kernel $fs $job $(head -n 1 "/tmp/change-$job-$fs")"
            sleep 1
        fi
    done
}

change_to() {
    case $job in
        pack) as_builder $isar pack -q "tree-$1" out.tar.zst ;;
        remove-source)
            { [ ! -e tree ] || as_builder $isar pack -q --remove-source tree out.tar.zst; } &&
                as_builder $isar unpack -q --sync "/payload/seed-$1.tar" tree &&
                rm -f out.tar.zst
            ;;
        replace) as_builder $isar unpack -q --replace "/payload/seed-$1.tar" tree ;;
        sync) as_builder $isar unpack -q --replace --sync "/payload/seed-$1.tar" tree ;;
        # The copies of both archives are used; one is unpacked anew each time. The command verifies its tree.
        cache)
            for copy in a b; do
                as_builder $isar imager --cache cache "/payload/seed-$copy.tar" -- \
                    /bin/sh -c "cd / && busybox sha256sum -c -s sums && [ \$(cat name) = $copy ]" || return
            done
            as_builder $isar remove -q cache
            ;;
    esac
}

cuts() {
    letters=bcdefghijklmnop
    # shellcheck disable=SC2154 # the kernel's command line sets it
    for disk in $(echo "$disks" | tr , ' '); do
        device=/dev/ubd$(echo "$letters" | cut -c1)
        letters=${letters#?}
        job=${disk%-*}
        fs=${disk##*-}
        mkdir -p "/m/$disk"
        if ! mount -t "$fs" "$device" "/m/$disk"; then
            verdict no-mount
            continue
        fi
        own "/m/$disk"
        cd "/m/$disk/b" || continue
        if [ -e ready ]; then
            verify
        else
            prepare
        fi
    done
    echo "@running"
    for directory in /m/*-*/b; do
        disk=${directory%/b}
        disk=${disk##*/}
        job=${disk%-*}
        fs=${disk##*-}
        (cd "$directory" && change) &
    done
    wait
}

start
"$1"
echo "@end"
echo o >/proc/sysrq-trigger
sleep 60
