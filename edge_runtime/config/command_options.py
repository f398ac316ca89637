"""Options that verbs share and that no engine needs: a part of the one table (`options`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.config.kinds import File, OnlyOn
from edge_runtime.config.option import option

# fmt: off


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandOptions:
    """Options that verbs share and that no engine needs."""

    json: bool = option(OnlyOn(), "off", example="on", help="one JSON object on stdout, not text")
    verbose: bool = option(OnlyOn(), "off", letter="v", example="on", help="log what the engine does to stderr")
    no_self_check: bool = option(
        OnlyOn(), "off", example="on",
        help="skip the numerical check of a bundle's first start",
    )
    models: Path | None = option(
        File("DIR"), default_text="XDG_DATA_HOME/hobbit-edge/models, else ~/.local/share/hobbit-edge/models",
        example="/srv/models",
        help="folder of models: BUNDLE may be a name in it",
        doc="`hobbit pull` writes there, see [models-folder.md](models-folder.md). A BUNDLE that is a path where "
        "something is stays a path.",
    )

# fmt: on
