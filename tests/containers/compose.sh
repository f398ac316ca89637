#!/usr/bin/env bash
# Starts compose.yaml by the line of docs/operations.md, podman in place of docker: read-only, without capabilities, under its
# memory limit, models mounted read-only. Waits until it is healthy, asks it, looks at its limits, stops it: nothing is left.
# usage: compose.sh PODMAN MODELS BUNDLE     PODMAN from engine.sh, with the image hobbit-edge:cpu; BUNDLE is the unpacked offline
# bundle that the line is for; exit 0 passed, 1 failed
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
podman=$1 models=$2 bundle=$3
python=${PYTHON:-$repo/.venv/bin/python}
export MODELS=$models PORT=8098 MEMORY=700m
url=http://127.0.0.1:$PORT

docker() { # compose ...
  [ "$1" = compose ] || { echo "compose: expected docker compose, the page has: docker $*" >&2; exit 1; }
  shift
  "$python" -m podman_compose --podman-path "$podman" --in-pod=false "$@"
}
fail() {
  echo "compose: FAILED: $1" >&2
  "$podman" logs "$("$podman" ps -aq | head -n 1)" 2>&1 | tail -n 20 >&2
  docker compose -f "$bundle/deploy/containers/compose.yaml" --profile cpu down -v >&2 || true
  exit 1
}

line=$(sed -n 's/^\$ \(MODELS=.* docker compose .*\)$/\1/p' "$repo/docs/operations.md")
[ -n "$line" ] || fail "docs/operations.md has no line with docker compose"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$bundle" && eval "${line//\/ssd\/models/$models}") >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "$line"; }
container=$("$podman" ps -q)
[ -n "$container" ] || fail "no container runs: $(cat "$work/said")"
for ((tries = 0; ; tries++)); do
  if "$podman" healthcheck run "$container" >/dev/null 2>&1; then break; fi
  [ -n "$("$podman" ps -q)" ] || fail "the container ended"
  [ $tries -lt 300 ] || fail "never healthy"
  sleep 1
done
echo "  healthy, by the image's own check"
body='{"prompt": "import os", "max_tokens": 8, "temperature": 0}'
answer=$(curl --fail --silent "$url/v1/completions" -H 'Content-Type: application/json' -d "$body") || fail "no answer"
echo "  answers: ${answer:0:60}..."
budget=$(curl --fail --silent "$url/v1/stats" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["memory"]["budget_bytes"])')
[ "$budget" -le $((700 << 20)) ] || fail "it plans $budget bytes, the limit is 700 MiB"
echo "  plans $((budget >> 20)) MiB of the 700 it is given"
inspected=$("$podman" inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}} {{.EffectiveCaps}} {{.Config.User}}' "$container")
[ "$inspected" = "true $((700 << 20)) [] 10001:10001" ] || fail "read-only, memory, capabilities, user: $inspected"
! "$podman" exec "$container" touch /opt/x 2>/dev/null || fail "it can write to its root"
! "$podman" exec "$container" touch /models/x 2>/dev/null || fail "it can write to the models"
"$podman" exec "$container" test -d /var/lib/hobbit-edge/verified || fail "it remembers nothing in its volume"
docker compose -f "$bundle/deploy/containers/compose.yaml" --profile cpu down -v >"$work/said" 2>&1 || fail "down: $(cat "$work/said")"
[ -z "$("$podman" ps -aq)$("$podman" volume ls -q)" ] || fail "something is left"
echo "  read-only, no capabilities, state in its volume; stopped, nothing is left"
