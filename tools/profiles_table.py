"""Write the table of packaged profiles in docs/profiles.md: `python tools/profiles_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.config.profiles import DeviceProfile, load_profile, profile_names

PAGE = Path(__file__).parents[1] / "docs/profiles.md"
START, END = "<!-- profiles: written by tools/profiles_table.py -->", "<!-- end of profiles -->"


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


def page_of(old: str) -> str:
    """Return the page with its table replaced.

    Raises:
        SystemExit: the markers are missing.
    """
    before, found, rest = old.partition(START)
    _, closing, after = rest.partition(END)
    if not found or not closing:
        raise SystemExit(f"{PAGE.name}: expected the lines {START!r} and {END!r}.")
    return f"{before}{START}\n\n{chr(10).join(rows())}\n\n{END}{after}"


def main() -> int:
    """Write the page, or say whether it is up to date."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = page_of(page)
    if "--check" in sys.argv:
        return int(fresh != page)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
