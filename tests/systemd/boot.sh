#!/bin/bash
# PID 1 to be: makes a root of its own over another, read-through and thrown away afterwards, and becomes systemd.
# Started by machine.py inside new pid, mount, uts, ipc and cgroup namespaces.
# usage: boot.sh WORK ROOT [CONTROLLER...] [-- FOLDER...]
#   ROOT         /, that of this machine, or one made by debootstrap
#   CONTROLLER   cgroup v1 hierarchies to hand to systemd besides the unified one
#   FOLDER       of this machine, shown in a ROOT that lacks it; what is written there is thrown away too
# /tmp and /var/tmp begin empty: what lies in this machine's is nothing to build on
set -euo pipefail
work=$1 lower=$2
shift 2
controllers=() shown=()
while [ $# -gt 0 ]; do
  if [ "$1" = -- ]; then shown=("${@:2}"); break; fi
  controllers+=("$1")
  shift
done
set -- "${controllers[@]}"
mount --make-rprivate /
mount -t tmpfs -o size=6g,mode=755 tmpfs "$work"
mkdir "$work"/{upper,work,root}
mount -t overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
for folder in /tmp /var/tmp; do
  layer=$work/own/${folder//\//_}
  mkdir -p "$layer" "$work/root$folder"
  chmod 1777 "$layer"
  mount --bind "$layer" "$work/root$folder"
done
for folder in "${shown[@]}"; do
  layer=$work/shown/${folder//\//_}
  mkdir -p "$layer"/{upper,work} "$work/root$folder"
  mount -t overlay -o "lowerdir=$folder,upperdir=$layer/upper,workdir=$layer/work" overlay "$work/root$folder"
done
cd "$work/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  read -r name major minor <<<"$node"
  mknod -m 666 "dev/$name" c "$major" "$minor"
done
# two devices outside systemd's own list, one under the name of a Jetson's: the unit may open only that
mknod -m 666 dev/kmsg c 1 11
mknod -m 666 dev/nvmap c 1 11
mknod -m 666 dev/port c 1 4
ln -s /proc/self/fd dev/fd

if [ $# = 0 ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/{unified,systemd}
  mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  for controller in "$@"; do
    mkdir "sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
  done
fi

rm -rf etc/systemd/system etc/systemd/user var/log/journal
mkdir -p etc/systemd/system
for unit in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service \
  systemd-logind.service systemd-networkd.service systemd-timesyncd.service systemd-resolved.service \
  systemd-modules-load.service systemd-sysctl.service systemd-binfmt.service systemd-random-seed.service \
  systemd-remount-fs.service systemd-update-utmp.service systemd-tmpfiles-setup-dev.service proc-sys-fs-binfmt_misc.automount \
  sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount; do
  ln -s /dev/null "etc/systemd/system/$unit"
done
printf '[Unit]\nDescription=Test\nRequires=basic.target\nAfter=basic.target\n' >etc/systemd/system/ci.target
: >etc/fstab
# or systemd empties /tmp, where this checkout or the bundle may lie
mkdir -p etc/tmpfiles.d
ln -sf /dev/null etc/tmpfiles.d/tmp.conf
{ head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo; } >etc/machine-id
hostname hobbit-test
ip link set lo up 2>/dev/null || true
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=unshare PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=ci.target --log-target=journal --show-status=no
