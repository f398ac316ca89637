"""What an installation left on a machine: every file and account before and after, but for what is the system's own."""

from __future__ import annotations

import re

from machine import Machine

_SYSTEMS_OWN = (
    "proc", "sys", "tmp", "run", "dev", "old", "work", "root", "srv", "var/log", "var/tmp", "var/lib/dpkg",
    "var/cache/apt", "var/cache/ldconfig", "var/cache/debconf", "var/cache/man", "var/lib/apt", "var/lib/PackageKit",
)  # fmt: skip
_OF_SYSTEMD = "./var/lib/systemd/*", "./var/lib/systemd/deb-systemd-helper-*"
"""systemd's own state, but for what maintainer scripts have written down there of the units of their packages."""
_WRITTEN_ANEW = {"./etc/passwd-", "./etc/group-", "./etc/shadow-", "./etc/gshadow-", "./etc/.pwd.lock"}
"""Copies that adding a user makes of the files before."""


def command(root: str = "/") -> str:
    """The shell's line that lists every file and folder below a root that is not the system's own to write."""
    pruned = " -o ".join(f"-path ./{name}" for name in _SYSTEMS_OWN)
    state, kept = _OF_SYSTEMD
    return f"cd {root} && find . -xdev \\( {pruned} -o -path '{state}' ! -path '{kept}' \\) -prune -o -print"


def files(machine: Machine) -> set[str]:
    """Every file and folder of a machine that is not the system's own to write."""
    return set(machine.shell(command()).splitlines()) - _WRITTEN_ANEW


def accounts(machine: Machine) -> set[str]:
    """Every user and group, with the members of each: the lines of getent passwd and getent group."""
    return set(machine.shell("getent passwd; getent group").splitlines())


def left_of_accounts(before: set[str], after: set[str]) -> set[str]:
    """What differs, but for a group `render` that nobody is in.

    sysusers makes it where there is none. It is the name by which udev and others of the system give a GPU's nodes away:
    by the time of a purge somebody else may need it, so it stays.
    """
    return (before - after) | {line for line in after - before if not re.fullmatch(r"render:x:\d+:", line)}
