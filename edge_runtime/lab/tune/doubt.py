"""How far the gain that a prediction promises may be off, by how far apart the rounds of its probes were, and more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from edge_runtime.lab.tune.candidate import Candidate
from edge_runtime.lab.tune.measurement import Measurement
from edge_runtime.lab.tune.predict import RatePredictor


def doubt(predictor: RatePredictor, candidate: Candidate, rounds: float = 0.0) -> float | None:
    """Return by what share the predicted rate of a candidate, over that of what stands, may be off.

    The prediction is made again with each probe off by its own doubt, one at a time, and the changes are added as those
    of independent errors. What both sides have in common cancels: a drive that was probed too fast does no harm where
    only what is read changes.

    Args:
        predictor: of rates.
        candidate: that is predicted.
        rounds: by what share the rounds of what stands differ.

    Returns:
        None for what cannot be predicted.
    """
    own = _gain(predictor, candidate)
    if own is None:
        return None
    changes = [found / own - 1 for each in _varied(predictor, candidate, rounds) if (found := _gain(each, candidate))]
    return math.hypot(*changes) if changes else 0.0


def _gain(predictor: RatePredictor, candidate: Candidate) -> float | None:
    found = predictor.rate(candidate)
    return None if found is None else found * predictor.measured.token_ms


def _varied(predictor: RatePredictor, candidate: Candidate, rounds: float) -> Iterator[RatePredictor]:
    """Yield predictors of which one probe, what stands, or what is assumed of hidden reads, is off by its doubt."""
    speeds, drive = predictor.speeds, predictor.drive
    most = max((speeds.doubt(pair) for pair in speeds.pairs), default=0.0)
    if most:  # the whole machine was slower or faster while it was probed
        yield replace(predictor, speeds=speeds.slower(dict.fromkeys(speeds.pairs, 1 / (1 + most))))
    for pair in speeds.pairs:
        if speeds.doubt(pair):
            yield replace(predictor, speeds=speeds.slower({pair: 1 + speeds.doubt(pair)}))
    yield replace(predictor, hides_as_it_computes=True)
    if rounds:
        yield replace(predictor, measured=_slower(predictor.measured, 1 + rounds))
    if drive is None:
        return
    own, wanted = predictor.settings(predictor.stands), predictor.settings(candidate)
    line = drive.line(wanted)
    if line is None or not line.doubt:
        return
    yield replace(predictor, drive=drive.having(wanted, replace(line, batch_ms=line.batch_ms * (1 + line.doubt))))
    if drive.line(own) is not line:
        slower = replace(line, batch_ms=line.batch_ms * (1 + line.doubt), byte_ms=line.byte_ms * (1 + line.doubt))
        yield replace(predictor, drive=drive.having(wanted, slower))


def _slower(measured: Measurement, factor: float) -> Measurement:
    return replace(measured, phase_ms={name: spent * factor for name, spent in measured.phase_ms.items()})
