"""Origins of web pages, as an option takes them."""

from __future__ import annotations

import re
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.kinds import Kind

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*,]+")


class Origins(Kind):
    """Origins of web pages: a flag for each; in a variable they are separated by spaces or commas."""

    metavar = "ORIGIN"
    takes_auto = False
    repeats = True

    def convert(self, value: Any, where: str) -> tuple[str, ...]:
        """See `Kind.convert`."""
        given = [value] if isinstance(value, str) else list(value)
        found = [one for text in given for one in text.replace(",", " ").split()]
        return tuple(dict.fromkeys(self._origin(one, where) for one in found))

    @staticmethod
    def _origin(text: str, where: str) -> str:
        origin = text.lower().removesuffix("/")
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"{where}: expected an origin as browsers name it, such as http://localhost:3000, got {text[:100]!r}."
            )
        return re.sub(r"(?<=^http)(://.*):80$|(?<=^https)(://.*):443$", r"\1\2", origin)
