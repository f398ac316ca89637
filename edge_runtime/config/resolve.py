"""RuntimeConfig: flags before environment before profile, every 'auto' replaced, bad values named by source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from edge_runtime.base.errors import ConfigError, DeviceError, did_you_mean
from edge_runtime.base.sizes import parse_size
from edge_runtime.bundle.manifest import Manifest, can_look_ahead
from edge_runtime.bundle.record import BF16
from edge_runtime.config.limits import available_cpus
from edge_runtime.config.profiles import DEFAULT_PROFILE, DeviceProfile, load_profile
from edge_runtime.experts.eviction.rules import parse_rule
from edge_runtime.policy import POLICIES, parse_policy
from edge_runtime.prefetch import parse_prefetch

Value = TypeVar("Value")
_PREFIX = "HOBBIT_"
_DEFAULT_LOGITS_CHUNK = 32
_MAX_PARALLEL = 64
_BACKENDS = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class EngineOptions:
    """What somebody asked for, as text or plain values; None where nothing was said. Names are those of the flags."""

    profile: str | os.PathLike[str] | None = None
    memory: str | int | None = None
    expert_memory: str | int | None = None
    tier: str | int | None = None
    policy: str | None = None
    max_kld: str | float | None = None
    eviction: str | None = None
    prefetch: str | None = None
    backend: str | None = None
    threads: str | int | None = None
    io_threads: str | int | None = None
    direct_io: str | bool | None = None
    context: str | int | None = None
    parallel: str | int | None = None
    seed: str | int | None = None

    @staticmethod
    def from_keywords(options: Mapping[str, Any]) -> EngineOptions:
        """Build from keyword arguments.

        Raises:
            ConfigError: there is no option of that name.
        """
        known = [f.name for f in fields(EngineOptions)]
        for name in options:
            if name not in known:
                raise ConfigError(f"engine options: unknown option {name!r}.{did_you_mean(name, known)}")
        return EngineOptions(**options)

    @staticmethod
    def from_environment(env: Mapping[str, str]) -> EngineOptions:
        """Take HOBBIT_MEMORY and its like; an empty value counts as not set. Unknown HOBBIT_ names belong to others."""
        names = (f.name for f in fields(EngineOptions))
        return EngineOptions(**{name: value for name in names if (value := env.get(_PREFIX + name.upper()))})


@dataclass(frozen=True)
class RuntimeConfig:
    """Everything settled.

    Attributes:
        profile: the device profile in force.
        memory: ceiling for the process in bytes; None: what the cgroup and the machine leave, less os_reserve.
        os_reserve: bytes left to the rest of the machine when `memory` is None.
        expert_memory: ceiling for the arena in bytes, None without one.
        tier: the tier that counts as full: 2, 4, 6, 8 or 16.
        policy: name and parameters, checked.
        eviction: rule and parameters, checked.
        prefetch: predictor and parameters, checked; 'off' for none. Lossless looks a layer ahead unless told otherwise.
        backend: 'cpu'.
        threads: compute threads.
        io_threads: reads under way at once.
        read_chunk: bytes of the largest single read.
        direct_io: read experts past the page cache.
        context: N, tokens of KV cache of one sequence.
        parallel: sequences that may be decoded together, each with a KV cache of its own.
        prefill_chunk: tokens of a prompt in one pass; 0 until the memory plan has chosen it.
        logits_chunk: tokens a pass when logits of every token are wanted.
        seed: of sampling; None draws one from the system for each request.
    """

    profile: DeviceProfile
    memory: int | None
    os_reserve: int
    expert_memory: int | None
    tier: int
    policy: str
    eviction: str
    prefetch: str
    backend: str
    threads: int
    io_threads: int
    read_chunk: int
    direct_io: bool
    context: int
    parallel: int
    prefill_chunk: int
    logits_chunk: int
    seed: int | None


def resolve(
    flags: EngineOptions, env: Mapping[str, str], manifest: Manifest, profile: DeviceProfile | None = None
) -> RuntimeConfig:
    """Settle every option: flag, then environment, then profile, then what bundle and machine say.

    Args:
        flags: what the user said.
        env: the environment, usually os.environ; this is the only place it is read.
        manifest: of the bundle.
        profile: instead of the one that flags or environment name.

    Raises:
        ConfigError: a value is wrong; names the flag, variable or profile key it came from.
        DeviceError: a backend this version does not have.
    """
    said = _Said(flags, EngineOptions.from_environment(env))
    profile = profile or said.pick("profile", lambda value, _: load_profile(value), load_profile(DEFAULT_PROFILE))
    limit = manifest.model.context_limit
    own = f"profile {profile.name!r}"
    policy = _policy(said, flags)
    return RuntimeConfig(
        profile=profile,
        memory=said.pick("memory", _size_or_auto, _size_or_auto(profile.memory.value, f"{own}: memory")),
        os_reserve=parse_size(profile.os_reserve.value, f"{own}: os_reserve"),
        expert_memory=said.pick("expert_memory", parse_size, None),
        tier=said.pick("tier", lambda v, w: _tier(v, w, manifest), _default_tier(profile, manifest)),
        policy=policy,
        eviction=said.pick("eviction", _checked(parse_rule), str(profile.eviction.value)),
        prefetch=said.pick("prefetch", _checked(parse_prefetch), _default_prefetch(policy, manifest)),
        backend=said.pick("backend", _backend, "cpu"),
        threads=said.pick("threads", _count(1024), _number(profile.threads.value, available_cpus())),
        io_threads=said.pick("io_threads", _count(256), _number(profile.io_threads.value, 8)),
        read_chunk=parse_size(profile.read_chunk.value, f"{own}: read_chunk"),
        direct_io=said.pick("direct_io", _switch, profile.direct_io.value),
        context=said.pick(
            "context", _count(limit, " (the model's own limit)"), min(_number(profile.context.value, limit), limit)
        ),
        parallel=said.pick("parallel", _count(_MAX_PARALLEL), 1),
        prefill_chunk=_number(profile.prefill_chunk.value, 0),
        logits_chunk=_DEFAULT_LOGITS_CHUNK,
        seed=said.pick("seed", _seed, None),
    )


class _Said:
    """Options by source, the first that says something wins."""

    def __init__(self, flags: EngineOptions, env: EngineOptions) -> None:
        self._flags, self._env = flags, env

    def pick(self, name: str, convert: Callable[[Any, str], Value], default: Value) -> Value:
        for source, where in ((self._flags, name.replace("_", "-")), (self._env, _PREFIX + name.upper())):
            value = getattr(source, name)
            if value is not None:
                # 'auto' means the default; memory alone has an auto of its own, which beats the profile's size
                return default if value == "auto" and name != "memory" else convert(value, where)
        return default


def _size_or_auto(value: Any, where: str) -> int | None:
    return None if value == "auto" else parse_size(value, where)


def _number(value: int | str, auto: int) -> int:
    return value if isinstance(value, int) else auto


def _count(limit: int, why: str = "") -> Callable[[Any, str], int]:
    def convert(value: Any, where: str) -> int:
        number = _whole(value, where)
        if not 1 <= number <= limit:
            raise ConfigError(f"{where}: expected 1 to {limit}{why}, got {number}. Give a number in this range.")
        return number

    return convert


def _seed(value: Any, where: str) -> int:
    number = _whole(value, where)
    if not 0 <= number < 1 << 63:
        raise ConfigError(f"{where}: expected 0 to 2^63 - 1, got {number}.")
    return number


def _whole(value: Any, where: str) -> int:
    try:
        return int(str(value))
    except ValueError as err:
        raise ConfigError(f"{where}: expected a whole number, got {value!r}.") from err


def _switch(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
    if str(value).lower() not in words:
        raise ConfigError(f"{where}: expected on or off, got {value!r}.")
    return words[str(value).lower()]


def _one_of(value: Any, where: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(
            f"{where}: expected one of {', '.join(known)}, got {value!r}.{did_you_mean(str(value), known)}"
        )
    return str(value)


def _backend(value: Any, where: str) -> str:
    name = _one_of(value, where, _BACKENDS)
    if name == "cuda":
        raise DeviceError(f"{where}: no CUDA backend in this version. Use --backend cpu or auto.")
    return name


def _checked(parse: Callable[[str], object]) -> Callable[[Any, str], str]:
    """A text of the form name:param=value,... that `parse` accepts, kept as it is."""

    def convert(value: Any, where: str) -> str:
        try:
            parse(str(value))
        except ConfigError as err:
            raise ConfigError(f"{where}: {err}") from err
        return str(value)

    return convert


def _default_prefetch(policy: str, manifest: Manifest) -> str:
    """Look ahead where it cannot change a token: policies that look at residency would decide by what came in time.

    Bundles of earlier exporters cannot; they run as they did then.
    """
    return "lookahead:depth=1" if parse_policy(policy)[0] == "lossless" and can_look_ahead(manifest) else "off"


def _policy(said: _Said, flags: EngineOptions) -> str:
    """The policy with --max-kld in it, which selects rate-distortion.

    Raises:
        ConfigError: another policy was asked for, or the budget twice.
    """
    policy = said.pick("policy", _checked(parse_policy), "rate-distortion")
    max_kld = said.pick("max_kld", _max_kld, None)
    if flags.policy is not None and flags.max_kld is None:
        max_kld = None  # a flag beats the environment
    if max_kld is None:
        return said.pick("policy", _checked(parse_policy), "lossless")
    name, _, params = policy.partition(":")
    if name != "rate-distortion":
        raise ConfigError(
            f"max-kld: it is the budget of rate-distortion, but the policy is {name!r}. Give one of them."
        )
    if "max_kld" in params:
        raise ConfigError("max-kld: the policy's max_kld is given as well. Give one of them.")
    return f"{name}:{','.join(filter(None, [params, f'max_kld={max_kld!r}']))}"


def _max_kld(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"{where}: expected a number, got {value!r}.") from err
    limit = POLICIES["rate-distortion"].params["max_kld"].high or 0
    if not 0 <= number <= limit:
        raise ConfigError(f"{where}: expected 0 to {limit:g} nats a token, got {value}.")
    return number


def _default_tier(profile: DeviceProfile, manifest: Manifest) -> int:
    """The profile's tier if the bundle has it, else the deepest progressive one; never bfloat16."""
    tiers = [tier for tier in manifest.experts.tiers if tier != BF16]
    wanted = _number(profile.tier.value, max(tiers))
    return max([tier for tier in tiers if tier <= wanted] or [min(tiers)])


def _tier(value: Any, where: str, manifest: Manifest) -> int:
    names = {("bf16" if tier == BF16 else str(tier)): tier for tier in manifest.experts.tiers}
    text = "bf16" if str(value) == str(BF16) else str(value)
    if text not in names:
        raise ConfigError(f"{where}: expected one of this bundle's tiers {', '.join(names)}, got {value!r}.")
    return names[text]
