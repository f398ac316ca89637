#!/usr/bin/env bash
# Builds an image from an offline bundle in dist/ with buildah, from a base made here in place of the one on a registry,
# and runs it: its own user and health check, no capabilities, a model mounted read-only, one request.
# cpu: the command is the one in docs/operations.md, the base has what the image's own base has. jetpack6, jetpack7: every
# step of the Dockerfile on the release of Ubuntu that NVIDIA's base is made of, of this machine's architecture, with its own
# apt-get and Python. Where debootstrap or Ubuntu's mirror is missing, on an emulated arm64 Debian with an apt-get pretended.
# Whether CUDA is there is NOT seen. Then, for cpu, `docker compose` as the page has it, by podman and podman-compose.
# usage: check.sh [cpu|jetpack6|jetpack7]     exit 0 passed, 1 failed, 2 not run, or not all of it (said loudly)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
image=${1:-cpu}

not_run() {
  echo "container-check: NOT RUN: $1. The image $image was NOT built." >&2
  exit 2
}
not_started() {
  echo "container-check: the image cpu is well, but NOT RUN: compose.yaml was NOT started: $1" >&2
  exit 2
}
command -v buildah >/dev/null || not_run "buildah is missing (apt-get install buildah)"
[ "$(id -u)" = 0 ] || not_run "not root: the base is made of packages that only root can unpack"
case $(uname -m) in
  x86_64) debian=amd64 target=x86-64 mirror=http://archive.ubuntu.com/ubuntu ;;
  aarch64) debian=arm64 target=arm64 mirror=http://ports.ubuntu.com/ubuntu-ports ;;
  *) not_run "no image $image for $(uname -m)" ;;
esac
case $image in
  cpu) ubuntu='' ;;
  jetpack6) ubuntu=jammy ;;
  jetpack7) ubuntu=noble ;;
  *) not_run "no image $image" ;;
esac
if [ -n "$ubuntu" ] && ! { command -v debootstrap && curl -sf -o /dev/null -m 20 "$mirror/dists/$ubuntu/Release"; } >/dev/null; then
  ubuntu='' debian=arm64 target=arm64
fi
dockerfile=$repo/deploy/containers/$image.Dockerfile
python=${PYTHON:-$repo/.venv/bin/python}
bundle=$repo/dist/hobbit-edge-$("$python" "$repo/tools/release/common.py")-$target.tar.gz
[ -e "$bundle" ] || not_run "no offline bundle for $target of this version in dist/ (make wheels offline)"
"$python" "$repo/tools/release/fresh.py" "$bundle"

# shellcheck source=tests/installed/emulation.sh
. "$repo/tests/installed/emulation.sh"
# shellcheck source=tests/installed/fresh.sh
. "$repo/tests/installed/fresh.sh"
work=$(mktemp -d) network=none
export BUILDAH_ISOLATION=chroot
store=(--root "$work/storage" --runroot "$work/run")
finish() {
  if [ -x "$work/podman" ]; then "$work/podman" rm --all --force >/dev/null 2>&1 || true; fi
  buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
  buildah "${store[@]}" rmi --all --force >/dev/null 2>&1 || true
  stop_emulating
  rm -rf "$work"
}
trap finish EXIT
if [ "$debian" = arm64 ] && [ "$(uname -m)" != aarch64 ]; then
  emulate "$work/binfmt" || not_run "$lacks"
fi

echo "container-check: a base in place of $(sed -n 's/^ARG BASE=//p' "$dockerfile")"
if [ -n "$ubuntu" ]; then
  echo "container-check: Ubuntu $ubuntu for $debian"
  fresh_root "$ubuntu" "$debian" "$work/base" "$mirror"
  network=host
else
  bash "$repo/tests/installed/root.sh" "$debian" "$work/base" passwd
fi
if [ "$image" != cpu ] && [ -z "$ubuntu" ]; then
  # the version of Python that the Dockerfile insists on is Ubuntu's; what it asks for is held to what is written there
  asked=$(sed -n "s/^ *&& apt-get install -y --no-install-recommends '\\(.*\\)' .*/\\1/p" "$dockerfile")
  [ -n "$asked" ] || { echo "container-check: FAILED: $dockerfile installs no Python" >&2; exit 1; }
  printf '#!/bin/sh\ncase "$*" in update | "install -y --no-install-recommends %s") ;; *) exit 1 ;; esac\n' "$asked" \
    >"$work/base/usr/bin/apt-get"
  chmod +x "$work/base/usr/bin/apt-get"
  echo "container-check: Debian's Python in place of $asked"
fi
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" copy --quiet "$container" "$work/base" / >/dev/null
buildah "${store[@]}" commit --quiet "$container" localhost/base >/dev/null
buildah "${store[@]}" rm "$container" >/dev/null
rm -rf "$work/base"

echo "container-check: building the image, network: $network"
docker() {
  [ "$1" = build ] || { echo "container-check: expected docker build, the page has: docker $*" >&2; exit 1; }
  shift
  buildah "${store[@]}" build --quiet --format docker --network $network --build-arg BASE=localhost/base "$@" >/dev/null
}
# in the unpacked bundle, by the line of the page and of the heads of the Dockerfiles
command=$(sed -n 's/^\$ \(docker build .*\)$/\1/p' "$repo/docs/operations.md")
[ "$image" = cpu ] || command=$(sed -n 's/^# *\(docker build .*\)$/\1/p' "$dockerfile")
[ -n "$command" ] || { echo "container-check: FAILED: no line says how to build $image" >&2; exit 1; }
mkdir "$work/bundle"
tar -xf "$bundle" -C "$work/bundle" --strip-components=1
(cd "$work/bundle" && eval "$command")

"$python" -m hobbit_export "$repo/examples/tiny-moe" --out "$work/models/bundle" --tiers 4 --trunk int8 >/dev/null
chmod -R go+rX "$work"
"$python" "$here/run.py" "hobbit-edge:$image" "$work/models" "${store[@]}"
if [ "$image" = cpu ]; then
  lacks=$(bash "$here/engine.sh" "$work" "${store[@]}") || not_started "$lacks"
  "$python" -c 'import podman_compose' 2>/dev/null || not_started "podman-compose is missing (extra: release)"
  echo "container-check: docker compose, by podman"
  bash "$here/compose.sh" "$work/podman" "$work/models" "$work/bundle"
fi
echo "container-check: passed for $image"
