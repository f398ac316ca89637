"""Which policies `hobbit tune` tries, by what a change may cost and whether a base is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.base.errors import ConfigError
from edge_runtime.lab.tune.policies import LossAllowed
from edge_runtime.lab.tune.settings import TuneSettings
from edge_runtime.policy import POLICIES, keeps_base, parse_policy


def tried(base: bool | None, max_kld: float | None = 0.02) -> list[str]:
    return [*LossAllowed(max_kld, base).policies()]


def test_every_policy_is_tried_and_each_can_be_asked_for():
    found = tried(None)
    assert {parse_policy(text)[0] for text in found} == set(POLICIES) - {"lossless"}
    assert [keeps_base(text) for text in found] == [True] + [False] * (len(found) - 1), "what is not predicted is first"
    assert len(set(found)) == len(found)


def test_a_base_is_tried_alone_where_it_is_asked_for_and_not_where_it_is_refused():
    assert all(keeps_base(text) for text in tried(True))
    assert [parse_policy(text)[1]["max_kld"] for text in tried(True)] == [0.02, 0.01]
    assert not any(keeps_base(text) for text in tried(False))
    assert tried(False) == tried(None)[1:]


def test_without_a_budget_nothing_that_changes_what_is_said_is_tried():
    assert tried(None, None) == []
    with pytest.raises(ConfigError, match="--base-resident: .* Add --max-kld"):
        TuneSettings(Path("x.yaml"), base_resident=True)
    assert TuneSettings(Path("x.yaml"), base_resident=False).allowed == LossAllowed(None, False)
