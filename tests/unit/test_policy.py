"""Policies by name, and lossless."""

from __future__ import annotations

import numpy as np
import policy_cases
import pytest

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy import Registered, create_policy, parse_policy
from edge_runtime.policy.base import PolicyContext, Routing
from edge_runtime.policy.lossless import Lossless


class Recorder:
    name = "recorder"

    def __init__(self, context: PolicyContext, **params) -> None:
        self.given = {"tier": context.tier, **params}


PARAMS = {
    "t1": Param(0.5, "a threshold", "nowhere", 0, 1),
    "depth": Param(2, "a count", "nowhere"),
    "soft": Param(False, "a switch", "nowhere"),
}
FAKES = {"recorder": Registered(Recorder, PARAMS), "lossless": Registered(Lossless)}


def context(**changes) -> PolicyContext:
    return policy_cases.context(3, 5, 2, **({"tier": 4, "tier_bytes": {2: 10, 4: 18}} | changes))


def test_parameters_are_converted():
    policy = create_policy("recorder:t1=0.6, depth=3,soft=true", context(), FAKES)
    assert policy.given == {"tier": 4, "t1": 0.6, "depth": 3, "soft": True}
    defaults = ("recorder", {"t1": 0.5, "depth": 2, "soft": False})
    assert parse_policy("recorder", FAKES) == defaults
    assert parse_policy("recorder:", FAKES) == defaults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("losless", r"policy: expected one of .*lossless.*, got 'losless'\. Did you mean 'lossless'"),
        ("", "policy: expected one of"),
        ("lossless:x=1", "policy 'lossless': unknown parameter 'x'; it takes none"),
        ("recorder:dept=1", r"unknown parameter 'dept'; it takes depth, soft, t1\. Did you mean 'depth'"),
        ("recorder:t1", "expected param=value, got 't1'"),
        ("recorder:t1=x", r"policy 'recorder'\.t1: expected float, got 'x'"),
        ("recorder:t1=1.5", r"t1: expected 0 to 1, got 1\.5"),
        ("recorder:t1=nan", "expected 0 to 1, got nan"),
        ("recorder:depth=1.5", "expected int"),
        ("recorder:soft=1", "expected true or false"),
        ("recorder:t1=1,t1=2", "given twice"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_policy(text, FAKES)


def test_lossless_keeps_the_routers_choice():
    policy = create_policy("lossless", context(tier=6))
    ids = np.array([[3, 1], [1, 0]], np.int32)
    weights = np.array([[0.7, 0.3], [1.0, 0.0]], np.float32)
    policy.begin_sequence()
    decision = policy.decide(0, Routing(np.zeros((2, 5), np.float32), ids, weights), None)
    assert (decision.topk_ids == ids).all()
    assert (decision.topk_weights == weights).all()
    assert decision.tiers.tolist() == [0, 6, 0, 6, 0], "an expert of weight exactly 0 is not read"
    assert decision.tiers.dtype == np.uint8
    assert (decision.substituted, decision.skipped, decision.route_changed) == (0, 0, 0)
    assert (policy.name, policy.params) == ("lossless", {})
