#!/usr/bin/env bash
# Installs the offline bundle of this machine for one Python, without a network and with nothing on PATH, and runs
# tests/installed/inside.py in it. check.sh does the same in a Debian, for its one Python.
# usage: pythons.sh VERSION BUNDLE.tar.gz     exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
version=$1
bundle=$(realpath "$2")

not_run() {
  echo "pythons-check: NOT RUN: $version: $1. The bundle was NOT installed for it." >&2
  exit 2
}
# a version manager's names may lead nowhere
"python$version" -c '' 2>/dev/null || not_run "no python$version runs here"
unshare --net true 2>/dev/null || not_run "no namespaces here"
python=${PYTHON:-$repo/.venv/bin/python}
"$python" "$repo/tools/release/fresh.py" "$bundle"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xf "$bundle" -C "$work"
"$python" "$here/expected.py" "$work/model" >"$work/expected.json"
echo "pythons-check: $("python$version" -V), without a network"
# a loopback of its own, and no route
unshare --net bash -c 'ip link set lo up && "$@"' - bash "$work"/hobbit-edge-*/deploy/environment.sh "$work/env" \
  --python "$(command -v "python$version")"
mkdir "$work/empty"
unshare --net bash -c 'ip link set lo up && "$@"' - env -i PATH="$work/empty" HOME="$work" LANG=C.UTF-8 \
  "$work/env/bin/python" "$here/inside.py" "$work/model" "$work/expected.json"
echo "pythons-check: passed for $version"
