"""Values of the options: flags before variables before profile, every 'auto' replaced, bad values named by source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.config.boards import profile_of
from edge_runtime.config.environment import Variables, given
from edge_runtime.config.option import Facts, Option, options_of
from edge_runtime.config.options import ENGINE_OPTIONS, RuntimeConfig
from edge_runtime.config.policy_choice import policy_with_budget

if TYPE_CHECKING:
    from edge_runtime.bundle.manifest import Manifest
    from edge_runtime.config.device_profile import DeviceProfile


@dataclass(frozen=True)
class EngineOptions:
    """What somebody asked for.

    Attributes:
        said: text or plain values, by name of the option; None counts as not said.
        request_bytes: memory that the plan keeps for requests before they are tokens.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    request_bytes: int = 0

    @staticmethod
    def from_keywords(
        options: Mapping[str, Any], table: Collection[Option] = ENGINE_OPTIONS, *, request_bytes: int = 0
    ) -> EngineOptions:
        """Build from keyword arguments.

        Raises:
            ConfigError: there is no option of that name.
        """
        known = [option.name for option in table]
        for name in options:
            if name not in known:
                raise ConfigError(f"engine options: unknown option {name!r}.{did_you_mean(name, known)}")
        return EngineOptions(dict(options), request_bytes)


def resolve(
    flags: EngineOptions,
    env: Variables,
    manifest: Manifest,
    profile: DeviceProfile | None = None,
    into: type[RuntimeConfig] = RuntimeConfig,
) -> RuntimeConfig:
    """Give every engine option its value: flag, then variable, then profile, then what bundle and machine say.

    Args:
        flags: what the user said.
        env: the environment, usually os.environ.
        manifest: of the bundle.
        profile: instead of the one that flags or environment name.
        into: the table.

    Raises:
        ConfigError: a value is wrong; names the flag, variable or profile key it came from. Or the environment has a
            HOBBIT_ name that does not exist.
        DeviceError: a backend this version does not have.
    """
    sources = given(flags.said, env)
    profile = profile or profile_of(sources)
    sources = sources.then(profile.source())
    found: dict[str, Any] = {"profile": profile, "policy": policy_with_budget(sources)}
    facts = Facts(manifest, found)
    for option in options_of(into):
        if option.name not in found:
            found[option.name] = sources.pick(option, facts)
    return into(**found)
