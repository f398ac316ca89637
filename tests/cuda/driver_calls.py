"""Counts what is asked of the driver: launches, and how often the host waits for the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

LAUNCHES = ("cuLaunchKernel", "cuGraphLaunch")
WAITS = ("cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize")


class DriverCalls:
    """Calls of the driver's functions by GPUs opened through `counting`.

    Attributes:
        made: how often each function was called.
    """

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()

    def counting(self, open_gpu: Any) -> Any:
        """Return what opens the GPU as `open_gpu` does, and has its calls counted from then on."""

        def open_one(index: int) -> Any:
            gpu = open_gpu(index)
            driver = gpu.device.driver
            driver.call, driver.status = self._counted(driver.call), self._counted(driver.status)
            return gpu

        return open_one

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(name: str, *arguments: object, **more: Any) -> Any:
            self.made[name] += 1
            return call(name, *arguments, **more)

        return counted

    def a_token(self, number: int) -> dict[str, float]:
        """Return launches and waits a token, if all that was counted was for `number` of them."""
        counts = {"launches": LAUNCHES, "waits": WAITS}
        sums = {what: sum(self.made[name] for name in names) for what, names in counts.items()}
        return {f"{what}_a_token": round(count / number, 2) for what, count in sums.items()}
