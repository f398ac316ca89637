"""Which policies a tuning tries, where it may change what is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.policy import POLICIES, parse_policy

_OF_BUDGETS = "rate-distortion"


@dataclass(frozen=True)
class LossAllowed:
    """What candidates may change.

    Attributes:
        max_kld: nats a token that a change may cost; None: nothing may change.
        base_resident: whether candidates keep every expert in memory at its lowest tier; None: some do, some do not.
    """

    max_kld: float | None = None
    base_resident: bool | None = None

    def policies(self) -> Iterator[str]:
        """Yield every policy to try: all but lossless, those with a budget of their own at this one and at half of it.

        Those that keep a base come first: they are not predicted.
        """
        if self.max_kld is None:
            return
        budgets = [f"{_OF_BUDGETS}:max_kld={budget:g}" for budget in (self.max_kld, self.max_kld / 2)]
        if self.base_resident is not False:
            yield f"{budgets[0]},base=true"
        if self.base_resident:
            yield f"{budgets[1]},base=true"
            return
        for name in POLICIES:
            if name == _OF_BUDGETS:
                yield from (*budgets, f"{budgets[0]},low=4")
            elif name == "hobbit":
                yield from ("hobbit", "hobbit:quantiles=true", "hobbit:t1=0.8,t2=1")
            elif name != "lossless":
                yield name


def keeps_base(policy: str) -> bool:
    """Whether a policy, given with parameters, keeps every expert in memory at its lowest tier."""
    return bool(parse_policy(policy)[1].get("base", False))
