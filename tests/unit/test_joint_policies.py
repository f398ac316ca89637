"""Several policies in one pass: their decisions joined."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import Residents, context, route

from edge_runtime.policy import create_policy
from edge_runtime.policy.base import Policy, Routing
from edge_runtime.policy.joint import PassPolicies

E, K = 8, 4
NOBODY = Residents(E)


def make(text: str) -> Policy:
    policy = create_policy(text, context(num_experts=E, top_k=K))
    policy.begin_pass(1, has_logits=True)
    return policy


def token(*experts: int) -> np.ndarray:
    """Logits of a router that prefers these experts, in this order."""
    logits = np.full(E, -9.0, np.float32)
    logits[list(experts)] = np.arange(len(experts), 0, -1)
    return logits


def routed(*tokens: np.ndarray) -> Routing:
    return route(np.stack(tokens), K, norm_topk_prob=True)


def last_uses(*orders: list[int]) -> list[int]:
    """What is left of uses one after the other if each expert counts where it is used last."""
    every = [expert for order in orders for expert in order]
    return [expert for at, expert in enumerate(every) if expert not in every[at + 1 :]]


@pytest.mark.parametrize(
    "texts",
    [["max-rank", "cumsum"], ["max-rank", "lossless"], ["lossless", "max-rank"], ["max-rank", "cumsum", "max-rank"],
     ["lossless", "max-rank", "lossless"]],
)  # fmt: skip
def test_experts_count_as_used_when_the_last_policy_uses_them(texts):
    """By policy, in the order of their first sequences; what says no order uses experts by number, as alone."""
    tokens = [token(6, 1, 7, 3), token(5, 3, 1, 0), token(2, 5, 6, 4)][: len(texts)]
    own = {text: [each for name, each in zip(texts, tokens, strict=True) if name == text] for text in texts}
    alone = [make(text).decide(0, routed(*those), NOBODY) for text, those in own.items()]
    orders = [np.flatnonzero(d.tiers) if d.use_order is None else d.use_order for d in alone]
    assert [d.use_order is None for d in alone] == [text == "lossless" or len(own[text]) > 1 for text in own]
    made = {text: make(text) for text in own}
    policies = PassPolicies([made[text] for text in texts], [1] * len(texts))
    joined = policies.decide(0, routed(*tokens), NOBODY)
    assert joined.use_order.tolist() == last_uses(*(order.tolist() for order in orders))
    assert sorted(joined.use_order) == np.flatnonzero(joined.tiers).tolist()
    assert joined.use_order.dtype == np.intp


def test_policies_without_an_order_have_none_together():
    """Rules that follow a pass token by token are told which token uses what instead."""
    policies = [make("lossless"), make("lossless")]
    assert PassPolicies(policies, [1, 1]).decide(0, routed(token(6, 1), token(3, 2)), NOBODY).use_order is None
