#!/usr/bin/env bash
# Fills a folder with a small Debian or Ubuntu: python3 and what a shell script needs, extracted, never configured. No root
# of the machine is touched; packages come by the machine's own apt, in a private state of it.
# usage: [RELEASE=trixie] root.sh ARCH DIR [PACKAGE...]     ARCH: amd64 or arm64
# RELEASE: bookworm, trixie, forky, jammy or noble, each with a Python of its own. Without it that of this machine where it is
# a Debian, from the mirrors it has, else bookworm.
set -euo pipefail
arch=$1 root=$2
shift 2
packages=(python3 bash coreutils sed grep libstdc++6 base-files "$@")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,etc/preferences.d,etc/apt.conf.d}
: >"$work/status"
if [ -z "${RELEASE:-}" ] && ! grep -qsx 'ID=debian' /etc/os-release; then RELEASE=bookworm; fi
case ${RELEASE:-} in
  '')
    cp -r /etc/apt/sources.list.d "$work/etc/"
    [ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$work/etc/"
    # mirrors of other vendors have no other architectures
    find "$work/etc" -type f \( -name '*.list' -o -name '*.sources' \) -print0 |
      xargs -0 -r grep -LZ 'debian' | xargs -0 -r rm -f
    ;;
  jammy | noble)
    mirror=http://archive.ubuntu.com/ubuntu
    if [ "$arch" != amd64 ]; then mirror=http://ports.ubuntu.com/ubuntu-ports; fi
    keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg
    ;;
  *) mirror=http://deb.debian.org/debian keys=/usr/share/keyrings/debian-archive-keyring.gpg ;;
esac
if [ -n "${RELEASE:-}" ]; then
  # the keys of the other vendor may not be on this machine; what is made is thrown away
  how=trusted=yes
  if [ -e "$keys" ]; then how=signed-by=$keys; fi
  echo "deb [$how] $mirror $RELEASE main" >"$work/etc/sources.list"
  mkdir -p "$work/etc/sources.list.d"
fi
apt=(-o "Dir::State=$work/state" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
  -o "Dir::Etc::sourcelist=$work/etc/sources.list" -o "Dir::Etc::sourceparts=$work/etc/sources.list.d"
  -o "Dir::Etc::preferencesparts=$work/etc/preferences.d" -o "APT::Architecture=$arch" -o "APT::Architectures::=$arch"
  -o APT::Install-Recommends=false -o Acquire::Languages=none -o Debug::NoLocking=true -o APT::Sandbox::User=root -qq)
apt-get "${apt[@]}" update 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
apt-get "${apt[@]}" --download-only --yes --no-remove install "${packages[@]}" >"$work/said" 2>&1 ||
  { tail -n 20 "$work/said" >&2; exit 1; }

mkdir -p "$root"/usr/{bin,sbin,lib} "$root"/{proc,dev,tmp,etc,root,run,srv,sys,var/tmp}
for name in bin sbin lib; do ln -sfn "usr/$name" "$root/$name"; done
if [ "$arch" = amd64 ]; then mkdir -p "$root/usr/lib64" && ln -sfn usr/lib64 "$root/lib64"; fi
for package in "$work"/cache/archives/*.deb; do
  # a package with files below /lib would replace the link by a folder
  dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
done
[ -e "$root/usr/bin/sh" ] || ln -s bash "$root/usr/bin/sh"
chmod 1777 "$root/tmp" "$root/var/tmp"
echo "root:x:0:0:root:/root:/bin/bash" >"$root/etc/passwd"
echo "root:x:0:" >"$root/etc/group"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
