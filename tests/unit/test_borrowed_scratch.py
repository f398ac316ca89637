"""Experts borrow the scratch of prompts while single tokens run, and give it back before a prompt needs it."""

from __future__ import annotations

import numpy as np
from mixed_cache import FULL, E, L, make, serve

from edge_runtime.base.errors import BudgetError
from edge_runtime.experts.borrowed_scratch import QUIET_PASSES, BorrowedScratch

SLOT, LONGEST = 100, 16


class Sizes:
    few_tokens = 2

    def unused(self, chunk: int, tokens: int) -> int:
        return 40 * (chunk - tokens)


def borrowed_by(cache, most: int = 99) -> tuple[BorrowedScratch, list[int]]:
    """Scratch of 40 bytes a token is planned for 16 tokens; `released` lists the slots borrowed at each release."""
    released: list[int] = []

    class Owner:
        def release_scratch(self) -> None:
            released.append(cache.residents.borrowed_slots)

    scratch = BorrowedScratch(cache, Sizes(), Owner(), chunk=LONGEST, slot_bytes=SLOT, most=most)
    return scratch, released


def quiet(borrowed_scratch: BorrowedScratch, passes: int = QUIET_PASSES) -> None:
    for _ in range(passes):
        borrowed_scratch.begin_pass(1)


def test_experts_borrow_it_after_some_single_tokens_once_prompts_released_it():
    cache, _ = make(4 * FULL)
    borrowed_scratch, released = borrowed_by(cache)
    borrowed_scratch.begin_pass(LONGEST)
    quiet(borrowed_scratch, QUIET_PASSES - 1)
    assert (cache.num_slots, cache.residents.borrowed_slots, released) == (4, 0, [])
    borrowed_scratch.begin_pass(2)
    assert (cache.num_slots, cache.residents.borrowed_slots, released) == (4, 5, [0])  # 40 * (16 - 2) // 100
    quiet(borrowed_scratch, 20)
    assert (cache.residents.borrowed_slots, released) == (5, [0])


def test_a_prompt_takes_back_what_its_length_needs_before_it_runs():
    cache, _ = make(4 * FULL)
    borrowed_scratch, released = borrowed_by(cache)
    quiet(borrowed_scratch)
    for expert in range(E):
        serve(cache, 0, **{f"e{expert}": 8})
    assert np.count_nonzero(cache.resident_tiers(0)) == E  # four of their own and five borrowed
    borrowed_scratch.begin_pass(8)
    assert cache.residents.borrowed_slots == 3
    borrowed_scratch.begin_pass(LONGEST)
    assert cache.residents.borrowed_slots == 0
    assert cache.residents.ledger.touched_bytes <= 4 * FULL
    quiet(borrowed_scratch)
    assert (cache.residents.borrowed_slots, released) == (5, [0, 0])


def test_a_cap_is_kept_and_may_change():
    cache, _ = make(4 * FULL)
    borrowed_scratch, released = borrowed_by(cache, most=0)
    quiet(borrowed_scratch, 50)
    assert (cache.residents.borrowed_slots, released) == (0, [])
    borrowed_scratch.most = 2
    borrowed_scratch.begin_pass(LONGEST)
    quiet(borrowed_scratch)
    assert cache.residents.borrowed_slots == 2


def test_memory_that_is_refused_is_not_asked_for_again(caplog):
    cache, _ = make(4 * FULL)
    borrowed_scratch, released = borrowed_by(cache)

    def refuse(slots: int) -> None:
        raise BudgetError("the system refused")

    cache.borrow = refuse
    quiet(borrowed_scratch)
    borrowed_scratch.begin_pass(LONGEST)
    quiet(borrowed_scratch)
    assert released == [0]
    assert "do not use the scratch" in caplog.text


def test_a_prompt_runs_although_memory_was_refused_while_it_took_back(caplog):
    """Where memory shrinks by blocks, a smaller block is asked for again; without it experts have less, not more."""
    cache, _ = make(4 * FULL)
    borrowed_scratch, _ = borrowed_by(cache)
    quiet(borrowed_scratch)
    borrow = cache.borrow

    def refuse(slots: int) -> None:
        borrow(0)
        raise BudgetError("the system refused")

    cache.borrow = refuse
    borrowed_scratch.begin_pass(8)
    assert cache.residents.borrowed_slots == 0
    assert "the system refused" in caplog.text


def test_resizing_ends_borrowing_and_whether_all_fit_is_judged_without_it():
    cache, _ = make(4 * FULL)
    cache.borrow(L * E - 4)
    assert not cache.fits_all
    assert cache.residents.borrowed_slots == L * E - 4
    cache.resize(3)
    assert (cache.num_slots, cache.residents.borrowed_slots) == (3, 0)
