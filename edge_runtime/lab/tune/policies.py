"""Which policies a tuning tries, where it may change what is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_runtime.policy import POLICIES, keeps_base


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
        """Yield what to try of every policy; those that keep a base come first, as they are not predicted.

        Of these, only the first where nobody says whether there is to be a base.
        """
        if self.max_kld is None:
            return
        texts = [
            name + (f":{params.format(budget=self.max_kld, half=self.max_kld / 2)}" if params else "")
            for name, policy in POLICIES.items()
            for params in policy.tuning_candidates
        ]
        if self.base_resident is not False:
            yield from [text for text in texts if keeps_base(text)][: None if self.base_resident else 1]
        if not self.base_resident:
            yield from (text for text in texts if not keeps_base(text))
