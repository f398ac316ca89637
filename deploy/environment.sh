#!/usr/bin/env bash
# Makes a Python environment with Hobbit Edge in it from the offline bundle this file lies in. Needs Python 3.10 or newer
# and nothing else: no network, no compiler, no pip, no python3-venv. Every wheel is held to its digest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'END'
usage: deploy/environment.sh DIR [--python PROGRAM] [--no-compile]

  DIR                the environment; one that exists is replaced, and put back if that fails
  --python PROGRAM   Python for it (default: python3)
  --no-compile       leave modules uncompiled: quicker to install and some 30 MB smaller, slower to start
END
}

fail() {
  printf 'environment.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

into='' python=python3 compile=yes
while [ $# -gt 0 ]; do
  case $1 in
    --python) [ $# -ge 2 ] || fail "--python: expected a value. See --help." 2; python=$2; shift 2 ;;
    --no-compile) compile=no; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option '$1'. See --help." 2 ;;
    *) [ -z "$into" ] || fail "expected one folder, got '$into' and '$1'." 2; into=$1; shift ;;
  esac
done
[ -n "$into" ] || { usage >&2; exit 2; }
case $into in /*) ;; *) into=$PWD/$into ;; esac

[ -d "$here/wheels" ] || fail "$here/wheels is not there. This script works inside an offline bundle; see docs/operations.md."
command -v "$python" >/dev/null || fail "$python: not found. Install Python 3.10 or newer, or name it with --python."
have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
requirements=$here/requirements-$have.txt
[ -f "$requirements" ] ||
  fail "$python is Python $have; this bundle is for $(cd "$here" && echo requirements-*.txt | sed 's/requirements-//g; s/\.txt//g'). Take another bundle, or name another Python with --python."
machine=$(uname -m)
grep -qx "$machine" "$here/ARCHITECTURE" || fail "this machine is $machine; the bundle is for $(cat "$here/ARCHITECTURE")."
(cd "$here" && sha256sum --check --quiet SHA256SUMS) ||
  fail "the bundle is damaged: the files named above differ from SHA256SUMS. Copy it again."

# whatever else lies in a folder is not ours to remove
if [ -L "$into" ] || { [ -e "$into" ] && [ ! -d "$into" ]; }; then fail "$into is a link or a file. Name a folder."; fi
if [ -n "$(ls -A "$into" 2>/dev/null)" ] && [ ! -f "$into/pyvenv.cfg" ]; then
  fail "$into holds something else than a Python environment. Name a folder that is empty, or not there yet."
fi
before=''
finish() {
  local code=$1
  trap - EXIT
  trap '' HUP INT TERM
  if [ "$code" != 0 ]; then rm -rf "$into"; fi
  if [ -z "$before" ]; then exit "$code"; fi
  if [ "$code" = 0 ]; then rm -rf "$before"; else mv -T "$before" "$into"; fi
  exit "$code"
}
trap 'finish $?' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
if [ -f "$into/pyvenv.cfg" ]; then
  # beside it, so that it can come back in one step
  before=$(mktemp -d "$into.before.XXXX")
  mv -T "$into" "$before"
fi

"$python" -m venv --without-pip "$into"
pip=$(echo "$here"/wheels/pip-*.whl)
# pip runs from its own wheel: what it installs is what the bundle lists, and pip itself
PYTHONDONTWRITEBYTECODE=1 "$into/bin/python" -I "$pip/pip" --isolated --disable-pip-version-check install --quiet \
  --no-compile --no-index --no-cache-dir --find-links "$here/wheels" --require-hashes -r "$requirements"
# neither the tests of libraries nor what rare work imports: see tools/release/common.py
seldom='/tests?/|/sympy/|/onnxruntime/(transformers|quantization|tools)/|/pygments/lexers/'
if [ $compile = yes ]; then
  (cd "$into" && bin/python -m compileall -q -x "$seldom" -p "$into" lib) >/dev/null || true
fi
printf '%s\n' "$("$into/bin/hobbit" --version) is in $into"
