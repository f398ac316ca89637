"""What an installation left on a machine: every file before and after, but for what the system itself writes."""

from __future__ import annotations

from machine import Machine

_SYSTEMS_OWN = (
    "proc", "sys", "tmp", "run", "dev", "old", "work", "root", "srv", "var/log", "var/tmp", "var/lib/dpkg", "var/lib/systemd",
    "var/cache/apt", "var/cache/ldconfig", "var/cache/debconf", "var/cache/man", "var/lib/apt", "var/lib/PackageKit",
)  # fmt: skip
_WRITTEN_ANEW = {"./etc/passwd-", "./etc/group-", "./etc/shadow-", "./etc/gshadow-", "./etc/.pwd.lock"}
"""Copies that adding a user makes of the files before."""


def files(machine: Machine) -> set[str]:
    """Every file and folder of a machine that is not the system's own to write."""
    pruned = " -o ".join(f"-path ./{name}" for name in _SYSTEMS_OWN)
    return set(machine.shell(f"cd / && find . -xdev \\( {pruned} \\) -prune -o -print").splitlines()) - _WRITTEN_ANEW


def accounts(machine: Machine) -> str:
    """The service's user and group, empty if there are none."""
    return machine.shell("getent passwd hobbit; getent group hobbit", check=False)
