# Sourced by install.sh: what runs stays whole until what replaces it is complete, and comes back if that fails.
# Every run makes an environment of its own below $environments; $prefix is a link to the one in use and changes in one
# step. Files elsewhere are saved before they are replaced. A run that fails, or that a signal ends, puts everything back.
# After a kill -9 or a power cut an installation is in place, and the next run removes what was left (docs/adr/0156).
# its variables are set by install.sh
# shellcheck shell=bash disable=SC2154
environments=$prefix.d
next=$environments/next.$$
built='' saved='' previous='' was_active=no socket_was_active=no stage=looking
replaced=("$units/hobbit.service" "$units/hobbit.socket" "$dropin" "$config" "$sysusers" "$tmpfiles" "$page")

# remembers what is there, and promises to put it back
begin_replacing() {
  [ "$dry" = no ] || return 0
  exec 9<"$units"
  flock --nonblock 9 || fail "another install.sh or uninstall.sh is at work. Wait until it is done."
  saved=$(mktemp -d)
  trap 'finish_replacing $?' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  local file
  for file in "${replaced[@]}"; do
    if [ -e "$file" ]; then
      mkdir -p "$saved$(dirname "$file")"
      cp -a "$file" "$saved$file"
    fi
  done
  if [ -L "$prefix" ]; then previous=$(readlink "$prefix"); elif [ -d "$prefix" ]; then previous=$prefix; fi
  if is_active hobbit.service; then was_active=yes; fi
  if is_active hobbit.socket; then socket_was_active=yes; fi
  remove_unused
  stage=before
}

is_active() {
  case $(systemctl is-active "$1" || true) in active | activating | reloading) ;; *) return 1 ;; esac
}

# a folder for this run's environment; its time is for people
new_environment() {
  built=$environments/$(date -u +%Y%m%d-%H%M%S)
  [ "$dry" = no ] || return 0
  mkdir -p "$environments"
  built=$(mktemp -d "$built.XXXX")
  chmod 0755 "$environments" "$built"
}

# from here on $prefix is what was built
switch_program() {
  say "switching $prefix to $built"
  [ "$dry" = no ] || return 0
  stage=switched
  # complete on the drive before anything leads to it: the power may be cut
  sync --file-system "$built"
  lead_to "$built" || fail "$prefix could not be changed (the reason is above)."
}

# makes $prefix a link to a folder, in one step
lead_to() {
  mkdir -p "$environments"
  ln -s "$1" "$next"
  if [ -L "$prefix" ] || [ ! -e "$prefix" ]; then
    mv -T "$next" "$prefix"
  else
    # a folder, as releases before had it; what runs from it must not see it change
    systemctl stop hobbit.socket hobbit.service
    exchange "$next" "$prefix"
  fi
}

# two names change places in one step, or neither does
exchange() {
  "$python" - "$1" "$2" <<'PYTHON'
import ctypes, os, sys

libc, here, exchange = ctypes.CDLL(None, use_errno=True), -100, 2
if libc.renameat2(here, os.fsencode(sys.argv[1]), here, os.fsencode(sys.argv[2]), exchange):
    sys.exit(f"{sys.argv[2]}: {os.strerror(ctypes.get_errno())}")
PYTHON
}

# a first installation has nothing to go back to: once it is complete it stays, for a person to mend
finish_replacing() {
  local code=$1
  trap - EXIT
  trap '' HUP INT TERM
  set +e
  case $stage:$previous in
    looking:* | complete:* | switched: | started:) ;;
    *) put_back ;;
  esac
  remove_unused
  rm -rf "$saved"
  exit "$code"
}

put_back() {
  say "putting everything back as it was"
  if [ $stage != before ]; then lead_back; fi
  local file
  for file in "${replaced[@]}"; do
    if [ -e "$saved$file" ]; then
      cp -a "$saved$file" "$file.new" && mv "$file.new" "$file"
    else
      rm -f "$file"
    fi
  done
  if [ $stage != before ]; then
    built=$previous
    link_commands
  fi
  systemctl daemon-reload
  if [ $socket_was_active = yes ] && ! is_active hobbit.socket; then systemctl start hobbit.socket; fi
  if [ $was_active = yes ] && { [ $stage = started ] || ! is_active hobbit.service; }; then
    note "starting again what ran before"
    systemctl reset-failed hobbit.service 2>/dev/null
    systemctl restart hobbit.service || note "it does not start: journalctl -u hobbit"
  fi
}

lead_back() {
  if [ "$previous" != "$prefix" ]; then
    rm -f "$next"
    lead_to "$previous"
  elif [ -L "$prefix" ]; then
    if [ $stage = started ]; then systemctl stop hobbit.socket hobbit.service; fi
    exchange "$next" "$prefix"
  fi
}

# environments that nothing leads to and nothing runs from, such as one whose making was cut off
remove_unused() {
  local folder used
  used=$(readlink -f "$prefix" || true)
  for folder in "$environments"/*; do
    if [ ! -L "$folder" ]; then
      # what runs from it has its native modules mapped
      if [ ! -e "$folder" ] || [ "$folder" = "$used" ] || grep -qsF "$folder/" /proc/[0-9]*/maps; then continue; fi
    fi
    rm -rf "$folder"
  done
  if [ -d "$environments" ]; then rmdir --ignore-fail-on-non-empty "$environments"; fi
}
