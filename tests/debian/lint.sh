#!/usr/bin/env bash
# Holds every Debian package in a folder to lintian: no error, no warning. usage: lint.sh DIR
set -euo pipefail
if ! command -v lintian >/dev/null; then
  echo "deb: lintian is missing (apt-get install lintian): the packages were NOT linted" >&2
  exit 1
fi
for package in "$1"/*.deb; do
  echo "==> lintian $(basename "$package")"
  # root runs it in containers and CI; nothing of the package is executed. Debian's rules on Ubuntu too, which has its own
  lintian --profile debian --allow-root --fail-on error,warning --tag-display-limit 0 "$package"
done
