#!/usr/bin/env bash
# Removes the hobbit service. Settings, drop-ins, state and bundles stay unless --purge is given. Run it as often as you like.
# Tested on Debian 12; NOT YET RUN ON A JETSON BOARD.
set -euo pipefail

say() { printf '==> %s\n' "$*"; }
fail() {
  printf 'uninstall.sh: %s\n' "$1" >&2
  exit "${2:-1}"
}

purge=no
case ${1:-} in
  '') ;;
  --purge) purge=yes ;;
  -h | --help)
    echo "usage: sudo deploy/uninstall.sh [--purge]    --purge: also settings, drop-ins, state, bundles in /var/lib/hobbit-edge, and the user"
    exit 0
    ;;
  *) fail "unknown option '$1'. See --help." 2 ;;
esac
[ "$(id -u)" = 0 ] || fail "expected to run as root. Use: sudo $0"
if [ -e /usr/lib/systemd/system/hobbit.service ]; then
  fail "the Debian package hobbit-edge is installed, whose files these are. Use: apt-get remove hobbit-edge (or purge)."
fi

exec 9</etc/systemd/system
flock --nonblock 9 || fail "install.sh or another uninstall.sh is at work. Wait until it is done."

say "stopping the service; requests under way are finished first"
for unit in hobbit.socket hobbit.service; do
  if [ -e /etc/systemd/system/$unit ]; then systemctl disable --quiet --now $unit; fi
done

say "removing units and program"
rm -f /etc/systemd/system/hobbit.service /etc/systemd/system/hobbit.socket
# install.sh wrote this one; others are settings of whoever runs the machine, limits and addresses among them
rm -f /etc/systemd/system/hobbit.service.d/10-devices.conf
for folder in /etc/systemd/system/hobbit.service.d /etc/systemd/system/hobbit.socket.d; do
  if [ $purge = yes ]; then rm -rf $folder; elif [ -d $folder ]; then rmdir --ignore-fail-on-non-empty $folder; fi
done
rm -f /usr/lib/sysusers.d/hobbit-edge.conf /usr/lib/tmpfiles.d/hobbit-edge.conf
rm -rf /usr/local/share/doc/hobbit-edge /var/cache/hobbit-edge
for folder in bin share/man/man1 share/bash-completion/completions share/fish/vendor_completions.d share/zsh/site-functions; do
  if [ -d /usr/local/$folder ]; then find /usr/local/$folder -maxdepth 1 -lname '/opt/hobbit-edge/*' -delete; fi
done
# folders that install.sh may have made; those with anything else in them stay
for folder in man/man1 bash-completion/completions bash-completion fish/vendor_completions.d fish doc; do
  if [ -d /usr/local/share/$folder ]; then rmdir --ignore-fail-on-non-empty /usr/local/share/$folder; fi
done
if [ -L /opt/hobbit-edge ]; then rm /opt/hobbit-edge; else rm -rf /opt/hobbit-edge; fi
rm -rf /opt/hobbit-edge.d
systemctl daemon-reload
systemctl reset-failed hobbit.service hobbit.socket 2>/dev/null || true

if [ $purge = yes ]; then
  say "removing settings, state and the user"
  rm -rf /etc/hobbit-edge /var/lib/hobbit-edge
  if id hobbit >/dev/null 2>&1; then userdel hobbit; fi
  if getent group hobbit >/dev/null; then groupdel hobbit; fi
else
  say "kept: /etc/hobbit-edge (settings), drop-ins of the units, /var/lib/hobbit-edge (state, bundles), user hobbit. --purge removes them."
fi
