#!/usr/bin/env bash
# Runs inside new namespaces, as their first process: the parts of a running system that Python needs, then the checks.
# usage: enter.sh ROOT EMULATED_CPU [WORD...]     WORDs: for the checks
set -euo pipefail
root=$1 cpu=$2
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/shm"
for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
  mknod -m 666 "$root/dev/${node% *}" c 1 "${node#* }"
done
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up
exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8 QEMU_CPU="$cpu" PYTHONDONTWRITEBYTECODE=1 \
  bash /srv/check/all.sh "${@:3}"
