"""HOBBIT_ variables of the process and of a settings file. A name that is no option is refused: it was misspelt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.config.option import PREFIX, Option, options_of
from edge_runtime.config.options import FOREIGN, FREE_PREFIX, OPTIONS
from edge_runtime.config.sources import Source, Sources

Table = TypeVar("Table")
Variables: TypeAlias = "Mapping[str, str] | Environment"


class Environment:
    """The variables in force: those of a settings file before those of the process.

    Args:
        process: usually os.environ; names without the prefix are passed over.
        file: lines of the settings file, with variables.
        path: where they were read, for messages.
        table: the options there are.

    Raises:
        ConfigError: a name is unknown; says which one was meant.
    """

    def __init__(
        self,
        process: Mapping[str, str],
        file: Mapping[str, str] | None = None,
        path: Path | None = None,
        table: Collection[Option] = OPTIONS,
    ) -> None:
        self._file = _ours(file or {})
        self._path = path
        self._options = {option.variable: option for option in table}
        self.values: Mapping[str, str] = {**_ours(process), **self._file}
        self._check(self._file, f"{path}")
        self._check(process, "environment")

    @staticmethod
    def of(variables: Variables) -> Environment:
        """Return variables as an environment."""
        return variables if isinstance(variables, Environment) else Environment(variables)

    def source(self) -> Source:
        """Return what the variables say. An empty value says nothing."""
        said = {option.name: self.values.get(name) or None for name, option in self._options.items()}
        return Source(said, self.where)

    def where(self, option: Option) -> str:
        """Name a variable, and the settings file if it stands there."""
        name = option.variable
        return f"{self._path}: {name}" if name in self._file else name

    def _check(self, names: Iterable[str], where: str) -> None:
        known = (*self._options, *FOREIGN)
        for name in names:
            if name.startswith(PREFIX) and not name.startswith(FREE_PREFIX) and name not in known:
                hint = did_you_mean(name, known, PREFIX) or " docs/options.md lists what there is."
                raise ConfigError(f"{where}: unknown name {name!r}.{hint}")


def given(flags: Mapping[str, Any], env: Variables) -> Sources:
    """Return what was given for this run: flags (or keywords), then variables."""
    return Sources((Source(flags, lambda option: option.dashed), Environment.of(env).source()))


def values_of(table: type[Table], sources: Sources) -> Table:
    """Return the values of a table whose options depend on no bundle.

    Raises:
        ConfigError: a value is wrong; names where it came from.
    """
    return table(**{option.name: sources.pick(option) for option in options_of(table)})


def _ours(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(PREFIX)}
