"""Power as jetson-stats' service says it. The only module that knows jtop, which is AGPL-3.0 and never needed.

`jtop.power` is ``{"rail": {name: {"volt", "curr", "power", "avg", ...}}, "tot": {"power", "avg", "name"?}}`` in mV, mA
and mW. Where the board has an input rail, it stands under `tot` by its name. Where it has none, `tot` is the sum of all
rails, some of which feed others, so it is not used: the sum is ours, as for hwmon.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.extras import install_extra
from edge_runtime.telemetry.power.base import MeterInfo, PowerMeter, Values, plausible_watts, require_sense
from edge_runtime.telemetry.power.hwmon import total_of

_INTERVAL_S = 0.1
_MILLI = 1e-3


class JtopMeter:
    """Implements `PowerMeter`.

    Args:
        client: a started `jtop.jtop`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        rails = tuple(_readings(client.power))
        total, covers = total_of(rails)
        self.info = MeterInfo("jtop", "jetson-stats' jtop service", rails, total, covers)

    def read(self) -> Values:
        """See `PowerMeter.read`."""
        try:
            found = _readings(self._client.power) if self._client.ok(spin=True) else {}
        except Exception:  # noqa: BLE001 - jtop's own errors are many, and none may end a run
            found = {}
        return {rail: found.get(rail) for rail in self.info.rails}

    def close(self) -> None:
        """See `PowerMeter.close`."""
        self._client.close()


def _readings(power: Any) -> dict[str, float | None]:
    """Return watts by rail of a `jtop.power`."""
    if not isinstance(power, Mapping):
        return {}
    rails = dict(power.get("rail", {}))
    total = power.get("tot", {})
    if total.get("name"):
        rails[total["name"]] = total
    return {str(name): _watts(value.get("power")) for name, value in rails.items() if value.get("online", True)}


def _watts(milliwatts: Any) -> float | None:
    return plausible_watts(milliwatts * _MILLI) if isinstance(milliwatts, (int, float)) else None


def open_meter(root: Path) -> PowerMeter:
    """Connect to jtop's service. `root` is not used: the service reads the board's own /sys.

    Raises:
        DeviceError: jetson-stats is not installed, its service does not run, or it says nonsense.
    """
    try:
        from jtop import jtop
    except ImportError as err:
        raise DeviceError(f"jtop: jetson-stats is not installed. {install_extra('jetson')}") from err
    client = jtop(interval=_INTERVAL_S)
    try:
        client.start()
        meter = JtopMeter(client)
    except Exception as err:
        client.close()
        raise DeviceError(f"jtop: {err} Is its service running (systemctl status jtop)?") from err
    return require_sense(meter)
