"""The memory plan: sums, floors, refusals and what they advise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.base.errors import BudgetError
from edge_runtime.config.limits import Ceiling, OwnMemory, SystemLimits, memory_ceiling, page_cache_reserve, read_limits
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import choose_prefill_chunk, plan_memory

MIB = 1 << 20

NEEDS = MemoryNeeds(
    runtime_bytes=60 * MIB, trunk_bytes=200 * MIB, kv_bytes_per_token=64 << 10, context=2048, scratch_bytes=20 * MIB,
    tokenizer_bytes=10 * MIB, headroom_bytes=16 * MIB, slot_bytes={2: 1 * MIB, 4: 2 * MIB, 8: 4 * MIB}, tier=8,
    num_experts=32, num_expert_layers=8, top_k=4,
)  # fmt: skip
FIXED = (60 + 200 + 128 + 20 + 10 + 16) * MIB


def budget(mib: int) -> Ceiling:
    return Ceiling(mib * MIB, "--memory")


def test_the_lines_add_up():
    plan = plan_memory(NEEDS, budget(600))
    assert [line.name for line in plan.lines] == [
        "runtime libraries", "trunk", "KV cache", "scratch", "tokenizer", "headroom", "expert arena",
    ]  # fmt: skip
    assert plan.num_slots == (600 * MIB - FIXED) // (4 * MIB) == 41
    assert plan.planned_bytes == FIXED + 41 * 4 * MIB <= plan.budget_bytes
    assert plan.floor_bytes == FIXED + 16 * MIB
    assert (plan.all_experts, plan.working_set) == (256, 32)
    assert plan.warnings == ()
    found = plan.to_json()
    assert sum(line["bytes"] for line in found["lines"]) == found["planned_bytes"]
    assert found["floor_bytes"] == plan.floor_bytes
    table = plan.table()
    assert table[2].split() == ["KV", "cache", "128", "MiB", "2048", "tokens", "x", "64.0", "KiB"]
    assert "41 of 256 (16.0 %)" in table[-1]


def test_what_a_trunk_is_built_in_is_a_line_of_its_own():
    built = replace(NEEDS, workspace_bytes=256 * MIB)
    assert built.floor_bytes() == NEEDS.floor_bytes() + 256 * MIB
    (line,) = set(built.fixed_lines()) - set(NEEDS.fixed_lines())
    assert (line.name, line.bytes) == ("workspace", 256 * MIB)


def test_every_sequence_has_a_kv_cache_in_the_plan():
    four = replace(NEEDS, parallel=4)
    plan = plan_memory(four, budget(1000))
    kv = plan.lines[2]
    assert (kv.bytes, kv.note) == (4 * 128 * MIB, "4 sequences x 2048 tokens x 64.0 KiB")
    assert four.floor_bytes() == NEEDS.floor_bytes() + 3 * 128 * MIB
    assert four.floor_bytes(context=1024) == NEEDS.floor_bytes() + MIB * (4 * 64 - 128)
    with pytest.raises(BudgetError, match=r"Lower --parallel from 4 to 2 .*lower --context from 2048 to"):
        plan_memory(four, budget(600))


def test_a_base_is_counted_and_is_the_least_that_fits():
    """256 experts of 1 MiB at 2 bits, and 4 of them with 3 MiB more: 268 MiB, that is 67 slots of 4 MiB."""
    needs = replace(NEEDS, base_tier=2)
    assert (needs.base_bytes, needs.least_slots(), needs.least_slots(tier=4)) == (256 * MIB, 67, 130)
    plan = plan_memory(needs, Ceiling(FIXED + 80 * 4 * MIB, "--memory"))
    assert (plan.num_slots, plan.base_tier, plan.base_bytes) == (80, 2, 256 * MIB)
    assert plan.planes_share == pytest.approx((320 - 256) / (1024 - 256))
    assert plan.floor_bytes == FIXED + 67 * 4 * MIB
    assert plan.lines[-1].note == "every expert at 2 bits 256 MiB, deeper planes 64.0 MiB"
    assert "all 256 at 2 bits, and room for 8.3 % of the planes up to 8" in plan.table()[-1]
    assert plan_memory(needs, Ceiling(plan.floor_bytes, "--memory")).num_slots == 67
    with pytest.raises(BudgetError) as refused:
        plan_memory(needs, Ceiling(plan.floor_bytes - 1, "--memory"))
    text = str(refused.value)
    assert "all 256 experts at 2 bits 256 MiB and 4 of them at 8 bits, in all 268 MiB" in text
    assert f"raise --memory to {(plan.floor_bytes >> 20) + 1} MiB" in text
    assert "leave out --base-resident (floor 450 MiB)" in text
    assert "--tier 4 (floor 694 MiB)" in text
    with pytest.raises(BudgetError, match=r"Raise it to 268 MiB, or leave out --base-resident \(16.0 MiB is the least"):
        plan_memory(needs, budget(2000), expert_memory=100 * MIB)
    assert plan_memory(needs, budget(2000), expert_memory=268 * MIB).num_slots == 67


def test_never_more_slots_than_experts():
    plan = plan_memory(NEEDS, budget(100_000))
    assert plan.num_slots == 256
    assert plan.cache_share == 1


def test_the_expert_cap_is_within_the_ceiling():
    assert plan_memory(NEEDS, budget(2000), expert_memory=50 * MIB).num_slots == 12
    assert plan_memory(NEEDS, budget(600), expert_memory=5000 * MIB).num_slots == 41
    with pytest.raises(BudgetError, match=r"--expert-memory: 15\.0 MiB holds 3 experts.*Raise it to 16\.0 MiB"):
        plan_memory(NEEDS, budget(600), expert_memory=15 * MIB)


def test_a_cache_below_one_tokens_working_set_warns():
    plan = plan_memory(NEEDS, budget(FIXED // MIB + 40))
    assert plan.num_slots == 10
    assert "one token uses 32" in plan.warnings[0]
    assert plan.table()[-1].startswith("warning: ")


def test_the_floor_itself_fits_and_a_byte_less_does_not():
    floor = NEEDS.floor_bytes()
    assert plan_memory(NEEDS, Ceiling(floor, "--memory")).num_slots == NEEDS.top_k
    with pytest.raises(BudgetError):
        plan_memory(NEEDS, Ceiling(floor - 1, "--memory"))


def test_a_refusal_has_the_sum_and_the_nearest_settings():
    with pytest.raises(BudgetError) as caught:
        plan_memory(NEEDS, budget(445))
    text = str(caught.value)
    assert "budget 445 MiB is below the floor 450 MiB" in text
    assert "trunk 200 MiB" in text
    assert "4 slots 16.0 MiB" in text
    assert "Lower --context from 2048 to 1920 (floor 442 MiB)" in text
    assert "--tier 4 (floor 442 MiB)" in text
    assert "raise --memory to 451 MiB" in text


def test_advice_that_would_not_help_is_not_given():
    with pytest.raises(BudgetError) as caught:
        plan_memory(NEEDS, Ceiling(100 * MIB, "cgroup limit of /sys/fs/cgroup/x"))
    text = str(caught.value)
    assert "--context" not in text
    assert "--tier" not in text
    assert "Free 350 MiB (the ceiling is the cgroup limit of /sys/fs/cgroup/x)" in text


@given(mib=st.integers(1, 2000), tier=st.sampled_from([2, 4, 8]), context=st.integers(64, 8192))
def test_a_plan_fits_and_a_refusals_advice_fits(mib, tier, context):
    needs = replace(NEEDS, tier=tier, context=context)
    try:
        plan = plan_memory(needs, budget(mib))
        assert plan.planned_bytes <= mib * MIB
        assert NEEDS.top_k <= plan.num_slots <= 256
    except BudgetError as err:
        text = str(err)
        if "--context" in text:
            fits = int(text.split(f"from {context} to ")[1].split()[0])
            plan_memory(replace(needs, context=fits), budget(mib))
        if "--tier" in text:
            plan_memory(replace(needs, tier=int(text.split("--tier ")[1][0])), budget(mib))


def test_the_ceiling_is_the_tightest():
    limits = SystemLimits(8000 * MIB, 4060 * MIB, 1060 * MIB, "/group")
    assert memory_ceiling(limits, requested=500 * MIB) == Ceiling(500 * MIB, "--memory")
    assert memory_ceiling(limits, requested=3000 * MIB) == Ceiling(1060 * MIB, "cgroup limit of /group")
    capped = replace(limits, cgroup_limit_bytes=1050 * MIB)
    auto = memory_ceiling(capped)
    assert auto.bytes == 1050 * MIB - 1050 * MIB // 64, "shared pages count once, elsewhere; files keep a part"
    assert auto.reason == "cgroup limit of /group less 16.4 MiB for pages of files"
    assert memory_ceiling(capped, requested=2000 * MIB).bytes == 1050 * MIB
    assert [page_cache_reserve(size) // MIB for size in (MIB, 640 * MIB, 4096 * MIB, 65536 * MIB)] == [0, 10, 64, 64]
    free = replace(limits, cgroup_free_bytes=None)
    auto = memory_ceiling(free, reserve_bytes=1024 * MIB)
    assert auto == Ceiling(3036 * MIB, "memory available less 1.00 GiB for the system")
    assert memory_ceiling(free, requested=9000 * MIB, reserve_bytes=1024 * MIB) == Ceiling(
        4060 * MIB, "memory available"
    )
    assert memory_ceiling(replace(free, available_bytes=MIB), reserve_bytes=1 << 30).bytes == 0


def cgroup_tree(root: Path, version: int, limit: int, *, anonymous: int, files: int) -> Path:
    """A machine with memory to spare, and this process alone in a cgroup with a limit."""
    name, limit_file, used_file = {
        1: ("memory/", "memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("", "memory.max", "memory.current"),
    }[version]  # fmt: skip
    group = root / f"sys/fs/cgroup/{name}app"
    group.mkdir(parents=True)
    (group / limit_file).write_text(f"{limit}\n")
    (group / used_file).write_text(f"{anonymous + files}\n")
    (group / "memory.stat").write_text(f"anon {anonymous}\nactive_file {files // 4}\ninactive_file {3 * files // 4}\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/app\n" if version == 2 else "5:memory:/app\n")
    (root / "proc/meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")
    return root


@pytest.mark.parametrize("share", [60, 40, 25])
def test_a_share_of_a_bundle_is_planned_alike_under_both_versions_of_cgroups(share, tmp_path):
    """A bundle of 1.5 GiB: all but headroom and what files keep is for use, whichever version says how much that is."""
    needs = replace(NEEDS, trunk_bytes=8 * MIB, num_expert_layers=12)
    limit = (1536 * MIB + 8 * MIB) * share // 100
    plans = []
    for version in (1, 2):
        # the bundle's files were just read: their pages are charged to the group, and are no reason to take less
        root = cgroup_tree(tmp_path / str(version), version, limit, anonymous=40 * MIB, files=limit // 2)
        ceiling = memory_ceiling(read_limits(root, OwnMemory(40 * MIB)), reserve_bytes=1024 * MIB)
        plans.append(plan_memory(needs, ceiling))
    first, second = plans
    assert first.lines == second.lines
    assert 0.97 * limit <= first.budget_bytes == second.budget_bytes <= limit
    headroom = next(line.bytes for line in first.lines if line.name == "headroom")
    assert 0.85 * limit <= first.planned_bytes - headroom - needs.slot_bytes[8] <= limit


def test_prefill_chunks_use_a_quarter_of_the_experts_memory_at_most():
    def choose(room: int, *, longest: int = 4096, experts: int = 1 << 40) -> int:
        return choose_prefill_chunk(room, lambda chunk: 1000 * chunk, longest=longest, experts_bytes=experts)

    assert choose(4 * 512_000) == 512
    assert choose(4 * 512_000 - 1) == 256
    assert choose(4 * 64_000) == 64
    assert choose(0) == 16, "the shortest pass where nothing fits; the plan then says what does not"
    assert choose(1 << 40, longest=300) == 300
    assert choose(1 << 40, longest=5) == 5
    assert choose(1 << 40, experts=1 << 30) == 128, "with everything in memory longer passes save nothing"
    assert choose(500_000, experts=450_000) == 64
