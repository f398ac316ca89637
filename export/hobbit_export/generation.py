"""generation_config.json: how a model wants to be sampled, for the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.sampling_defaults import SamplingDefaults
from hobbit_export.arch.config import number
from hobbit_export.arch.decoder import GENERATION

_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")


def sampling_defaults(generation: Mapping[str, Any]) -> SamplingDefaults:
    """Read what the file says of sampling, and nothing it leaves to transformers.

    ``do_sample: false`` is greedy. With ``do_sample: true`` alone the temperature is 1, as transformers has it. Where
    the file does not say whether to sample, its temperature and the like are taken for what the model's authors
    recommend.

    Args:
        generation: generation_config.json; may be empty.

    Raises:
        ConfigError: a value is no number, or none that a sampler takes.
    """
    values: dict[str, Any] = {
        key: number(generation[key], f"{GENERATION}: {key}") for key in _NUMBERS if generation.get(key) is not None
    }
    top_k = generation.get("top_k")
    if top_k is not None:
        if isinstance(top_k, bool) or not isinstance(top_k, int):
            raise ConfigError(f"{GENERATION}: top_k: expected a whole number, got {str(top_k)[:60]}.")
        values["top_k"] = max(top_k, 0)  # -1 is some programs' word for all
    do_sample = generation.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        raise ConfigError(f"{GENERATION}: do_sample: expected true or false, got {str(do_sample)[:60]}.")
    if do_sample is False:
        values["temperature"] = 0.0
    elif do_sample:
        values.setdefault("temperature", 1.0)
    defaults = SamplingDefaults(**values)
    try:
        defaults.check(GENERATION)
    except ValueError as err:
        raise ConfigError(f"{err}. Correct the file, or delete it.") from err
    return defaults
