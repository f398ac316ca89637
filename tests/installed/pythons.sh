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
"$python" "$repo/tools/release/fresh.py" "$bundle"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xf "$bundle" -C "$work"
"$python" "$here/expected.py" "$work/model" >"$work/expected.json"
for each in "$@"; do
  echo "pythons-check: $("$each" -V), without a network"
  # a loopback of its own, and no route
  unshare --net bash -c 'ip link set lo up && "$@"' - bash "$work"/hobbit-edge-*/deploy/environment.sh "$work/env" --python "$each"
  mkdir -p "$work/empty"
  unshare --net bash -c 'ip link set lo up && "$@"' - env -i PATH="$work/empty" HOME="$work" LANG=C.UTF-8 \
    "$work/env/bin/python" "$here/inside.py" "$work/model" "$work/expected.json"
done
echo "pythons-check: passed for $*"
