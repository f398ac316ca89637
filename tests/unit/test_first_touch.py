"""Memory is taken before reads need it: all that is held, in the background, its content unchanged."""

from __future__ import annotations

import ctypes
import mmap

import pytest
from fakes import FakeStore

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.base.huge_pages import huge_memory, populate
from edge_runtime.base.sizes import MIB
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes

SLOT, PAGE, L, E = MIB, mmap.PAGESIZE, 4, 32
_PROBE = huge_memory(PAGE)
pytestmark = pytest.mark.skipif(
    not populate(ctypes.addressof(ctypes.c_char.from_buffer(_PROBE)), PAGE), reason="this kernel takes no pages ahead"
)


class Held:
    """A cache of so many slots, and what of its memory the kernel says is there."""

    def __init__(self, slots: int, planes: int = 0) -> None:
        sizes = UnitSizes(6, 8, SLOT - planes, planes, (0, PAGE, 2 * PAGE)) if planes else UnitSizes(8, 8, SLOT)
        ledger = UnitLedger(sizes, slots * SLOT, L * E)
        rule = create_rule("lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={8: 1}, full_tier=8))
        self.memory = ExpertMemory(HostSpace(), ledger, block_bytes=24 * MIB)
        residents = Residents(ledger, rule, num_layers=L, num_experts=E)
        self.cache = ExpertCache(residents, self.memory, FakeStore(1 << 20))

    def bytes_of(self, slot: int) -> memoryview:
        [where] = self.memory.lacking(slot, -1, ())
        return memoryview((ctypes.c_ubyte * where.nbytes).from_address(where.address)).cast("B")

    def num_bytes(self, slots: range) -> int:
        libc, total = ctypes.CDLL(None), 0
        for slot in slots:
            [where] = self.memory.lacking(slot, -1, ())
            flags = (ctypes.c_ubyte * (where.nbytes // PAGE))()
            assert libc.mincore(ctypes.c_void_p(where.address), ctypes.c_size_t(where.nbytes), flags) == 0
            total += PAGE * sum(flag & 1 for flag in flags)
        return total


def test_all_slots_are_taken_and_what_was_written_stays():
    held = Held(70)
    held.bytes_of(3)[:] = bytes([7]) * SLOT
    assert held.num_bytes(range(30, 70)) == 0, "until then memory comes as it is written"
    held.cache.touch(wait=True)
    assert held.num_bytes(range(70)) == 70 * SLOT
    assert held.bytes_of(3) == bytes([7]) * SLOT
    assert held.bytes_of(4) == bytes(SLOT)
    held.cache.close()


def test_what_is_given_back_stays_away_and_what_is_lent_is_taken_too():
    held = Held(70)
    held.cache.touch()  # may still run
    held.cache.resize(65)
    held.cache.touch(wait=True)
    assert held.num_bytes(range(65)) == 65 * SLOT
    held.cache.borrow(20)
    held.cache.touch(wait=True)
    assert held.num_bytes(range(85)) == 85 * SLOT
    held.cache.borrow(0)
    assert held.num_bytes(range(65)) == 65 * SLOT
    held.cache.close()


def test_memory_of_two_sizes_and_of_all_experts_comes_as_it_is_written():
    """Of the first there are more addresses than may be used; of the second some may never be."""
    for held in (Held(70, planes=SLOT // 4), Held(L * E)):
        held.cache.touch(wait=True)
        slots = range(min(60, held.cache.num_slots))
        assert held.num_bytes(slots) == 0
        held.cache.close()
