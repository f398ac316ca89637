#!/usr/bin/env bash
# Installs an offline bundle into a small Debian that has Python and no compiler, in namespaces without a network, and
# runs tests/installed/inside.py there: modules, commands, kernels, the drive reader, the same tokens as here, the service.
# The other architecture is emulated: a Cortex-A76 has the instructions of Orin's cores (dot product, no i8mm).
# usage: [RELEASE=trixie] check.sh x86_64|aarch64 BUNDLE.tar.gz     RELEASE: of Debian, for its Python; exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
arch=$1 bundle=$(realpath "$2")
cpu=${EMULATED_CPU:-cortex-a76}

not_run() {
  echo "installed-check: NOT RUN: $1. The wheel for $arch was NOT checked." >&2
  exit 2
}
[ "$(id -u)" = 0 ] || not_run "not root"
unshare --net --mount --pid --fork true 2>/dev/null || not_run "no namespaces here"
python=${PYTHON:-$repo/.venv/bin/python}
"$python" -c 'import edge_runtime, onnx' 2>/dev/null || not_run "no Python with the exporter (make test makes one)"

# shellcheck source=tests/installed/emulation.sh
. "$here/emulation.sh"
work=$(mktemp -d)
finish() {
  stop_emulating
  rm -rf "$work"
}
trap finish EXIT

isa=$("$python" -c 'from edge_runtime.backends.cpu.kernels import available_isas; print(available_isas()[0])')
reads=$("$python" -c 'from edge_runtime.experts.drive import DriveReader; print(DriveReader(2, False, True).method.split()[0])')
debian=amd64 more='' how=''
if [ "$arch" != "$(uname -m)" ]; then
  emulate "$work/binfmt" || not_run "$lacks"
  isa=neon-dotprod reads=threads debian=arm64 more=--no-compile how=", emulating a $cpu" # compiling takes minutes when emulated
  if [ "$cpu" = cortex-a72 ]; then isa=scalar; fi
fi

echo "installed-check: a Debian for $debian, and the bundle of this machine"
root=$work/root
bash "$here/root.sh" "$debian" "$root"
mkdir "$root/srv/check"
tar -xf "$bundle" -C "$root/srv"
"$python" -m hobbit_export "$repo/examples/tiny-moe" --out "$root/srv/check/model" --tiers 4 --trunk fp32 >/dev/null
"$python" -m edge_runtime run "$root/srv/check/model" --prompt "import os" --max-tokens 16 --temperature 0 --memory 400MiB \
  --context 128 --expert-memory 6MiB --json >"$work/here.json"
"$python" - "$work/here.json" "$isa" "$reads" >"$root/srv/check/expected.json" <<'END'
import json, sys
found = json.load(open(sys.argv[1]))
print(json.dumps({"token_ids": found["token_ids"], "isa": sys.argv[2], "reads_with": sys.argv[3]}))
END
cp "$here/inside.py" "$root/srv/check/"

cat >"$root/srv/check/all.sh" <<'END'
set -euo pipefail
ulimit -c 0
! getent ahosts pypi.org >/dev/null 2>&1
/srv/hobbit-edge-*/deploy/environment.sh /opt/check --python python3 "$@"
/opt/check/bin/python /srv/check/inside.py /srv/check/model /srv/check/expected.json
END
echo "installed-check: inside, without a network$how"
unshare --net --mount --pid --ipc --uts --fork --kill-child bash "$here/enter.sh" "$root" "$cpu" ${more:+"$more"} ||
  { echo "installed-check: FAILED for $arch" >&2; exit 1; }
echo "installed-check: passed for $arch"
