#!/usr/bin/env bash
# Installs the packages of `make deb` with apt into a fresh root of the release they are for, made by debootstrap; then, without
# a network, runs tests/installed/inside.py with what is installed; then removes and purges: nothing may be left. No systemd
# runs there: tests/systemd/test_debian_package.py sees the service. The other architecture is emulated.
# usage: release.sh SUITE:ARCH DIR     exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
suite=${1%:*} arch=${1#*:} packages=$2

not_run() {
  echo "deb-release-check: NOT RUN: $1. The packages for $suite on $arch were NOT installed." >&2
  exit 2
}
[ "$(id -u)" = 0 ] || not_run "not root"
command -v debootstrap >/dev/null || not_run "debootstrap is missing (apt-get install debootstrap)"
unshare --net --mount --pid --fork true 2>/dev/null || not_run "no namespaces here"
case $suite:$arch in
  bookworm:* | trixie:*) mirror=http://deb.debian.org/debian ;;
  *:amd64) mirror=http://archive.ubuntu.com/ubuntu ;;
  *) mirror=http://ports.ubuntu.com/ubuntu-ports ;;
esac
curl --silent --fail --output /dev/null --max-time 20 "$mirror/dists/$suite/Release" || not_run "$mirror cannot be reached"
python=${PYTHON:-$repo/.venv/bin/python}
version=$("$python" "$repo/tools/release/common.py")
debs=("$packages"/hobbit-edge{,-export}_"$version-1.${suite}1_$arch.deb")
for deb in "${debs[@]}"; do [ -e "$deb" ] || not_run "$deb is not there (make deb)"; done
"$python" "$repo/tools/release/fresh.py" "${debs[@]}"
most=$(cd "$repo/tools/release" && "$python" -c 'import common; print(common.MOST_BYTES)')

# shellcheck source=tests/installed/emulation.sh
. "$repo/tests/installed/emulation.sh"
# shellcheck source=tests/installed/fresh.sh
. "$repo/tests/installed/fresh.sh"
work=$(mktemp -d)
root=$work/root
finish() {
  stop_emulating
  rm -rf "$work"
}
trap finish EXIT
cpu='' there=()
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
  emulate "$work/binfmt" || not_run "$lacks"
  cpu=cortex-a76 there=(--isa neon-dotprod --reads threads)
fi

echo "deb-release-check: a root of $suite for $arch"
fresh_root "$suite" "$arch" "$root" "$mirror"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
mkdir "$root/srv/check"
cp -r "${debs[@]}" "$repo"/tests/installed/{inside,kernels}.py "$repo/examples/tiny-moe" "$root/srv/check/"
"$python" "$repo/tests/installed/expected.py" "$root/srv/check/model" "${there[@]}" >"$root/srv/check/expected.json"
cat >"$root/srv/check/files.sh" <<'INSIDE'
cd / && find etc opt usr var -xdev \( -path var/lib/dpkg -o -path var/lib/apt -o -path var/cache -o -path var/log \
  -o -path 'var/lib/systemd/*' ! -path 'var/lib/systemd/deb-systemd-helper-*' \) -prune -o -print |
  grep -v -e '^etc/passwd-$' -e '^etc/group-$' -e '^etc/g*shadow-$' -e '^etc/.pwd.lock$' -e __pycache__ | LC_ALL=C sort
INSIDE
# a group render that nobody is in may stay where there was none: the system's name for who may use a GPU (operations.md)
cat >"$root/srv/check/accounts.sh" <<'INSIDE'
{ getent passwd; getent group; } | grep -v '^render:x:[0-9]*:$' | LC_ALL=C sort
INSIDE
# usage: all.sh BYTES     what the program may take
cat >"$root/srv/check/all.sh" <<'INSIDE'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
ulimit -c 0
cd /srv/check
wrong() { echo "deb-release-check: $1" >&2; exit 1; }
if [ "$(wc -l </proc/net/route)" -gt 1 ]; then wrong "there is a route to a network"; fi
bash files.sh >before
bash accounts.sh >accounts
dpkg --install hobbit-edge_*.deb
[ "$(dpkg --verify hobbit-edge)" = "" ]
taken=$(du -sb /opt/hobbit-edge | cut -f 1)
echo "  $((taken / 1000000)) MB below /opt/hobbit-edge"
[ "$taken" -lt "$1" ] || wrong "/opt/hobbit-edge takes $taken bytes, expected below $1"
dpkg --install hobbit-edge-export_*.deb
/opt/hobbit-edge/bin/python inside.py /srv/check/model /srv/check/expected.json /srv/check/tiny-moe
dpkg --remove hobbit-edge-export hobbit-edge
[ ! -e /opt/hobbit-edge ] || wrong "/opt/hobbit-edge is left: $(find /opt/hobbit-edge | head -n 5)"
[ -e /etc/hobbit-edge/hobbit.env ] || wrong "the settings are gone"
dpkg --purge hobbit-edge hobbit-edge-export
bash files.sh >after
diff before after
bash accounts.sh | diff accounts - || wrong "users or groups differ (above)"
echo "  nothing is left"
INSIDE
# what the packages depend on comes from the network; they themselves are installed without one
cp /etc/resolv.conf "$root/etc/resolv.conf"
# shellcheck disable=SC2016
chroot "$root" sh -c 'apt-get -qq update && apt-get -qq install --yes --no-install-recommends \
  $(for deb in /srv/check/*.deb; do dpkg-deb --field "$deb" Depends; done | tr "," "\n" | sed "s/([^)]*)//" | grep -v hobbit-edge)' \
  >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
rm "$root/etc/resolv.conf"

echo "deb-release-check: installed, used, removed, purged, without a network${cpu:+, emulating a $cpu}"
unshare --net --mount --pid --ipc --uts --fork --kill-child bash "$repo/tests/installed/enter.sh" "$root" "$cpu" "$most" ||
  { echo "deb-release-check: FAILED for $suite on $arch" >&2; exit 1; }
echo "deb-release-check: passed for $suite on $arch"
