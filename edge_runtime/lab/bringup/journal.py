"""The file of a bring-up: written after every step, so that another run goes on where this one ended."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.lab.bringup.privacy import Scrubber

NAME, FORMAT, MOST_BYTES = "hobbit-bringup.json", 1, 16 << 20


class BringupJournal:
    """What is known of a device so far.

    Args:
        folder: where the file is.
        scrubber: takes out what identifies the machine before anything is written.
        about: what the results hold for: version, bundle. Results of anything else are dropped.

    Raises:
        ConfigError: the folder holds another file of that name.
    """

    def __init__(self, folder: Path, scrubber: Scrubber, about: dict[str, Any]) -> None:
        self.path, self._scrubber = folder / NAME, scrubber
        known = self._read()
        about = scrubber.value(about)
        kept = known["steps"] if known.get("about") == about else {}
        self._found: dict[str, Any] = {
            "format": FORMAT,
            "about": about,
            "steps": kept,
            "machine": {},
            "gpu_check": None,
        }
        self._found["gpu_check"] = known.get("gpu_check") if "gpu-check" in kept else None

    def passed(self, name: str) -> bool:
        """Whether a step passed in a run before this."""
        return bool(self._found["steps"].get(name, {}).get("outcome") == "passed")

    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each step, by name."""
        return {name: str(step["outcome"]) for name, step in self._found["steps"].items()}

    def times_ended(self) -> dict[str, int]:
        """Return how often runs had to end a step, or ended in it, by name; only what did so since it last passed."""
        return {name: step.get("times_ended", 0) for name, step in self._found["steps"].items()}

    def did_not_fit(self) -> dict[str, str]:
        """Return why steps failed that had too little memory, by name."""
        return {name: str(step.get("why")) for name, step in self._found["steps"].items() if step.get("did_not_fit")}

    def keep(self, name: str, result: dict[str, Any]) -> None:
        """Keep the result of a step, and write the file."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
        self._found["steps"][name] = self._scrubber.value(result) | {"ended": now}
        self.write()

    def describe(self, **parts: Any) -> None:
        """Keep something that is no step, and write the file."""
        self._found |= self._scrubber.value(parts)
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all, and onto the drive: the power may be cut.

        Raises:
            RequestError: it cannot be written.
        """
        part = self.path.with_suffix(".part")
        try:
            with open(part, "w", encoding="utf-8") as file:
                file.write(json.dumps(self._found, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        except OSError as err:
            with suppress(OSError):
                part.unlink()
            raise RequestError(f"{self.path}: cannot be written: {err.strerror}. Free space, then run again.") from err

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise ValueError
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found["format"] != FORMAT:
                raise ValueError
            if not all(_is_result(step) for step in found["steps"].values()):
                raise ValueError
        except (ValueError, KeyError, AttributeError, RecursionError) as err:
            raise ConfigError(
                f"{self.path}: expected the file of a bring-up, format {FORMAT}. Move it away, or name another --out."
            ) from err
        return dict(found)


def _is_result(step: Any) -> bool:
    return isinstance(step, dict) and "outcome" in step and isinstance(step.get("times_ended", 0), int)
