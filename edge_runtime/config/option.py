"""An entry of the table of options, and how a table is written: a dataclass whose fields are entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from edge_runtime.config.kinds import Kind

if TYPE_CHECKING:
    from edge_runtime.bundle.manifest import Manifest

PREFIX = "HOBBIT_"
AUTO = "auto"
_KEY = "option"


@dataclass(frozen=True, eq=False, repr=False)
class Facts:
    """What an option may depend on.

    Attributes:
        manifest: of the bundle.
        known: values of the options that stand before it in the table, by name.
    """

    manifest: Manifest
    known: Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Option:
    """One option. Its name is that of the flag, the variable, the profile key and the keyword of `Engine.open`.

    Attributes:
        kind: converts and checks a value.
        default: used where nobody says anything, as text; ``auto`` asks `auto`; None: no value.
        help: one line for ``--help``.
        example: a value that differs from the default, as text.
        default_text: what the default is, where `default` does not say it.
        doc: more than `help`, for docs/options.md.
        unit: of the value, where neither kind nor help says it.
        letter: a short flag.
        in_profile: a profile may have a value of its own.
        is_live: a running service takes it over at SIGHUP.
        auto_is_final: ``auto`` said by flag or variable beats the profile.
        auto: chooses a value where the word is ``auto``.
        require: refuses a value that somebody gave and the bundle cannot serve; returns the value.
        fit: makes a value of the profile, or the default, fit the bundle.
        name: set by the table.
    """

    kind: Kind
    default: str | None = None
    help: str = ""
    example: str = ""
    default_text: str = ""
    doc: str = ""
    unit: str = ""
    letter: str = ""
    in_profile: bool = False
    is_live: bool = False
    auto_is_final: bool = False
    auto: Callable[[Facts | None], Any] | None = None
    require: Callable[[Any, str, Facts], Any] | None = None
    fit: Callable[[Any, Facts], Any] | None = None
    name: str = ""

    @property
    def variable(self) -> str:
        """The environment twin: ``HOBBIT_IO_THREADS``."""
        return PREFIX + self.name.upper()

    @property
    def dashed(self) -> str:
        """The flag without its dashes: ``io-threads``."""
        return self.name.replace("_", "-")

    @property
    def takes_auto(self) -> bool:
        """Whether the word ``auto`` is no value of its own."""
        return self.kind.takes_auto

    @property
    def shown_default(self) -> str:
        """The default for people."""
        if self.default_text and self.default == AUTO:
            return f"auto: {self.default_text}"
        return self.default_text or self.default or "none"


def option(kind: Kind, default: str | None = None, **rest: Any) -> Any:
    """Declare a field of a table; takes the attributes of `Option`. See `edge_runtime.config.options`."""
    return field(metadata={_KEY: Option(kind, default, **rest)})


def options_of(*tables: type) -> tuple[Option, ...]:
    """Return the entries of tables, in order."""
    declared = (f for table in tables for f in fields(table) if _KEY in f.metadata)
    return tuple(replace(f.metadata[_KEY], name=f.name) for f in declared)
