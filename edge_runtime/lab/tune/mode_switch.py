"""Power modes of a Jetson as candidates of a tuning: put in force before a measurement, and set back at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_runtime.lab.bench.power_modes import Mode, PowerModes

OPTION = "power_mode"
"""What candidates call it; no option of an engine."""


class ModeSwitch:
    """Puts in force what a candidate asks for.

    Args:
        modes: of the board.
    """

    def __init__(self, modes: PowerModes) -> None:
        self._modes = modes
        self._by_name = {mode.name: mode for mode in modes.modes}
        self._own = self._numbered(modes.original)
        self._now: Mode | None = self._numbered(modes.current())

    @property
    def others(self) -> list[str]:
        """Names of all modes but the one that was found in force."""
        return [name for name, mode in self._by_name.items() if mode.number != self._own.number]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Modes may be changed inside this block; see `PowerModes.changing`."""
        with self._modes.changing():
            yield

    def enter(self, name: str | None) -> str | None:
        """Put a mode in force, None for the one that was found; return why that did not work, None if it did.

        Raises:
            DeviceError: nvpmodel hangs, or does not say which mode is in force.
        """
        wanted = self._own if name is None else self._by_name.get(name)
        if wanted is None:
            return f"there is no power mode {name!r} here"
        if wanted == self._now:
            return None
        self._now = None  # what raises from here on may have changed the board all the same
        failed = self._modes.set(wanted)
        self._now = wanted if failed is None else self._numbered(self._modes.current())
        return failed

    def _numbered(self, number: int) -> Mode:
        return next((mode for mode in self._modes.modes if mode.number == number), Mode(number, ""))
