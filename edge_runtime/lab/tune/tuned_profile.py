"""The profile a tuning writes: that of the board it began with, with what was measured on this machine in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from edge_runtime.base.sizes import KIB, MIB
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.kinds import Size
from edge_runtime.config.options import BY_NAME
from edge_runtime.config.profile_values import PowerMode, Setting, TunedFor
from edge_runtime.lab.tune.mode_switch import OPTION
from edge_runtime.lab.tune.result import Tuning


def tuned_profile(
    base: DeviceProfile, tuning: Tuning, facts: Mapping[str, float | None], *, today: date, command: str
) -> DeviceProfile:
    """Return the profile.

    Args:
        base: what the tuning began with.
        tuning: what it found.
        facts: measured rates by the names a profile has for them; None was not measured, and stays as it was.
        today: day of the measurement, UTC.
        command: that was given.
    """
    when = today.isoformat()
    settings = {
        name: Setting(_written(name, value), "measured", note=tuning.why(name), when=when, how=command)
        for name, value in tuning.best.options.items()
        if name != OPTION
    }
    measured = {
        name: Setting(round(value, 4), "measured", when=when, how=command)
        for name, value in facts.items()
        if value is not None
    }
    mode, modes = tuning.best.options.get(OPTION), base.power_modes
    if mode is not None:
        measured[OPTION] = Setting(mode, "measured", note=tuning.why(OPTION), when=when, how=command)
        modes = modes if mode in [known.name for known in modes] else [*modes, PowerMode(mode)]
    return replace(
        base,
        name=f"{base.name.removesuffix('-tuned')}-tuned",
        ran_on_hardware=True,
        format=2,
        match=None,
        tuned_for=TunedFor(
            fingerprint=str(tuning.about["fingerprint"]), based_on=base.name, version=str(tuning.about["version"])
        ),
        power_modes=modes,
        settings={**base.settings, **settings},
        facts={**base.facts, **measured},
    )


def _written(name: str, value: Any) -> Any:
    """Write sizes as people do."""
    if not isinstance(BY_NAME[name].kind, Size) or not isinstance(value, int):
        return value
    for unit, size in (("MiB", MIB), ("KiB", KIB)):
        if value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}B"
