"""Memory of helper processes counts once: in a plan, in a reload, and by what elastic memory follows.

A made-up machine: its MemAvailable falls by what this process and its helpers hold. The helpers are real.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_runtime import Engine
from edge_runtime.base.confined import ConfinedHost, Limits
from edge_runtime.base.sizes import MIB
from edge_runtime.config import limits, pressure
from edge_runtime.engine import replanning, sizing

OWN, OTHERS, RESERVE, TOTAL = 100 * MIB, 700 * MIB, 64 * MIB, 4096 * MIB
JOB = "confined_jobs:echo"
CLOSE = 64 << 10
"""Bytes: a helper that is idle may still take a page."""


def held() -> int:
    """Anonymous memory of the helpers of this process, as another file of the kernel's says it."""
    helpers = [
        child.pid for child in psutil.Process().children() if "edge_runtime.base.confined_host" in child.cmdline()
    ]
    found = [re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()) for pid in helpers]
    return sum(int(numbers[0]) << 10 for numbers in found)


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ConfinedHost]]:
    """Makes helper processes that have done a job."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    made: list[ConfinedHost] = []

    def make() -> ConfinedHost:
        made.append(ConfinedHost({JOB: Limits()}))
        made[-1].run(JOB, 1)
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], list[int]]:
    """What may be used by the plan in force, a plan of a reload, and elastic memory, on the made-up machine."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("")
    meminfo = tmp_path / "proc/meminfo"

    def write() -> Path:
        left = TOTAL - OTHERS - OWN - held()
        text = f"MemTotal: {TOTAL >> 10:12} kB\nMemAvailable: {left >> 10:12} kB\n"
        with open(meminfo, "r+" if meminfo.exists() else "w") as file:
            file.write(text)
        return tmp_path

    class Watch(pressure.PressureWatch):
        def __init__(self, **given: Any) -> None:
            super().__init__(own_bytes=lambda: OWN, root=write(), **given)

        def look(self, **given: Any) -> pressure.Pressure:
            return super().look(**(given | {"enough": None}))

    monkeypatch.setattr(pressure, "PressureWatch", Watch)
    monkeypatch.setattr(replanning, "anonymous_bytes", lambda: OWN)
    monkeypatch.setattr(sizing, "rss_bytes", lambda: OWN)  # what earlier tests left in this process comes and goes
    monkeypatch.setattr(replanning, "read_limits", lambda own: limits.read_limits(write(), own))

    def said(engine: Engine) -> list[int]:
        write()
        parts = engine.parts
        again = replanning.plan_again(parts, parts.config, parts.active.choice)
        assert parts.elastic is not None
        return [engine.plan.budget_bytes, again.budget_bytes, parts.elastic.look().allowed_bytes]

    return said


def opened(bundle: Path) -> Engine:
    return Engine.open(bundle, context=64, threads=1, self_check=False, elastic=True, os_reserve=RESERVE)


ALL_THERE_IS = TOTAL - OTHERS - RESERVE


def test_a_helper_of_before_and_after_a_reload_counts_once(model_bundle, look, helper):
    with opened(model_bundle) as engine:
        alone = engine.plan
        assert look(engine) == pytest.approx([ALL_THERE_IS] * 3, abs=CLOSE)
    before, host = held(), helper()
    taken = held() - before
    with opened(model_bundle) as engine:
        assert engine.plan.planned_bytes - alone.planned_bytes > taken, "it is a part of the plan, with its job's limit"
        assert look(engine) == pytest.approx([ALL_THERE_IS] * 3, abs=CLOSE), "so it is not gone from what there is"
        host.close()
        assert look(engine) == pytest.approx([ALL_THERE_IS] * 3, abs=CLOSE), "it may start again"


def test_a_helper_that_no_plan_counts_is_like_anybody_else(model_bundle, look, helper):
    with opened(model_bundle) as engine:
        before = held()
        helper()
        left = ALL_THERE_IS - (held() - before)
        assert look(engine) == pytest.approx([ALL_THERE_IS, left, left], abs=CLOSE)
