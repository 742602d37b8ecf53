#!/bin/bash
# Tries isar-tarball on other kernels and cuts the power of machines, in user-mode Linux. It is run by hand, as root:
#     tests/machines/run.sh matrix           every command, on four kernels and seven file systems: a Markdown table
#     tests/machines/run.sh cuts [ROUNDS]    power cuts at random moments (20), on ext4, xfs and btrfs: a Markdown table
# It needs the packages mmdebstrap, busybox-static, e2fsprogs, xfsprogs and btrfs-progs. README.md has more.
# ISAR_TARBALL names the program (default: target/release/isar-tarball), SUITES the kernels of the matrix (default: bullseye
# bookworm trixie sid), SUITE the kernel of the cuts (default: bookworm), FILE_SYSTEMS and JOBS what is cut, and LIMIT the
# seconds that a machine may take for the matrix or to start. A cut comes within SPAN seconds (15).
# It keeps the kernels, the user space and the console output in PLACE (default: /var/tmp/isar-tarball-machines).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "${ISAR_TARBALL:-$here/../../target/release/isar-tarball}")
place=${PLACE:-/var/tmp/isar-tarball-machines}
suite=${SUITE:-bookworm}

mkdir -p "$place"
work=$(mktemp -d "$place/run.XXXXXX")
machine=
trap 'power_off; rm -rf "$work"' EXIT

# Starts a machine: start SUITE JOB [OPTION...]. It runs in a process namespace, so one kill ends all of its processes.
start() {
    local kernel=$1 job=$2
    shift 2
    rm -f "$work/console"
    # The kernels of newer suites need a newer C library, so each runs with its own.
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --pid --fork sh -c 'mount --bind "$0/lib" /lib/x86_64-linux-gnu && exec "$0/linux.uml" "$@"' \
        "$place/$kernel" mem=1536M "uml_dir=$work" con=null con0=fd:0,fd:1 quiet panic=-1 root=/dev/ubda ro init=/init "ubd0r=$place/root.img" \
        "payload=$work/payload" "modules=$place/$kernel/modules" "job=$job" "$@" </dev/null >"$work/console" 2>&1 &
    machine=$!
}

# Waits until the machine has printed a line, or has ended: await LINE SECONDS
await() {
    local line=$1 left=$(($2 * 10))
    until grep --quiet "^$line" "$work/console" 2>/dev/null; do
        left=$((left - 1))
        if [ $left -le 0 ] || ! kill -0 "$machine" 2>/dev/null; then
            tail -n 20 "$work/console" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Kills the first process of the machine's namespace, and so all others.
power_off() {
    local first
    [ -n "$machine" ] || return 0
    first=$(<"/proc/$machine/task/$machine/children") || true
    # shellcheck disable=SC2086 # the file ends with a space
    kill -KILL $first 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    machine=
}

results() {
    tr -d '\r' <"$work/console" | grep --text "$@" >>"$work/results" || true
}

matrix() {
    local tree=$work/chroot kernel
    local small=(--exclude /usr/share --exclude /usr/sbin --exclude /usr/lib/locale --exclude '/usr/bin/perl*'
        --exclude '/usr/lib/x86_64-linux-gnu/gconv' --exclude '/usr/lib/x86_64-linux-gnu/perl-base' --exclude '/var/lib/dpkg/info')
    # The archive is made here, so the machines have to make the same one.
    mkdir -p "$tree"
    "$program" --userns off unpack -q "${small[@]}" "$place/chroot.tar" "$tree"
    "$program" --userns off pack -q "$tree" "$work/payload/chroot.tar.zst"
    echo "@sum host $(sha256sum "$work/payload/chroot.tar.zst" | cut -d' ' -f1)" >"$work/results"
    rm -rf "$tree"
    for kernel in ${SUITES:-bullseye bookworm trixie sid}; do
        echo "$kernel" >&2
        rm -f "$work/scratch"
        truncate --size 3G "$work/scratch"
        start "$kernel" matrix "ubd1=$work/scratch"
        await @end "${LIMIT:-1800}" || echo "$kernel did not end" >&2
        power_off
        cp "$work/console" "$place/console.$kernel"
        results '^@'
    done
    cp "$work/results" "$place/matrix.results"
    python3 "$here/table.py" matrix "$work/results"
}

# Makes a small tree. Every file differs between the seeds, and the file `sums` has the checksums of the others.
seed() {
    local tree=$work/seed-$1 number
    mkdir -p "$tree"/{bin,data,dev,proc,sys,tmp,etc,run}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    ln -s busybox "$tree/bin/sh"
    echo "$1" >"$tree/name"
    for number in {1..100}; do
        for _ in {1..40}; do echo "$1 $number"; done >"$tree/data/$number"
    done
    head -c 1M < <(yes "$1") >"$tree/data/large"
    (cd "$tree" && find bin/busybox data -type f -exec sha256sum {} + >sums)
    "$program" --userns off pack -q "$tree" "$work/payload/seed-$1.tar"
    "$program" --userns off pack -q "$tree" "$work/payload/seed-$1.tar.zst"
}

cuts() {
    local rounds=$1 round job fs names options
    seed a
    seed b
    : >"$work/results"
    rm -f "$place/console.cuts"
    # A machine for each file system runs all jobs at once, each on a disk of its own.
    for fs in ${FILE_SYSTEMS:-ext4 xfs btrfs}; do
        names=()
        options=()
        for job in ${JOBS:-pack remove-source replace sync cache}; do
            names+=("$job-$fs")
            options+=("ubd${#names[@]}=$work/$job-$fs.disk")
            truncate --size 512M "$work/$job-$fs.disk"
            "mkfs.$fs" -q "$work/$job-$fs.disk" >/dev/null
        done
        # The first start prepares the disks.
        for ((round = 0; round <= rounds; round++)); do
            start "$suite" cuts "${options[@]}" "disks=$(IFS=, && echo "${names[*]}")"
            await @running "${LIMIT:-300}"
            results '^@cut'
            sleep "$((RANDOM % ${SPAN:-15})).$((RANDOM % 10))$((RANDOM % 10))"
            power_off
            results -e '^@changed' -e '^@failed'
            cat "$work/console" >>"$place/console.cuts"
            cp "$work/results" "$place/cuts.results"
            echo "$fs $round: $(grep --count -e neither -e fails -e no-mount "$work/results" || true) findings" >&2
        done
        rm "$work"/*.disk
    done
    python3 "$here/table.py" cuts "$work/results"
}

case ${1:-} in
    matrix | cuts) ;;
    *)
        sed --quiet '2,/^set/s/^# //p' "$0" >&2
        exit 2
        ;;
esac
"$here/prepare.sh" "$place"
mkdir "$work/payload"
cp "$program" "$work/payload/isar-tarball"
cp "$here/guest.sh" "$work/payload/"
case $1 in
    matrix) matrix ;;
    cuts) cuts "${2:-20}" ;;
esac
