"""Memory is taken before reads need it: all that is held, in the background, its content unchanged."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from fakes import FakeStore
from patience import until
from rooms_made import RoomsMade

from edge_runtime.backends.cpu.space import HostSpace
from edge_runtime.backends.memory import ByteRange
from edge_runtime.base.huge_pages import huge_memory, populate
from edge_runtime.base.sizes import MIB
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.eviction import RuleContext, create_rule
from edge_runtime.experts.expert_memory import ExpertMemory
from edge_runtime.experts.first_touch import FirstTouch
from edge_runtime.experts.residents import Residents
from edge_runtime.experts.units import UnitLedger, UnitSizes

SLOT, PAGE, L, E = MIB, mmap.PAGESIZE, 4, 32
_PROBE = huge_memory(PAGE)
pytestmark = pytest.mark.skipif(
    not populate(ctypes.addressof(ctypes.c_char.from_buffer(_PROBE)), PAGE), reason="this kernel takes no pages ahead"
)


class Held:
    """A cache of so many slots, and what of its memory the kernel says is there."""

    def __init__(self, slots: int, planes: int = 0, ahead: int = SLOT, block: int = 24 * MIB) -> None:
        sizes = UnitSizes(6, 8, SLOT - planes, planes, (0, PAGE, 2 * PAGE)) if planes else UnitSizes(8, 8, SLOT)
        ledger = UnitLedger(sizes, slots * SLOT, L * E)
        self.memory = ExpertMemory(HostSpace(), ledger, block_bytes=block, ahead_bytes=ahead)
        self.cache = ExpertCache(self.residents(ledger), self.memory, FakeStore(1 << 20))

    def residents(self, ledger: UnitLedger) -> Residents:
        rule = create_rule("lru", RuleContext(num_layers=L, num_experts=E, tier_bytes={8: 1}, full_tier=8))
        return Residents(ledger, rule, num_layers=L, num_experts=E)

    def bytes_of(self, slot: int) -> memoryview:
        [where] = self.memory.lacking(slot, -1, ())
        return memoryview((ctypes.c_ubyte * where.nbytes).from_address(where.address)).cast("B")

    def num_bytes(self, slots: range) -> int:
        return sum(there(*self.memory.lacking(slot, -1, ())[0][:2]) for slot in slots)


def there(address: int, nbytes: int) -> int:
    """Bytes of memory the kernel has given."""
    flags = (ctypes.c_ubyte * (-(-nbytes // PAGE)))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), flags) == 0
    return PAGE * sum(flag & 1 for flag in flags)


def test_all_slots_are_taken_and_what_was_written_stays():
    held = Held(70)
    held.bytes_of(3)[:] = bytes([7]) * SLOT
    assert held.num_bytes(range(30, 70)) == 0, "until then memory comes as it is written"
    held.cache.touch(wait_s=None)
    assert held.num_bytes(range(70)) == 70 * SLOT
    assert held.bytes_of(3) == bytes([7]) * SLOT
    assert held.bytes_of(4) == bytes(SLOT)
    held.cache.close()


def test_what_is_given_back_stays_away_and_what_is_lent_is_taken_too():
    held = Held(70)
    held.cache.touch()  # may still run
    held.cache.resize(65)
    held.cache.touch(wait_s=None)
    assert held.num_bytes(range(65)) == 65 * SLOT
    held.cache.borrow(20)
    held.cache.touch(wait_s=None)
    assert held.num_bytes(range(85)) == 85 * SLOT
    held.cache.borrow(0)
    assert held.num_bytes(range(65)) == 65 * SLOT
    held.cache.close()


def test_of_two_sizes_what_experts_of_the_full_tier_take_is_taken():
    held = Held(70, planes=SLOT // 4)
    ledger = held.cache.residents.ledger
    held.cache.touch(wait_s=None)
    assert held.num_bytes(range(70)) == 70 * (SLOT - SLOT // 4)
    assert ledger.touched_bytes == ledger.budget_bytes
    full = np.full(E, 8, np.uint8)
    for layer in range(2):
        for _ in held.cache.stream(layer, full):
            pass
    assert not ledger.discards, "they take what is there"
    held.cache.close()


def test_of_two_sizes_what_was_not_taken_before_memory_changed_is_taken_then():
    held = Held(L * E, planes=SLOT // 4, ahead=MIB)
    held.cache.touch()  # a little ahead only, as all experts fit
    held.cache.resize(70)
    held.cache.start_over(held.residents(UnitLedger(held.cache.residents.ledger.sizes, 70 * SLOT, L * E)))
    assert held.num_bytes(range(60, 70)) == 0
    held.cache.touch(whole=True, wait_s=None)
    assert held.num_bytes(range(70)) == 70 * (SLOT - SLOT // 4)
    held.cache.close()


def test_what_was_taken_for_others_is_given_back_when_lower_tiers_come():
    held = Held(70, planes=SLOT // 4)
    ledger = held.cache.residents.ledger
    held.cache.touch(wait_s=None)
    low = np.full(E, 6, np.uint8)
    for layer in range(3):
        for _ in held.cache.stream(layer, low):
            pass
        assert ledger.used_bytes <= ledger.touched_bytes <= ledger.budget_bytes
    assert ledger.used_bytes == 93 * (SLOT - SLOT // 4)
    planes = [held.memory.lacking(0, 0, [unit])[0] for unit in range(L * E)]
    rest_of_a_huge_page = 2 * MIB
    kept = sum(there(*one[:2]) for one in planes)
    assert held.num_bytes(range(93)) + kept <= ledger.budget_bytes + rest_of_a_huge_page
    held.cache.close()


def test_where_all_experts_fit_memory_is_taken_a_little_ahead_of_reads_unless_all_of_it_is_asked_for():
    held = Held(L * E, ahead=16 * MIB, block=L * E * SLOT)
    [first] = held.memory.lacking(0, -1, ())
    held.cache.touch(wait_s=None)  # nothing is sure to be used, so it does not wait
    until(lambda: there(first.address, 16 * MIB) == 16 * MIB)
    held.cache.prefetch(0, range(10), np.full(E, 8, np.uint8))
    until(lambda: there(first.address, 24 * MIB) == 24 * MIB)
    assert there(first.address, L * E * SLOT) <= (10 + 16 + 2) * MIB, "in huge pages"
    held.cache.touch(whole=True, wait_s=None)
    assert held.num_bytes(range(L * E)) == L * E * SLOT
    held.cache.close()


def test_a_cache_that_starts_over_keeps_its_memory():
    held = Held(70)
    held.cache.touch(wait_s=None)
    held.bytes_of(3)[:] = bytes([7]) * SLOT
    held.cache.start_over(held.residents(UnitLedger(UnitSizes(8, 8, SLOT), 70 * SLOT, L * E)))
    assert held.num_bytes(range(70)) == 70 * SLOT
    held.cache.start_over(held.residents(UnitLedger(UnitSizes(8, 8, SLOT), 66 * SLOT, L * E)))
    held.cache.touch(wait_s=None)
    assert held.bytes_of(3) == bytes(SLOT), "another number of slots is other memory"
    held.cache.close()


def test_of_two_sizes_too_and_what_lies_there_counts():
    held = Held(70, planes=SLOT // 4)
    tiers = np.repeat([6, 8], E // 2).astype(np.uint8)
    for layer in range(2):
        for _ in held.cache.stream(layer, tiers):
            pass
    before = held.cache.residents.ledger
    after = UnitLedger(before.sizes, 70 * SLOT, L * E)
    here = held.num_bytes(range(64))
    held.cache.start_over(held.residents(after))
    assert held.num_bytes(range(64)) == here == 64 * (SLOT - SLOT // 4)
    assert (after.used_bytes, after.touched_bytes) == (0, before.touched_bytes)
    held.cache.touch(wait_s=None)
    assert after.touched_bytes == after.budget_bytes
    assert held.num_bytes(range(70)) == 70 * (SLOT - SLOT // 4), "and the rest is taken"
    other = UnitLedger(before.sizes, 66 * SLOT, L * E)
    held.cache.start_over(held.residents(other))
    assert other.touched_bytes == other.budget_bytes, "of other memory, all of it anew"
    held.cache.close()


def test_what_reads_have_passed_is_left_alone():
    memory = huge_memory(64 * MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    touch = FirstTouch([ByteRange(address, 64 * MIB, memory)], ahead=0)
    touch.use(0.5, 0.5)
    touch.go_on()
    touch.wait(None)
    assert there(address, 32 * MIB) == 0
    assert there(address + 32 * MIB, 32 * MIB) == 32 * MIB


@pytest.mark.parametrize("all_cores", [False, True])
@pytest.mark.parametrize(("core", "plane"), [(3 * PAGE, PAGE), (3 * MIB // 2, MIB)])
def test_memory_held_ahead_never_changes_which_expert_is_where(monkeypatch, core, plane, all_cores):
    """The same history of reads, resizes and drops with and without; who is in which slot decides ties of eviction.

    Small units, and large ones, of which free ones keep their size.
    """
    rng, slot, rooms = np.random.default_rng(3), core + 2 * plane, RoomsMade(monkeypatch)
    tables = []
    for _ in range(2):
        ledger = UnitLedger(UnitSizes(4, 8, core, plane), 20 * slot, 4 * 16)
        rule = create_rule("lru", RuleContext(num_layers=4, num_experts=16, tier_bytes={4: 3, 6: 4, 8: 5}, full_tier=8))
        tables.append(Residents(ledger, rule, num_layers=4, num_experts=16).table)
    ahead = tables[1].ledger
    ahead.keeps_cores = all_cores
    given_back = 0
    for step in range(3000):
        layer, experts = int(rng.integers(4)), rng.choice(16, 5, replace=False)
        tiers = np.zeros(16, np.uint8)
        tiers[experts] = rng.choice([4, 6, 8], 5, p=[0.6, 0.2, 0.2] if step % 200 < 100 else [0.1, 0.1, 0.8])
        if step % 250 == 0:
            budget = int(10 + rng.integers(20)) * slot
            assert tables[0].resize(budget) == tables[1].resize(budget)
        if step % 50 == 0:
            cores, planes = ahead.hold_ahead_whole()
            assert len(set(cores)) == len(cores)
            assert len(set(planes)) == len(planes)
        fails = int(rng.integers(8)) == 0
        found = [table.find(layer, tiers) for table in tables]
        assert found[0] == found[1]
        slots = [table.claim(layer, found[0][3], tiers) for table in tables]
        assert slots[0] == slots[1]
        for table in tables:
            for one in slots[0]:
                table.drop(one) if fails else table.set_ready(one)
            table.unpin_all()
            assert table.ledger.used_bytes <= table.ledger.touched_bytes <= table.ledger.budget_bytes
        given_back += len(ahead.drain_discards())
    assert given_back
    assert (rooms.despite_free_bytes > 0) == (plane == MIB)
