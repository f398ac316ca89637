"""Who may say what an option is, in order: flag, settings file, environment variable, profile, default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.config.option import AUTO, Facts, Option


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """Values from one place.

    Attributes:
        values: by name of the option; None, or left out: it says nothing.
        where: names the place and the option, for messages.
        is_given: somebody gave the values for this run; profile and defaults are not.
    """

    values: Mapping[str, Any]
    where: Callable[[Option], str]
    is_given: bool = True


@dataclass(frozen=True, eq=False, repr=False)
class Said:
    """The value that counts, as it was given."""

    value: Any
    where: str
    is_given: bool


@dataclass(frozen=True, eq=False, repr=False)
class Sources:
    """Sources in order; the first that says something about an option counts."""

    order: tuple[Source, ...] = ()

    def then(self, source: Source) -> Sources:
        """Return these with one more, asked last."""
        return Sources((*self.order, source))

    def said(self, option: Option) -> Said:
        """Return what counts for an option. ``auto`` from a flag or a variable leaves it to profile and default."""
        left_open = False
        for source in self.order:
            value = source.values.get(option.name)
            if value is None or (left_open and source.is_given):
                continue
            left_open = value == AUTO and option.takes_auto and source.is_given and not option.auto_is_final
            if not left_open:
                return Said(value, source.where(option), source.is_given)
        return Said(option.default, f"default of {option.name}", is_given=False)

    def rank(self, option: Option) -> int:
        """Return the place of the first source that mentions an option; their number if none does."""
        mentions = (place for place, source in enumerate(self.order) if source.values.get(option.name) is not None)
        return next(mentions, len(self.order))

    def pick(self, option: Option, facts: Facts | None = None) -> Any:
        """Return the value of an option.

        Args:
            option: which.
            facts: bundle and options known before; None for options that depend on neither.

        Raises:
            ConfigError: the value is wrong, or this bundle cannot serve it; names the source.
        """
        said = self.said(option)
        if said.value is None:
            return None
        if said.value == AUTO and option.takes_auto and option.auto is not None:
            return option.auto(facts)
        value = option.kind.convert(said.value, said.where)
        if facts is None:
            return value
        if said.is_given:
            return option.require(value, said.where, facts) if option.require else value
        return option.fit(value, facts) if option.fit else value
