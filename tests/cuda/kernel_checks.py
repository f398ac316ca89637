"""The tests of the kernels once over, for a build of theirs with a fault: LIBCUDA LIBNVRTC FOLDER [UNIT...].

Those of the units named come first. Ends at the first failure.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cuda import test_expert_kernels as experts
from cuda import test_latent_kernels as latent
from cuda import test_layer_kernels as layer
from cuda import test_reads as reads
from cuda import test_state_kernels as states
from cuda import test_trunk_kernels as trunk
from cuda.bench import TIERS, Bench
from cuda.build import launch_bounds

from edge_runtime.backends.cuda.cubins import load_kernels
from edge_runtime.backends.cuda.driver import Device, Driver, Kernel
from edge_runtime.backends.cuda.launches import BF16
from edge_runtime.backends.cuda.nvrtc import Nvrtc

Check = Callable[[Bench], None]


def checks(emulated: bool = True, first: Sequence[str] = ()) -> Iterator[Check]:
    """Yield every check, those of some units first; what counts reads needs the emulation."""
    by_unit = {"experts": expert_checks, "layers": layer_checks, "trunk": trunk_checks}
    for unit in sorted(by_unit, key=lambda name: name not in first):
        yield from by_unit[unit]()
        if unit == "experts" and emulated:
            yield from read_checks()


def expert_checks() -> Iterator[Check]:
    """Yield those of the experts."""
    for tier, codes in experts.CODES:
        for shape in ((96, 160), (288, 96)):
            form = {"shape": shape, "tier": tier, "codes": codes}
            yield partial(experts.test_every_tier_and_shape_agrees_with_the_reference, **form, seed=1)
    for name in experts.VARIANTS:
        for tier in TIERS:
            yield partial(experts.test_every_form_of_expert_agrees_with_the_reference, name=name, tier=tier)
    for name in experts.IN_COMPANY:
        yield partial(experts.test_other_forms_in_company, name=name)
    for tier in experts.FLOAT4_TIERS:
        for form in experts.FLOAT4_FORMS:
            of = {"shape": (96, 160), "tier": tier, "form": form}
            yield partial(experts.test_other_forms_of_4_bit_floats_agree_with_the_reference, **of)
        yield partial(experts.test_tokens_in_company_get_the_bits_they_get_alone, tier=tier, codes="fp4", tokens=11)
    for tier in TIERS[:-1]:
        yield partial(experts.test_tokens_in_company_get_the_bits_they_get_alone, tier=tier, codes="linear", tokens=11)
    yield partial(experts.test_a_number_that_is_not_finite_shows_in_the_output, tier=4)


def read_checks() -> Iterator[Check]:
    """Yield those that count what is read of a record."""
    shape = (288, 96)
    for tier, codes in experts.CODES:
        alone = reads.test_one_token_reads_each_byte_of_a_plane_once_in_whole_sectors
        yield partial(alone, shape=shape, tier=tier, codes=codes)
        if tier != BF16:
            together = reads.test_a_tile_of_tokens_reads_each_byte_of_a_plane_once_in_whole_sectors
            yield partial(together, shape=shape, tier=tier, codes=codes)


def layer_checks() -> Iterator[Check]:
    """Yield those of what surrounds the experts."""
    yield partial(layer.test_the_self_test_passes_on_what_emulates_the_primitives, seed=0)
    yield partial(layer.test_activations_are_quantised_as_the_reference_does, seed=1)
    yield partial(layer.test_a_number_that_is_not_finite_makes_its_group_nan_and_no_other, value=float("nan"))
    yield partial(layer.test_the_norm_agrees_with_float64, tokens=2, hidden=96)
    yield partial(
        layer.test_outputs_are_added_up_and_a_weight_of_zero_leaves_its_pair_out, tokens=3, top_k=2, hidden=288
    )
    for name in layer.ROUTERS:
        for seed in (1, 2, 3):
            yield partial(layer.test_routing_agrees_with_the_reference, name=name, seed=seed)
    for shift in (-3.0, 0.0, 3.0):
        yield partial(layer.test_sparsemixer_weighs_among_rivals_as_the_reference_does, shift=shift, spread=1.0)
    yield layer.test_equal_logits_are_taken_by_number
    for units in (1, 2999, 8192):
        yield partial(layer.test_memory_is_read_once_and_added_up, units=units)


def trunk_checks() -> Iterator[Check]:
    """Yield those of the trunk's kernels."""
    for form, block in trunk.FORMS:
        size = {"inputs": 640, "outputs": 9}
        yield partial(trunk.test_products_agree_with_float64, form=form, block=block, **size)
    for width, stride in ((300, 300), (64, 160)):
        yield partial(trunk.test_norms_of_a_stream_and_of_parts_of_rows, tokens=2, width=width, stride=stride)
    for name in trunk.ATTENTIONS:
        yield partial(trunk.test_attention_agrees_with_float64, name=name, past=19, tokens=5)
    yield trunk.test_layer_norm
    for form in ("own joint by", "nothing own joint"):
        yield partial(trunk.test_what_the_residual_stream_takes, form=form)
    for form, block in (("f32", 0), ("q8", 16)):
        yield partial(trunk.test_matrices_of_each_head, form=form, block=block)
    yield from state_checks()
    yield trunk.test_a_key_that_is_not_finite_shows
    for number, kind in enumerate(("silu", "gelu_tanh", "relu2")):
        yield partial(trunk.test_networks_gates_and_sums, kind=kind, number=number, gated=True)


def state_checks() -> Iterator[Check]:
    """Yield those of layers with a state of fixed size, and of MLA."""
    for kernel, gated in ((4, False), (3, True)):
        yield partial(states.test_convolutions_and_what_they_keep, channels=40, kernel=kernel, gated=gated)
    for rule in ("gated_delta", "kimi_delta", "mamba2"):
        yield partial(states.test_recurrences_and_their_states, rule=rule, sizes=(4, 2, 16, 40))
    for first in (True, False):
        yield partial(
            states.test_gates_and_norms_behind_a_recurrence, norm_first=first, is_silu=True, groups=3, width=40
        )
    yield partial(latent.test_what_heads_see_agrees_with_float64, name="plain", past=13, tokens=4)


def name_of(check: Check) -> str:
    """Return what a check is called: its test, and what that is given."""
    test, given = getattr(check, "func", check), getattr(check, "keywords", {})
    return f"{test.__name__.removeprefix('test_')}({', '.join(f'{name}={value}' for name, value in given.items())})"


def note_launches() -> set[str]:
    """Return the names of kernels, as they are launched from now on."""
    launched, start = set[str](), Kernel.start

    def note(self: Kernel, *arguments: Any) -> None:
        launched.add(self.name)
        start(self, *arguments)

    Kernel.start = note  # type: ignore[method-assign]
    return launched


def main(libcuda: str, libnvrtc: str, folder: str, *first: str) -> None:
    fake = ctypes.CDLL(libcuda)
    for name in ("shim_seed", "shim_watch", "fake_mode"):
        getattr(fake, name).argtypes = [ctypes.c_uint64] * (1 if name == "shim_seed" else 2)
    fake.shim_reads.argtypes = [ctypes.c_uint32, ctypes.c_void_p]
    launched = note_launches()
    with Device(Driver(fake)) as device:
        module = load_kernels(device, folder=Path(folder), compiler=lambda: Nvrtc(libnvrtc))
        for check in checks(first=first):
            with Bench(fake, device, module) as bench:
                check(bench)
        unchecked = set(launch_bounds()) - launched
        assert not unchecked, f"no check runs {', '.join(sorted(unchecked))}"
    print("passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
