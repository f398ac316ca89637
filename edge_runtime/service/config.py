"""What to serve, and how much of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.config.environment import Variables


@dataclass(frozen=True)
class ServiceConfig:
    """What to serve and how much of it.

    Attributes:
        bundle: directory written by hobbit-export.
        options: engine options, as `Engine.open` takes them.
        environment: HOBBIT_ variables instead of the process's: those of a settings file are in it.
        model_name: id of the model; None: the bundle's folder name.
        request_bytes: memory that bodies of requests in flight may take, for the memory plan.
        max_waiting: requests that may wait beyond those that run.
        time_limit_s: longest time a request may run; None without a limit.
        token_limit: most tokens a request may ask for; None: what the context leaves.
        self_check: run the numerical self-check of a bundle's first start.
        verify: check the hash of every part of the bundle first, experts included (experts are checked again at each
            read anyway).
    """

    bundle: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Variables | None = None
    model_name: str | None = None
    request_bytes: int = 0
    max_waiting: int = 16
    time_limit_s: float | None = 600.0
    token_limit: int | None = None
    self_check: bool = True
    verify: bool = True
