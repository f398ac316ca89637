"""An instruction set below the machine's best, for a process that measures: products have no such option.

Everything that chooses one by itself takes the best there is. Here these places are given another, before an engine is
opened: the experts' kernels, the native trunk, and the router. ONNX Runtime chooses for itself and is not changed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from edge_runtime.backends.cpu import backend, kernels
from edge_runtime.policy import routing
from edge_runtime.policy.native import router_isas

ROUTERS = {"avx512vnni": "avx512", "avx2": "avx2"}
"""The router's names of instruction sets; any other kernels go with its plain code."""

PLACES: tuple[tuple[Any, str], ...] = (
    (kernels, "available_isas"), (kernels, "make_kernels"), (backend, "NativeTrunk"), (routing, "NativeRouter"),
)  # fmt: skip
"""What `choose` replaces: the list whose first is the best, and three makers that take the best by themselves."""


def check(isa: str) -> None:
    """Refuse what this machine does not have.

    Raises:
        SystemExit: see above.
    """
    known = kernels.available_isas()
    if isa not in known:
        raise SystemExit(f"--isa {isa}: expected one of {', '.join(known)}, which this machine has.")


def choose(isa: str) -> None:
    """Make engines that this process opens from now on compute with an instruction set.

    Raises:
        SystemExit: the machine does not have it.
    """
    check(isa)
    known = kernels.available_isas()
    plain = router_isas()[-1]
    values = (
        lambda: known[known.index(isa) :],
        partial(_make_kernels, isa),
        partial(backend.NativeTrunk, isa=isa),
        partial(routing.NativeRouter, isa=ROUTERS.get(isa, plain)),
    )
    for (place, name), value in zip(PLACES, values, strict=True):
        setattr(place, name, value)


def _make_kernels(isa: str, spec: Any, max_tokens: int, threads: Any = 1) -> kernels.ExpertKernels:
    team = kernels.make_team(threads) if isinstance(threads, int) else threads
    return kernels.ExpertKernels(
        spec.hidden, top_k=spec.top_k, max_tokens=max_tokens, team=team, isa=isa, **vars(spec.experts)
    )
