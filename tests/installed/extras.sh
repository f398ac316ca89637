#!/usr/bin/env bash
# Installs the wheel of this machine with each of its extras, by pip, into an empty environment outside the repository; then,
# without a network and with nothing on PATH, runs tests/installed/extras.py in it. Libraries come from the package index.
# usage: extras.sh WHEEL [EXTRA...]     exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
wheel=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- none serve bench export all
python=${PYTHON:-$repo/.venv/bin/python}
if ! unshare --net true 2>/dev/null; then
  echo "extras-check: NOT RUN: no namespaces here. The extras were NOT installed." >&2
  exit 2
fi
"$python" "$repo/tools/release/fresh.py" "$wheel"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" "$here/expected.py" "$work/model" >"$work/expected.json"
mkdir "$work/empty"
for extra in "$@"; do
  echo "extras-check: $extra"
  named=$wheel
  if [ "$extra" != none ]; then named="${wheel}[$extra]"; fi
  python3 -m venv "$work/env"
  # wheels alone: a library that would have to be compiled is a fault
  "$work/env/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$named"
  mkdir "$work/$extra"
  unshare --net bash -c 'ip link set lo up && cd / && "$@"' - env -i PATH="$work/empty" HOME="$work/$extra" LANG=C.UTF-8 \
    "$work/env/bin/python" "$here/extras.py" "$extra" "$work/model" "$work/expected.json" "$work/$extra" \
    "$repo/examples/tiny-moe"
  rm -rf "$work/env" "${work:?}/$extra"
done
echo "extras-check: passed for $*"
