#!/usr/bin/env bash
# Installs an offline bundle into a small Debian or Ubuntu that has Python and no compiler, in namespaces without a network,
# and runs tests/installed/inside.py there: modules, commands, kernels, the drive reader, the same tokens as here, the service.
# The other architecture is emulated: a Cortex-A76 has the instructions of Orin's cores (dot product, no i8mm).
# usage: check.sh [RELEASE:]x86_64|aarch64 BUNDLE.tar.gz     RELEASE: see root.sh, also as a variable; exit 0 passed, 1 failed,
# 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
arch=${1#*:} bundle=$(realpath "$2")
case $1 in *:*) export RELEASE=${1%:*} ;; esac
cpu=${EMULATED_CPU:-cortex-a76}

not_run() {
  echo "installed-check: NOT RUN: $1. The wheel for $arch was NOT checked." >&2
  exit 2
}
[ "$(id -u)" = 0 ] || not_run "not root"
unshare --net --mount --pid --fork true 2>/dev/null || not_run "no namespaces here"
case ${RELEASE:-}:$arch in
  jammy:aarch64 | noble:aarch64)
    curl -sf -o /dev/null -m 20 http://ports.ubuntu.com/ubuntu-ports/dists/ || not_run "ports.ubuntu.com cannot be reached"
    ;;
esac
python=${PYTHON:-$repo/.venv/bin/python}
"$python" -c 'import edge_runtime, onnx' 2>/dev/null || not_run "no Python with the exporter (make test makes one)"
"$python" "$repo/tools/release/fresh.py" "$bundle"

# shellcheck source=tests/installed/emulation.sh
. "$here/emulation.sh"
work=$(mktemp -d)
finish() {
  stop_emulating
  rm -rf "$work"
}
trap finish EXIT

case $arch in
  x86_64) debian=amd64 ;;
  aarch64) debian=arm64 ;;
  *) not_run "no root for $arch" ;;
esac
more='' how='' there=()
if [ "$arch" != "$(uname -m)" ]; then
  emulate "$work/binfmt" || not_run "$lacks"
  isa=neon-dotprod
  if [ "$cpu" = cortex-a72 ]; then isa=scalar; fi
  there=(--isa "$isa" --reads threads)
  more=--no-compile how=", emulating a $cpu" # compiling takes minutes when emulated
fi

echo "installed-check: a ${RELEASE:-Debian} for $debian, and the bundle of this machine"
root=$work/root
bash "$here/root.sh" "$debian" "$root"
mkdir "$root/srv/check"
tar -xf "$bundle" -C "$root/srv"
"$python" "$here/expected.py" "$root/srv/check/model" "${there[@]}" >"$root/srv/check/expected.json"
cp "$here/inside.py" "$here/kernels.py" "$root/srv/check/"

cat >"$root/srv/check/all.sh" <<'END'
set -euo pipefail
ulimit -c 0
if [ "$(wc -l </proc/net/route)" -gt 1 ]; then echo "there is a route to a network" >&2; exit 1; fi
bash /srv/hobbit-edge-*/deploy/environment.sh /opt/check --python python3 "$@"
/opt/check/bin/python /srv/check/inside.py /srv/check/model /srv/check/expected.json
END
echo "installed-check: inside, without a network$how"
unshare --net --mount --pid --ipc --uts --fork --kill-child bash "$here/enter.sh" "$root" "$cpu" ${more:+"$more"} ||
  { echo "installed-check: FAILED for $(basename "$bundle")" >&2; exit 1; }
echo "installed-check: passed for $(basename "$bundle")${RELEASE:+ on $RELEASE}"
