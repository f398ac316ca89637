"""The serving loop's pulse inside one long pass: a prompt chunk read from a slow drive is not a hang."""

from __future__ import annotations

import numpy as np

from edge_runtime import Engine


def test_every_layer_of_a_prompt_pass_beats(model_bundle):
    with Engine.open(model_bundle, memory="1GiB", context=64, tier=8, self_check=False) as engine:
        beats = []
        engine.parts.decoder.on_layer = lambda: beats.append(1)
        engine.logits(np.arange(5, dtype=np.int32))
        assert len(beats) == engine.spec.num_layers
