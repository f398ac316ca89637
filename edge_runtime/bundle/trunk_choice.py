"""calibration/trunk.json: why an exporter that was to choose took an int4 trunk, or did not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from edge_runtime.base.errors import BundleError
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.bundle import Bundle

NAME = "calibration/trunk.json"
VERSION = 1
MAX_BYTES = 4 << 10


@dataclass(frozen=True)
class TrunkLoss:
    """The whole file: an int4 trunk against the int8 one, next to the same experts.

    Attributes:
        version: 1.
        trunk: the precision that was taken.
        kld_mean: KL divergence of the next token's distribution from the int8 trunk's, in nats; likewise its 99th
            percentile.
        kld_bound: int4 is taken where the mean is not above this.
        top1_agreement: share of positions where both prefer the same token.
        ppl: perplexity of the held-out text with the int4 trunk.
        baseline_ppl: the same with the int8 trunk.
        tokens: held out, which all this was measured on.
        fitted_tokens: other ones of the text, which the int4 trunk was fitted to.
        held_out: which part of the text was held out, for people.
        tier: of the experts.
    """

    version: int
    trunk: Literal["int8", "int4"]
    kld_mean: float
    kld_p99: float
    kld_bound: float
    top1_agreement: float
    ppl: float
    baseline_ppl: float
    tokens: int
    fitted_tokens: int
    held_out: str
    tier: int


def parse(text: str | bytes, where: str = NAME) -> TrunkLoss:
    """Check untrusted text.

    Raises:
        BundleError: names the key.
    """
    try:
        found = from_mapping(TrunkLoss, json.loads(text), where)
        if found.version != VERSION:
            raise ValueError(f"{where}: version: expected {VERSION}, got {found.version}. Export the bundle again")
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{err}.") from err
    return found


def read(bundle: Bundle) -> TrunkLoss | None:
    """Return what a bundle says, or None where nothing was chosen.

    Raises:
        BundleError: the part is damaged.
    """
    part = next((part for part in bundle.manifest.parts if part.name == NAME), None)
    return None if part is None else parse(bundle.read_part(part, limit=MAX_BYTES))
