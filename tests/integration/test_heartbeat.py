"""The serving loop's pulse inside one long pass: a prompt chunk read from a slow drive is not a hang."""

from __future__ import annotations

import numpy as np

from edge_runtime import Engine


def test_every_layer_of_a_prompt_pass_beats(model_bundle):
    with Engine.open(model_bundle, memory="1GiB", context=64, tier=8, self_check=False) as engine:
        beats = []
        ids, parts = np.arange(5, dtype=np.int32), engine.parts
        parts.decoder.forward(ids, parts.kv, slice(0, 1), lambda: beats.append(1))
        assert len(beats) == engine.spec.num_layers
