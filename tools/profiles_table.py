"""Write the table of packaged profiles in docs/profiles.md: `python tools/profiles_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import marked_page

from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.profiles import load_profile, profile_names

PAGE = Path(__file__).parents[1] / "docs/profiles.md"


def rows() -> Iterator[str]:
    """Yield a line for each packaged profile."""
    yield "| name | board | memory seen | cores | drive, GB/s | memory, GB/s | power modes | run in |"
    yield "|---|---|---|---|---|---|---|---|"
    for profile in map(load_profile, profile_names()):
        yield f"| {' | '.join(_cells(profile))} |"


def _cells(profile: DeviceProfile) -> list[str]:
    facts = [profile.fact(name).value for name in ("system_memory", "cpus", "drive_read_gb_s", "memory_read_gb_s")]
    modes = ", ".join(mode.name for mode in profile.power_modes)
    shown = [*facts, modes, profile.fact("power_mode").value]
    return [f"`{profile.name}`", profile.board, *("-" if value in (None, "") else str(value) for value in shown)]


def main() -> int:
    """Write the page, or say whether it is up to date."""
    fresh = marked_page.put_all(PAGE, "profiles_table", {"profiles": rows()})
    return marked_page.write({PAGE: fresh}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
