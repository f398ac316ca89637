#!/usr/bin/env bash
# Runs a check for each line of its input, NAME [WORD...], and counts. What could not be run here (exit 2) is a failure, but
# for the names in MAY_MISS: nothing that did not happen counts as passed.
# usage: ... | [MAY_MISS="NAME..."] each.sh TITLE COMMAND...     runs COMMAND NAME WORD...; exit 0 passed, 1 failed
set -euo pipefail
title=$1
shift
passed=0 missed=() needed=()
while read -r -a words; do
  code=0
  "$@" "${words[@]}" </dev/null || code=$?
  case $code in
    0) passed=$((passed + 1)) ;;
    2) missed+=("${words[0]}") ;;
    *) echo "$title: FAILED for ${words[0]}" >&2; exit 1 ;;
  esac
done
for name in "${missed[@]}"; do
  case " ${MAY_MISS:-} " in
    *" $name "*) ;;
    *) needed+=("$name") ;;
  esac
done
echo "$title: $passed passed, ${#missed[@]} NOT RUN${missed[*]:+: ${missed[*]}}"
if [ ${#needed[@]} -gt 0 ]; then
  echo "$title: FAILED: it has to run for ${needed[*]}. To do without: make $title MAY_MISS=\"${MAY_MISS:+$MAY_MISS }${needed[*]}\"" >&2
  exit 1
fi
if [ $passed = 0 ]; then
  echo "$title: FAILED: nothing was run" >&2
  exit 1
fi
