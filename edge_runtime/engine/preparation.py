"""What comes before loading: check the bundle, resolve the options, plan the memory. Nothing big is loaded."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from edge_runtime.backends import find_backend
from edge_runtime.backends.base import Backend, BackendOptions
from edge_runtime.backends.scratch import PassScratch
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.config.environment import Variables
from edge_runtime.config.memory_needs import MemoryNeeds
from edge_runtime.config.memory_plan import MemoryPlan, plan_memory
from edge_runtime.config.options import RuntimeConfig
from edge_runtime.config.resolve import EngineOptions, resolve
from edge_runtime.engine.active_policy import ActivePolicy
from edge_runtime.engine.replanning import ceiling_here
from edge_runtime.engine.sizing import size_model
from edge_runtime.engine.tokenizer import Tokenizer


@dataclass
class Prepared:
    """Everything decided, nothing big loaded. Whoever has it closes the backend: it may have opened a GPU."""

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    backend: Backend[Any]
    needs: MemoryNeeds
    plan: MemoryPlan
    active: ActivePolicy
    scratch: PassScratch


@dataclass(frozen=True)
class Planned:
    """What was decided, for a process that opens no engine, or opens it later. No GPU is open for it any more.

    Attributes:
        bundle: the bundle, checked.
        config: the options, resolved.
        tokenizer: of the bundle.
        needs: of the memory.
        plan: of the memory.
        active: the policy.
        isa: what kernels are compiled for, see `Backend.isa`.
        computes_on: names what decides the bits, see `Backend.fingerprint`; "" unless asked for.
    """

    bundle: Bundle
    config: RuntimeConfig
    tokenizer: Tokenizer
    needs: MemoryNeeds
    plan: MemoryPlan
    active: ActivePolicy
    isa: str
    computes_on: str


def plan_only(path: str | os.PathLike[str], options: EngineOptions, *, names_bits: bool = False) -> Planned:
    """Prepare, ask the backend what it is, and close it: what runs next finds the memory of a GPU free.

    Args:
        path: the bundle.
        options: of the engine.
        names_bits: ask for `computes_on`, for which a backend may load a library.

    Raises:
        ConfigError, BundleError, BudgetError, DeviceError: see `Engine.open`.
    """
    ready = prepare(path, options)
    with closing(ready.backend) as backend:
        return Planned(
            ready.bundle, ready.config, ready.tokenizer, ready.needs, ready.plan, ready.active,
            backend.isa, backend.fingerprint if names_bits else "",
        )  # fmt: skip


def prepare(path: str | os.PathLike[str], options: EngineOptions, env: Variables | None = None) -> Prepared:
    """Check a bundle, resolve the options and plan the memory.

    Raises:
        ConfigError, BundleError, BudgetError, DeviceError: see `Engine.open`.
    """
    bundle = Bundle.open(path)
    config = resolve(options, os.environ if env is None else env, bundle.manifest)
    with ExitStack() as undo:
        backend = make_backend(bundle.manifest.model, config)
        undo.callback(backend.close)
        tokenizer = Tokenizer.from_bundle(bundle)
        ceiling = ceiling_here(config, backend)
        sized = size_model(bundle, config, backend.formulas, ceiling, request_bytes=options.request_bytes)
        config, needs = sized.config, sized.needs
        plan = plan_memory(needs, ceiling, expert_memory=config.expert_memory)
        undo.pop_all()
    return Prepared(bundle, config, tokenizer, backend, needs, plan, sized.active, sized.scratch)


def make_backend(spec: ModelSpec, config: RuntimeConfig) -> Backend[Any]:
    """Return the backend that the options name; loads nothing large.

    Raises:
        ConfigError, DeviceError: it is not there, or cannot run the model.
    """
    found, settings = find_backend(config.backend)
    backend = found.make(BackendOptions(threads=config.threads, settings=settings, trunk=config.trunk))
    try:
        backend.require(spec)
    except BaseException:  # it may have opened a GPU for that
        backend.close()
        raise
    return backend
