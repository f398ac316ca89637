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
            driver._functions = {name: self._counted(name, each) for name, each in driver._functions.items()}
            return gpu

        return open_one

    def _counted(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.made[name] += 1
            return function(*arguments)

        return call

    def a_token(self, number: int) -> dict[str, float]:
        """Return launches and waits a token, if all that was counted was for `number` of them."""
        counts = {"launches": LAUNCHES, "waits": WAITS}
        sums = {what: sum(self.made[name] for name in names) for what, names in counts.items()}
        return {f"{what}_a_token": round(count / number, 2) for what, count in sums.items()}
