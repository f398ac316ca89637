#!/usr/bin/env bash
# Builds the CPU image from the offline bundle in dist/ with buildah, from a base made here in place of the one on a
# registry, and runs it: read-only root, no capabilities, a model mounted read-only, its own health check, one request.
# usage: check.sh     exit 0 passed, 1 failed, 2 not run (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)

not_run() {
  echo "container-check: NOT RUN: $1. The image was NOT built." >&2
  exit 2
}
command -v buildah >/dev/null || not_run "buildah is missing (apt-get install buildah)"
[ "$(id -u)" = 0 ] || not_run "not root: the base is made of packages that only root can unpack"
case $(uname -m) in
  x86_64) debian=amd64 target=x86-64 ;;
  aarch64) debian=arm64 target=arm64 ;;
  *) not_run "no image for $(uname -m)" ;;
esac
bundle=$(find "$repo/dist" -name "hobbit-edge-*-$target.tar.gz" | sort -V | tail -n 1)
[ -n "$bundle" ] || not_run "no offline bundle in dist/ (make wheels offline)"
python=${PYTHON:-$repo/.venv/bin/python}

work=$(mktemp -d)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
store=(--root "$work/storage" --runroot "$work/run")
finish() {
  buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
  buildah "${store[@]}" rmi --all --force >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

echo "container-check: a base like python:3.11-slim-bookworm"
bash "$repo/tests/installed/root.sh" "$debian" "$work/base" passwd
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" copy --quiet "$container" "$work/base" / >/dev/null
buildah "${store[@]}" commit --quiet "$container" localhost/base >/dev/null
buildah "${store[@]}" rm "$container" >/dev/null
rm -rf "$work/base"

echo "container-check: building the image, without a network"
mkdir "$work/context"
tar -xf "$bundle" -C "$work/context" --strip-components=1
buildah "${store[@]}" build --quiet --format docker --network none --build-arg BASE=localhost/base \
  -f "$repo/deploy/containers/cpu.Dockerfile" -t hobbit-edge:cpu "$work/context" >/dev/null
rm -rf "$work/context"

"$python" -m hobbit_export "$repo/examples/tiny-moe" --out "$work/models/bundle" --tiers 4 --trunk int8 >/dev/null
chmod -R go+rX "$work"
"$python" "$here/run.py" "$work/models" "${store[@]}"
echo "container-check: passed"
