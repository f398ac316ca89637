# Sourced by checks that need a whole system to install into, not only its files.
# fresh_root SUITE ARCH FOLDER MIRROR     debootstrap's smallest; says the end of its log and returns 1 where that fails
# shellcheck shell=bash

fresh_root() {
  local suite=$1 arch=$2 folder=$3 mirror=$4 script=() log
  # an older debootstrap does not know the names of newer releases, which are made as those before were
  if [ ! -e "/usr/share/debootstrap/scripts/$suite" ]; then
    case $mirror in
      *ubuntu*) script=(/usr/share/debootstrap/scripts/gutsy) ;;
      *) script=(/usr/share/debootstrap/scripts/sid) ;;
    esac
  fi
  log=$(mktemp)
  # the keys of the other vendor may not be on this machine; what is made is thrown away, so it need not reach the drive either
  if ! DPKG_FORCE=unsafe-io debootstrap --variant=minbase --no-check-gpg --arch="$arch" "$suite" "$folder" "$mirror" \
    "${script[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}
