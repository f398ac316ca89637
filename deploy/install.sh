#!/usr/bin/env bash
# Installs the hobbit service. Run it again to upgrade or to repair: your settings and bundles are never overwritten, and the
# service runs on until the new program is complete. For Ubuntu, Debian and Jetson Linux (systemd, apt names in the hints).
# Tested on Debian 12; NOT YET RUN ON A JETSON BOARD.
set -euo pipefail
umask 022

prefix=/opt/hobbit-edge
config=/etc/hobbit-edge/hobbit.env
state=/var/lib/hobbit-edge
units=/etc/systemd/system
sysusers=/usr/lib/sysusers.d/hobbit-edge.conf
tmpfiles=/usr/lib/tmpfiles.d/hobbit-edge.conf
page=/usr/local/share/doc/hobbit-edge/operations.md
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dropin=$units/hobbit.service.d/10-devices.conf

usage() {
  cat <<'END'
usage: sudo deploy/install.sh [--bundle DIR] [options]

  --bundle DIR       folder written by hobbit-export; kept where it is, made readable for user hobbit by you
  --profile NAME     device profile (default: auto, that of the board)
  --memory SIZE      ceiling for the process (default: auto)
  --wheel FILE       install this wheel (default: what an offline bundle brings along, else the newest in dist/ for
                     this machine, else build from this folder)
  --venv DIR         use this Python environment, with hobbit-edge in it, instead of making one
  --python PROGRAM   Python for the environment (default: python3)
  --socket           let systemd listen and start the service with the first connection
  --no-start         install and enable, but do not start
  --dry-run          say what would be done, and do nothing; needs no root
  -h, --help         this text
END
}

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
# runs a command, or says that it would
act() {
  if [ $dry = yes ]; then note "would run: $*"; else "$@"; fi
}
# writes its input to a file, whole or not at all: put FILE install's-options...
put() {
  local file=$1
  shift
  if [ $dry = yes ]; then
    cat >/dev/null
    note "would write: $file"
  else
    install -D "$@" /dev/stdin "$file.new"
    mv "$file.new" "$file"
  fi
}
fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

bundle='' profile='' memory='' wheel='' venv='' python=python3 use_socket=no start=yes dry=no
while [ $# -gt 0 ]; do
  case $1 in
    --bundle | --profile | --memory | --wheel | --venv | --python)
      [ $# -ge 2 ] || fail "$1: expected a value. See --help." 2
      declare "${1#--}=$2"
      shift 2
      ;;
    --socket) use_socket=yes; shift ;;
    --no-start) start=no; shift ;;
    --dry-run) dry=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown option '$1'. See --help." 2 ;;
  esac
done

check_machine() {
  say "checking the machine"
  if [ $dry = yes ]; then note "nothing is changed"; else [ "$(id -u)" = 0 ] || fail "expected to run as root. Use: sudo $0"; fi
  [ -d /run/systemd/system ] || fail "expected systemd to run this machine, it does not."
  if [ -e /usr/lib/systemd/system/hobbit.service ]; then
    fail "the Debian package hobbit-edge is installed. Upgrade with apt, or remove it first: apt-get remove hobbit-edge."
  fi
  local version
  version=$(systemctl --version | awk 'NR == 1 {print $2}')
  [ "${version%%[!0-9]*}" -ge 245 ] || fail "expected systemd 245 or newer, found $version."
  command -v "$python" >/dev/null || fail "$python: not found. Install it: apt-get install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$python: expected Python 3.10 or newer, found $("$python" -V). Name another with --python."
  if [ -n "$bundle" ]; then
    bundle=$(realpath -m "$bundle")
    [ -f "$bundle/manifest.json" ] || fail "--bundle: $bundle has no manifest.json. Give the folder hobbit-export wrote." 78
  fi
}

# PROPERTY as it will be for the service: what a drop-in says, else the unit
unit_setting() {
  { sed -n "s/^$1=//p" "$here/systemd/hobbit.service"; cat $units/hobbit.service.d/*.conf 2>/dev/null | sed -n "s/^$1=//p"; } | tail -n 1
}

# refuses a place the unit hides from the service: it would fail to start, with no word about why
check_visible() {
  local place=$1 what=$2 setting=''
  case $place/ in
    /tmp/* | /var/tmp/*) setting=PrivateTmp ;;
    /home/* | /root/* | /run/user/*) setting=ProtectHome ;;
  esac
  case $setting:$([ -z "$setting" ] || unit_setting $setting) in
    : | *:no | *:false | *:off | *:0 | ProtectHome:read-only) return ;;
  esac
  fail "$what: $place cannot be seen by the service, whose unit has $setting=. Put it elsewhere, such as below /opt, or set $setting=no: systemctl edit hobbit, then run this again." 78
}

check_environment_is_visible() {
  check_visible "$venv" "--venv"
  check_visible "$(realpath "$venv/bin/python")" "--venv: its Python"
  local code
  code=$(cd / && "$venv/bin/python" -c 'import os, edge_runtime; print(os.path.realpath(os.path.dirname(edge_runtime.__file__)))') ||
    fail "--venv: $venv/bin/python cannot import edge_runtime. Install hobbit-edge into it first."
  check_visible "$code" "--venv: the code it runs"
}

# the newest build for this machine; dist/ may hold one of `make wheels` and one of pip, under names that say nothing of age
newest_wheel() {
  find "$here/dist" -maxdepth 1 -name "hobbit_edge-*-abi3-*_$(uname -m).whl" -printf '%T@ %p\n' 2>/dev/null |
    LC_ALL=C sort -n | tail -n 1 | cut -d ' ' -f 2- || true
}

# makes the environment, and leaves what is in use alone
make_program() {
  if [ -n "$venv" ]; then
    venv=$(realpath "$venv")
    [ -x "$venv/bin/hobbit" ] || fail "--venv: $venv/bin/hobbit is not there. Install hobbit-edge into it first."
    [ "$venv" != "$prefix" ] || fail "--venv: $prefix is where the program is installed. Name a folder elsewhere." 2
    check_environment_is_visible
    say "using $venv as $prefix"
    built=$venv
    return
  fi
  check_visible "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" "--python"
  new_environment
  say "installing the program into $built"
  if [ -z "$wheel" ] && [ -d "$here/wheels" ]; then
    note "from the offline bundle $here"
    act "$here/deploy/environment.sh" "$built" --python "$python" ||
      fail "no environment could be made (the reason is above)."
    return
  fi
  act "$python" -m venv "$built" || fail "no environment could be made. Install it: apt-get install python3-venv"
  local what=$wheel
  [ -n "$what" ] || what=$(newest_wheel)
  if [ -z "$what" ]; then
    command -v c++ >/dev/null || fail "no wheel, and no C++ compiler to build one. apt-get install g++ python3-dev, or give --wheel."
    what=$here
  fi
  note "from $what"
  act "$built/bin/python" -m pip install --quiet --disable-pip-version-check "${what}[serve]" ||
    fail "pip could not install $what (its message is above)."
}

install_user() {
  say "user, groups, folders"
  put "$sysusers" -m 0644 <"$here/systemd/sysusers.conf"
  put "$tmpfiles" -m 0644 <"$here/systemd/tmpfiles.conf"
  act systemd-sysusers "$sysusers"
  act systemd-tmpfiles --create "$tmpfiles"
}

install_settings() {
  if [ -e "$config" ]; then
    say "keeping the settings in $config"
  else
    say "writing the settings to $config"
    put "$config" -m 0640 -g hobbit <"$here/deploy/hobbit.env.example"
  fi
  if [ -n "$bundle" ]; then set_option HOBBIT_BUNDLE "$bundle"; fi
  if [ -n "$profile" ]; then set_option HOBBIT_PROFILE "$profile"; fi
  if [ -n "$memory" ]; then set_option HOBBIT_MEMORY "$memory"; fi
}

set_option() {
  note "$1=$2"
  [ $dry = no ] || return 0
  local rest
  rest=$(grep -v -E "^#?$1=" "$config" || true)
  printf '%s\n%s="%s"\n' "$rest" "$1" "$2" | install -m 0640 -g hobbit /dev/stdin "$config.new"
  mv "$config.new" "$config"
}

install_units() {
  say "units"
  put $units/hobbit.service -m 0644 <"$here/systemd/hobbit.service"
  put $units/hobbit.socket -m 0644 <"$here/systemd/hobbit.socket"
  put "$page" -m 0644 <"$here/docs/operations.md"
  local nodes
  nodes=$(find /dev/nvmap /dev/nvgpu /dev/dri /dev/nvhost* /dev/nvidia* -type c 2>/dev/null | grep -v '/dri/card' | sort -u || true)
  if [ -n "$nodes" ]; then
    note "GPU nodes allowed in $dropin: $(wc -l <<<"$nodes")"
    { echo "# written by install.sh from the nodes it found"; echo "[Service]"; awk '{print "DeviceAllow=" $0 " rw"}' <<<"$nodes"; } |
      put $dropin -m 0644
  else
    note "no GPU nodes found: the service will compute on the CPU"
    [ ! -e $dropin ] || act rm -f $dropin
  fi
  act systemctl daemon-reload
}

# commands, manual pages and completions, where shells and man look; uninstall.sh removes every link into $prefix
link_commands() {
  act install -d /usr/local/bin
  act ln -sfn $prefix/bin/hobbit /usr/local/bin/hobbit
  act ln -sfn $prefix/bin/hobbit-edge /usr/local/bin/hobbit-edge
  local folder file
  for folder in man/man1 bash-completion/completions fish/vendor_completions.d zsh/site-functions; do
    # those of commands that this version does not have
    if [ -d /usr/local/share/$folder ]; then act find /usr/local/share/$folder -maxdepth 1 -lname "$prefix/*" -xtype l -delete; fi
    # zsh makes its own folder where it is installed
    if [ $folder = zsh/site-functions ] && [ ! -d /usr/local/share/$folder ]; then continue; fi
    for file in "$built/share/$folder"/*hobbit*; do
      if [ -e "$file" ]; then
        act install -d "/usr/local/share/$folder"
        act ln -sfn "$prefix/share/$folder/$(basename "$file")" "/usr/local/share/$folder/$(basename "$file")"
      fi
    done
  done
}

# whatever else keeps the service's user from its program is found out now
check_program() {
  [ $dry = no ] || return 0
  local said
  said=$(cd / && runuser -u hobbit -- "$built/bin/hobbit" --version 2>&1) ||
    fail "user hobbit cannot run $built/bin/hobbit: $(tail -n 1 <<<"$said"). Make the folders above it accessible (chmod o+x), or put it elsewhere." 78
  note "$said"
}

check_bundle() {
  if [ $dry = no ] || { [ -z "$bundle" ] && [ -r "$config" ]; }; then
    bundle=$(sed -n -E 's/^HOBBIT_BUNDLE="?([^"]*)"?$/\1/p' "$config" | tail -n 1)
  fi
  bundle=${bundle:-$state/bundle}
  if [ ! -e "$bundle/manifest.json" ]; then
    start=no
    say "no bundle at $bundle yet"
    note "copy one there (or run this again with --bundle DIR), then: systemctl start hobbit"
  elif [ $dry = no ] && ! runuser -u hobbit -- test -r "$bundle/manifest.json"; then
    fail "$bundle: user hobbit cannot read it. Run: setfacl -R -m u:hobbit:rX '$bundle' (and x on the folders above)." 78
  fi
  case $bundle in
    /home/* | /root/* | /tmp/* | /var/tmp/*) note "the unit hides /home, /root and /tmp: see systemd/examples/bundle-elsewhere.conf" ;;
  esac
}

# what is worth knowing about this machine, with the fix of each finding; it never fails an installation
examine() {
  if [ $dry = yes ]; then note "would run: hobbit doctor"; return; fi
  if "$prefix/bin/hobbit" --help | grep -q '^  doctor '; then
    say "hobbit doctor"
    (cd / && runuser -u hobbit -- "$prefix/bin/hobbit" doctor) | sed 's/^/    /' || true
  fi
}

start_units() {
  # a socket is refused while its service runs without it
  if { [ $use_socket = yes ] || [ $socket_was_active = yes ]; } && ! is_active hobbit.socket; then
    systemctl stop hobbit.service
    systemctl start hobbit.socket || return
  fi
  systemctl restart hobbit.service
}

start_service() {
  if [ $use_socket = yes ]; then act systemctl enable --quiet hobbit.socket; fi
  act systemctl enable --quiet hobbit.service
  if [ $start = no ]; then
    say "installed and enabled, not started"
    stage=complete
    return
  fi
  say "starting; the bundle is verified first, which takes a while"
  if [ $dry = yes ]; then
    act systemctl restart hobbit.service
    return
  fi
  stage=started
  if start_units; then
    systemctl show --property=StatusText --value hobbit.service | sed 's/^/    /'
    stage=complete
  else
    journalctl --no-pager --unit=hobbit --lines=20 --output=cat >&2 || true
    # what did not run before is no better to go back to
    if [ $was_active = no ]; then stage=complete; fi
    fail "the service did not start; its last words are above, more in: journalctl -u hobbit"
  fi
}

say_done() {
  if [ $dry = yes ]; then say "dry run: nothing was changed"; return; fi
  if [ $start = yes ]; then say "done. Next: docs/operations.md, or curl http://127.0.0.1:8080/health/ready"; fi
}

# shellcheck source=deploy/replacing.sh
. "$here/deploy/replacing.sh"
check_machine
begin_replacing
make_program
install_user
check_program
install_settings
install_units
switch_program
link_commands
check_bundle
start_service
examine
say_done
