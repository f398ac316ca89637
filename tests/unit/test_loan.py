"""Scratch of prompts is lent to experts while single tokens run, and is back before a prompt needs it."""

from __future__ import annotations

import numpy as np
from mixed_cache import FULL, E, L, make, serve

from edge_runtime.errors import BudgetError
from edge_runtime.experts.loan import QUIET_PASSES, ScratchLoan

SLOT, LONGEST = 100, 16


def loan_of(cache, most: int = 99) -> tuple[ScratchLoan, list[int]]:
    """Scratch of 40 bytes a token is planned for 16 tokens; what was released is noted as the slots lent then."""
    released: list[int] = []
    loan = ScratchLoan(
        cache, few_tokens=2, unused_bytes=lambda tokens: 40 * (LONGEST - tokens), slot_bytes=SLOT, most=most,
        release=lambda: released.append(cache.lent_slots),
    )  # fmt: skip
    return loan, released


def quiet(loan: ScratchLoan, passes: int = QUIET_PASSES) -> None:
    for _ in range(passes):
        loan.begin_pass(1)


def test_it_is_lent_after_some_single_tokens_once_what_prompts_left_is_released():
    cache, _ = make(4 * FULL)
    loan, released = loan_of(cache)
    loan.begin_pass(LONGEST)
    quiet(loan, QUIET_PASSES - 1)
    assert (cache.num_slots, cache.lent_slots, released) == (4, 0, [])
    loan.begin_pass(2)
    assert (cache.num_slots, cache.lent_slots, released) == (4, 5, [0])  # 40 * (16 - 2) // 100
    quiet(loan, 20)
    assert (cache.lent_slots, released) == (5, [0])


def test_a_prompt_takes_back_what_its_length_needs_before_it_runs():
    cache, _ = make(4 * FULL)
    loan, released = loan_of(cache)
    quiet(loan)
    for expert in range(E):
        serve(cache, 0, **{f"e{expert}": 8})
    assert np.count_nonzero(cache.resident_tiers(0)) == E  # four of their own and five lent
    loan.begin_pass(8)
    assert cache.lent_slots == 3
    loan.begin_pass(LONGEST)
    assert cache.lent_slots == 0
    assert cache._ledger.touched_bytes <= 4 * FULL
    quiet(loan)
    assert (cache.lent_slots, released) == (5, [0, 0])


def test_a_cap_is_kept_and_may_change():
    cache, _ = make(4 * FULL)
    loan, released = loan_of(cache, most=0)
    quiet(loan, 50)
    assert (cache.lent_slots, released) == (0, [])
    loan.most = 2
    loan.begin_pass(LONGEST)
    quiet(loan)
    assert cache.lent_slots == 2


def test_memory_that_is_refused_is_not_asked_for_again(caplog):
    cache, _ = make(4 * FULL)
    loan, released = loan_of(cache)

    def refuse(slots: int) -> None:
        raise BudgetError("the system refused")

    cache.lend = refuse
    quiet(loan)
    loan.begin_pass(LONGEST)
    quiet(loan)
    assert released == [0]
    assert "not lent" in caplog.text


def test_resizing_ends_a_loan_and_what_fits_all_is_judged_without_it():
    cache, _ = make(4 * FULL)
    cache.lend(L * E - 4)
    assert not cache.fits_all
    assert cache.lent_slots == L * E - 4
    cache.resize(3)
    assert (cache.num_slots, cache.lent_slots) == (3, 0)
