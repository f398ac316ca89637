"""The journal of a tuning: every measurement and rehearsal as it is made, so that an interrupted one goes on there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.tune.measurement import Failure, Measurement
from edge_runtime.lab.tune.rehearsal import Rehearsal

_VERSION = 3
_MAX_BYTES = 64 << 20


class Journal:
    """Lines of JSON: what is tuned, then one for each measurement or rehearsal. One that was cut off is written again.

    Args:
        path: the file; None keeps everything in memory.
        about: what has to be the same to go on: machine, bundle, workload.

    Raises:
        ConfigError: the file is of another tuning, or none at all.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._path = path
        self._about = {"version": _VERSION, **about}
        self._found: dict[tuple[str, str, int], Measurement | Failure] = {}
        self._rehearsed: dict[str, Rehearsal | Failure] = {}
        if path is not None and path.exists():
            self._read(path)
        elif path is not None:
            self._append(self._about)

    @property
    def count(self) -> int:
        """Measurements it holds."""
        return len(self._found)

    def get(self, stage: str, key: str, number: int) -> Measurement | Failure | None:
        """Return what was measured of a candidate in a round of a stage; None if it was not yet."""
        return self._found.get((stage, key, number))

    def put(self, stage: str, key: str, number: int, found: Measurement | Failure) -> None:
        """Note a measurement.

        Raises:
            RequestError: it cannot be written.
        """
        self._found[stage, key, number] = found
        what = {"failed": found.why} if isinstance(found, Failure) else {"measured": found.to_json()}
        self._append({"stage": stage, "candidate": key, "round": number} | what)

    def rehearsal(self, key: str) -> Rehearsal | Failure | None:
        """Return what a rehearsal of a candidate told; None if there was none yet."""
        return self._rehearsed.get(key)

    def put_rehearsal(self, key: str, found: Rehearsal | Failure) -> None:
        """Note a rehearsal.

        Raises:
            RequestError: it cannot be written.
        """
        self._rehearsed[key] = found
        what = {"failed": found.why} if isinstance(found, Failure) else found.to_json()
        self._append({"candidate": key, "rehearsed": what})

    def remove(self) -> None:
        """The tuning is over: it is not gone on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as err:
            raise RequestError(f"{self._path}: cannot be written: {err.strerror}. Name another --out.") from err

    def _read(self, path: Path) -> None:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ConfigError(f"{path}: expected a journal of at most {_MAX_BYTES >> 20} MiB. Delete it.")
            whole, _, cut = path.read_bytes().rpartition(b"\n")  # what has no end of line was cut off
        except OSError as err:
            raise ConfigError(f"{path}: cannot be read: {err.strerror}. Name another --out.") from err
        lines = whole.decode(errors="replace").split("\n") if whole else []
        try:
            about = json.loads(lines[0]) if lines else self._about
            if about != self._about:
                changed = [name for name in self._about if about.get(name) != self._about[name]]
                raise ConfigError(
                    f"{path}: is the journal of another tuning: {', '.join(changed) or 'its form'} changed. Delete it "
                    "to begin anew, or name another --out."
                )
            for line in lines[1:]:
                self._take(json.loads(line), str(path))
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as err:
            raise ConfigError(f"{path}: is damaged ({err}). Delete it to begin anew.") from err
        if cut or not lines:
            write_whole(path, "".join(f"{line}\n" for line in lines or [json.dumps(self._about)]).encode())

    def _take(self, entry: Mapping[str, Any], where: str) -> None:
        if "rehearsed" in entry:
            told = entry["rehearsed"]
            failed = Failure(str(told["failed"])) if "failed" in told else None
            self._rehearsed[str(entry["candidate"])] = failed or Rehearsal.from_json(told)
            return
        place = str(entry["stage"]), str(entry["candidate"]), int(entry["round"])
        if "failed" in entry:
            self._found[place] = Failure(str(entry["failed"]))
        else:
            self._found[place] = Measurement.from_json(entry["measured"], where)
