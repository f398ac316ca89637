#!/usr/bin/env bash
# Installs the offline bundle of this machine for each Python named, without a network and with nothing on PATH, and runs
# tests/installed/inside.py in it. check.sh does the same in a Debian, for its one Python.
# usage: pythons.sh BUNDLE.tar.gz PYTHON...     exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
bundle=$(realpath "$1")
shift
python=${PYTHON:-$repo/.venv/bin/python}
if [ $# = 0 ] || ! unshare --net true 2>/dev/null; then
  echo "pythons-check: NOT RUN: no Python was named, or no namespaces here. The bundle was NOT installed." >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xf "$bundle" -C "$work"
"$python" -m hobbit_export "$repo/examples/tiny-moe" --out "$work/model" --tiers 4 --trunk fp32 >/dev/null
"$python" -m edge_runtime run "$work/model" --prompt "import os" --max-tokens 16 --temperature 0 --memory 400MiB \
  --context 128 --expert-memory 6MiB --json >"$work/here.json"
"$python" - "$work/here.json" >"$work/expected.json" <<'END2'
import json, sys
from edge_runtime.backends.cpu.kernels import available_isas
from edge_runtime.experts.drive import DriveReader
found = json.load(open(sys.argv[1]))
reads = DriveReader(2, False, True).method.split()[0]
print(json.dumps({"token_ids": found["token_ids"], "isa": available_isas()[0], "reads_with": reads}))
END2
for each in "$@"; do
  echo "pythons-check: $("$each" -V), without a network"
  # a loopback of its own, and no route
  unshare --net bash -c 'ip link set lo up && "$@"' - bash "$work"/hobbit-edge-*/deploy/environment.sh "$work/env" --python "$each"
  mkdir -p "$work/empty"
  unshare --net bash -c 'ip link set lo up && "$@"' - env -i PATH="$work/empty" HOME="$work" LANG=C.UTF-8 \
    "$work/env/bin/python" "$here/inside.py" "$work/model" "$work/expected.json"
done
echo "pythons-check: passed for $*"
