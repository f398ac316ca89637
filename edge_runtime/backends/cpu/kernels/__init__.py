"""Native CPU kernels: run experts from record bytes, encode records.

The record bytes are the kernel's layout, so nothing is repacked. `ExpertKernels` computes

    y[pair] = down h + b_down        out[t] = sum over k of weights[t, k] * y[t * K + k]

where h is silu(gate x) * (up x), or what `edge_runtime.base.spec.ExpertSpec` says for other experts,
with int8 activations per group of 32 (tiers 2 to 8) or float32 throughout (tier 16). An output is
the same bits for any thread count, any instruction set, and any subset, order or batching of
experts and tokens. `edge_runtime.backends.cpu.kernels.reference` is the same in plain numpy.

Letters: T tokens, D hidden, I intermediate, K top-k, N experts of a call, P (token, expert) pairs.

`ExpertKernels(hidden, intermediate, top_k, max_tokens, threads=1, isa="auto", *, gated=True, activation="silu",
               bias=False, limit=None, alpha=1.0, up_offset=0.0, codes="linear", team=None)`
    What is given by name is as in `ExpertSpec`; `make_kernels` takes it from one. Owns scratch for `max_tokens`
    tokens (`scratch_bytes`), memory of the system as far as it was written, and `threads - 1` worker threads; nothing
    large is allocated later. `scratch_bytes_for(hidden, intermediate, top_k, max_tokens)` says how much it will be.
    `isa` is "auto" or one of `available_isas()`. Calls are serialised. With a `Team(threads)` it shares the team's
    threads, and calls of all that share it are serialised.
    quantize(x)                    float32 [T, D], T <= max_tokens; copied, so x may change afterwards.
    run(tier, segments, starts, pairs)
        tier 2, 4, 6, 8 or 16; segments uint64 [N, 4] addresses of the experts' segments, of which the
        first tier / 2 are read (tier 16: column 0, the bfloat16 record) and which must stay valid
        during the call; starts int32 [N + 1]; pairs int32 [P] = token * K + rank. Expert n computes
        pairs[starts[n]:starts[n + 1]]. A pair may occur once a call. May be called for some experts
        at a time, at different tiers.
    combine(weights, out)          float32 [T, K] and [T, D]. A weight of exactly 0 skips its pair.
    forward(x, tier, segments, starts, pairs, weights, out)    the three in one call.
    begin(x, ids, weights, num_experts)
        The same in terms of a decision: ids int32 [T, K] in 0..num_experts - 1, weights float32 [T, K]; a pair whose
        weight is exactly 0 is not computed. Copied.
    run_experts(tier, segments, experts)       some of the decision's experts, int32 [N], each once.
    so_far(out)                                the weighted sum of those that ran since begin.
    end(out)                                   the weighted sum.
    outputs(pairs, out)                        outputs float32 [P, D] of pairs as they were run last.
    release_scratch()              give the scratch back to the system; it is taken again, zeroed, when next written.
    run_resident(x, ids, weights, tier, addresses, slots, out)
        begin, run_experts and end in one call, for experts that are all in memory: addresses uint64 [S, 4] by slot,
        slots int32 [E] by expert.

`TokenCompute(trunk, kernels)` calls a `DenseTrunk` and `ExpertKernels` for native code elsewhere (`port()`, and that of
a `Frame`), for chunks of one token; `close()` lets go of both.

`DenseMatrix`, `Layer`, `Frame`, `DenseTrunk` and forms of these are for `edge_runtime.backends.cpu.trunk.native`.

`ExpertEncoder(layer, expert, hidden, intermediate, num_segments, bf16=False, threads=1, isa="auto", *, gated=True,
               bias=False, codes="linear")`
    With codes "fp4" num_segments is at most 2, and weights must be 4-bit floats (E2M1) times a power of two a group.
    add_rows(matrix, row_start, rows, dtype)    matrix 0 gate, 1 up, 2 down; rows [n, columns], n and
        row_start multiples of 16; dtype "f32", "f16", or "bf16" for uint16 holding bfloat16 bits.
    add_bias(matrix, values)       float32, one number a row; stored as it is.
    finish()                       checks that every row, and every bias, came once.
    segment(i), bf16()             uint8 views of the padded bytes, valid until reset(); segment(-1) = bf16().
    errors()                       tier -> sqrt(sum (w - w')^2 / sum w^2) over the matrices.
    reset(layer, expert)           start the next expert in the same buffers.
    The bytes do not depend on `threads`, on `isa`, or on how rows were grouped.

All arrays are C-contiguous. Long calls release the GIL. Bad arguments raise ValueError naming what
was expected and what came.
"""

from __future__ import annotations

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.spec import ModelSpec

try:
    from edge_runtime.backends.cpu.kernels._native import (
        DenseMatrix,
        DenseTrunk,
        ExpertEncoder,
        ExpertKernels,
        Frame,
        LatentForm,
        Layer,
        LayerForm,
        MixerForm,
        MlpForm,
        ModelForm,
        Team,
        TokenCompute,
        available_isas,
        processors_by_size,
    )
except ImportError as err:
    from edge_runtime.base.errors import missing_extension

    raise ImportError(missing_extension("edge_runtime.backends.cpu.kernels", err)) from err

__all__ = [
    "DenseMatrix", "DenseTrunk", "ExpertEncoder", "ExpertKernels", "Frame", "LatentForm", "Layer", "LayerForm",
    "MixerForm", "MlpForm", "ModelForm", "Team", "TokenCompute", "available_isas", "make_encoder", "make_kernels",
    "make_team", "processors_by_size",
]  # fmt: skip


def make_team(threads: int) -> Team:
    """Start threads that compute, the caller's included.

    Raises:
        DeviceError: the system gives fewer.
    """
    try:
        return Team(threads)
    except RuntimeError as err:
        raise DeviceError(str(err)) from err


def make_kernels(spec: ModelSpec, max_tokens: int, threads: int | Team = 1) -> ExpertKernels:
    """Make kernels that compute a model's experts, with threads of their own or with those of a team.

    Raises:
        DeviceError: the system gives fewer threads.
    """
    team = make_team(threads) if isinstance(threads, int) else threads
    return ExpertKernels(spec.hidden, top_k=spec.top_k, max_tokens=max_tokens, team=team, **vars(spec.experts))


def make_encoder(spec: ModelSpec, num_segments: int, *, bf16: bool, threads: int, isa: str = "auto") -> ExpertEncoder:
    """Make an encoder of a model's experts; `reset` says which one it begins with.

    Raises:
        DeviceError: the system gives fewer threads.
    """
    form = vars(spec.experts)
    try:
        return ExpertEncoder(
            0, 0, spec.hidden, num_segments=num_segments, bf16=bf16, threads=threads, isa=isa,
            **{name: form[name] for name in ("intermediate", "gated", "bias", "codes")},
        )  # fmt: skip
    except RuntimeError as err:
        raise DeviceError(str(err)) from err
