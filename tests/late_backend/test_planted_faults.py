"""Faults a host can make, planted one by one: the late backend tells of each, and without its telling numbers are wrong.

Each replaces one wait or one rule by what a careless host would do. Without a fault the same run gives the CPU
backend's bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime import Engine
from edge_runtime.backends.cpu.space import InPlace
from edge_runtime.base.errors import DeviceError, ExpertReadError
from edge_runtime.engine.reload import Reload
from edge_runtime.experts.residency import SlotTable
from edge_runtime.experts.slots_in_use import SlotsInUse
from late_backend import MODES, both
from late_backend.device import COMPUTE, COPY, Device, LateEvent
from late_backend.hazards import Hazards, HostFault
from late_backend.memory import LateSpace
from late_backend.tensors import LateTensors
from late_backend.transfers import LateTransfers, StagedLanding

Plant = Callable[[pytest.MonkeyPatch], None]
Scenario = Callable[[Engine, np.ndarray], None]


@pytest.fixture(scope="module")
def expected(model_bundle):
    with both.opened(model_bundle, "cpu", slots=both.FEW) as engine:
        return both.logits(engine)


def waves(engine: Engine, expected: np.ndarray) -> None:
    """A prompt whose experts come in waves, then single tokens."""
    both.assert_same(both.logits(engine), expected)


def giving_up(engine: Engine, expected: np.ndarray) -> None:
    """A pass is given up while its kernels are queued; then all expert memory is replaced, as it gets another size."""
    both.give_up_a_pass(engine)
    assert engine.parts.backend.device.num_queued(COMPUTE)
    engine.reload(Reload(policy="lossless", expert_memory=2 * engine.parts.config.expert_memory))
    engine.parts.backend.device.finish()
    both.assert_same(both.logits(engine), expected)


def no_result_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Device, "finish", lambda device, stream="compute": None)


def no_transfer_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    is_done, wait = LateEvent.is_done, LateEvent.wait
    patch.setattr(LateEvent, "is_done", lambda event: event.stream == COPY or is_done(event))
    patch.setattr(LateEvent, "wait", lambda event, timeout_s: event.stream == COPY or wait(event, timeout_s))


def staging_is_reused_at_once(patch: pytest.MonkeyPatch) -> None:
    start = LateTransfers.start

    def start_and_release(transfers: LateTransfers, landing: Any) -> LateEvent:
        event = start(transfers, landing)
        transfers.release(landing)
        return event

    patch.setattr(LateTransfers, "start", start_and_release)


def no_kernel_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LateSpace, "fence", lambda space: None)


def pins_are_lost(patch: pytest.MonkeyPatch) -> None:
    lookup, claim = SlotTable.lookup, SlotTable.claim

    def lookup_without_pins(table: SlotTable, *args: Any) -> Any:
        found = lookup(table, *args)
        table.unpin(found.ready_slots)
        return found

    def claim_without_pins(table: SlotTable, *args: Any, **more: Any) -> Any:
        claimed = claim(table, *args, **more)
        table.unpin(claimed)
        return claimed

    patch.setattr(SlotTable, "lookup", lookup_without_pins)
    patch.setattr(SlotTable, "claim", claim_without_pins)


def a_pass_that_was_given_up_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlotsInUse, "wait", lambda in_use, timeout_s: None)
    patch.setattr(SlotsInUse, "give_up", lambda in_use: None)


def tensors_are_taken_for_arrays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LateTensors, "to_host", lambda tensors, tensor: np.asarray(tensor))


def reads_land_in_slots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LateTransfers, "land", lambda transfers, slots: InPlace(slots))


FAULTS: list[tuple[Plant, Scenario, type[Exception], str]] = [
    (no_result_is_waited_for, waves, AssertionError, "other numbers"),
    (no_transfer_is_waited_for, waves, HostFault, "given back before its transfer was over"),
    (staging_is_reused_at_once, waves, HostFault, "given back before its transfer was over"),
    (no_kernel_is_waited_for, waves, HostFault, "into a slot that queued kernels still read"),
    (pins_are_lost, waves, HostFault, "into a slot that queued kernels still read"),
    (a_pass_that_was_given_up_is_not_waited_for, giving_up, HostFault, "memory was given back"),
    (tensors_are_taken_for_arrays, waves, DeviceError, "touched by the host: __array__"),
    (reads_land_in_slots, waves, ExpertReadError, "Bad address"),
]


def run(bundle, scenario: Scenario, expected: np.ndarray) -> None:
    engine = both.opened(bundle, "late", slots=both.FEW)
    device = engine.parts.backend.device
    try:
        with engine:
            scenario(engine, expected)
    finally:
        device.close()  # a fault may also end `close` half-way


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", [waves, giving_up])
def test_without_a_fault_the_run_is_right(model_bundle, expected, monkeypatch, scenario, mode):
    monkeypatch.setenv("LATE_BACKEND", mode)
    run(model_bundle, scenario, expected)


UNTOLD = "other numbers|does not start with HBR1|illegal address|read before it was computed"


@pytest.mark.parametrize(("plant", "scenario"), sorted({(plant, scenario) for plant, scenario, *_ in FAULTS}, key=str))
def test_a_fault_has_consequences_although_nobody_tells(model_bundle, expected, monkeypatch, plant, scenario):
    """Late work and poisoned memory are enough in mode `late`: what the hazards say is no invention."""
    for name in ("begin_kernels", "begin_transfer", "free"):
        monkeypatch.setattr(Hazards, name, lambda hazards, *_: None)
    monkeypatch.setattr(StagedLanding, "is_busy", False)
    plant(monkeypatch)
    with pytest.raises(
        (AssertionError, DeviceError, ExpertReadError), match=f"{UNTOLD}|touched by the host|Bad address"
    ):
        run(model_bundle, scenario, expected)


@pytest.mark.parametrize(("plant", "scenario", "error", "match"), FAULTS)
def test_a_fault_is_found(model_bundle, expected, monkeypatch, plant, scenario, error, match):
    plant(monkeypatch)
    with pytest.raises(error, match=match):
        run(model_bundle, scenario, expected)
