"""Power modes of a Jetson: asked for and set by `nvpmodel`, and set back whatever happens to us.

The mode outlives the process, and a reboot too. So before the first change the old mode is written to a file, and a
guard process (`mode_guard`) is started that sets it back once we are gone. If the guard is killed as well, or the power
is cut, the file is left: the next benchmark says so, and whoever changes modes next goes back to the mode in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from edge_runtime.base.ending import say
from edge_runtime.base.errors import DeviceError, RequestError
from edge_runtime.bundle.state import make_folder, state_folder
from edge_runtime.lab.bench import mode_guard
from edge_runtime.telemetry.conditions import power_modes

_LIMIT_S = 60
_STARTED = 19
"""Field of /proc/PID/stat behind the name."""
_SAID = re.compile(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)")


class Mode(NamedTuple):
    """A power mode: its number, and its name in nvpmodel.conf."""

    number: int
    name: str


class PowerModes:
    """The modes of this board.

    Args:
        root: under which etc/nvpmodel.conf is.
        state: file that remembers the mode to go back to.

    Attributes:
        modes: all of them.
        original: number of the mode to go back to: the one in force, or the one that an earlier change left on file.

    Raises:
        DeviceError: this is no Jetson, or nvpmodel does not say which mode it is in.
    """

    def __init__(self, root: Path = Path("/"), state: Path | None = None) -> None:
        found = shutil.which("nvpmodel")
        self.modes = [Mode(number, name) for number, name in power_modes(root)]
        if found is None or not self.modes:
            raise DeviceError("power-modes: no nvpmodel and nvpmodel.conf here: only Jetson boards have power modes.")
        self._command, self._state = found, state or state_file()
        now, left = self.current(), left_over(self._state)
        self.original = left if left in [mode.number for mode in self.modes] else now

    def current(self) -> int:
        """Return the number of the mode in force.

        Raises:
            DeviceError: nvpmodel does not say.
        """
        done = self._run("-q")
        said = _SAID.search(done.stdout)
        if said is None:
            raise DeviceError(f"power-modes: nvpmodel -q does not say the mode: {_short(done)}")
        return int(said[2])

    def choose(self, text: str) -> list[Mode]:
        """Return the modes a text names: `all`, or numbers and names separated by commas.

        Raises:
            RequestError: there is no such mode.
        """
        if text == "all":
            return self.modes
        by_word = {str(mode.number): mode for mode in self.modes} | {mode.name: mode for mode in self.modes}
        chosen = []
        for word in text.split(","):
            if word not in by_word:
                known = ", ".join(f"{mode.number} ({mode.name})" for mode in self.modes)
                raise RequestError(f"power-modes: expected all, or some of {known}, got {word!r}.")
            chosen.append(by_word[word])
        return chosen

    def set(self, mode: Mode) -> str | None:
        """Put a mode in force; return why that did not work, None if it did."""
        done = self._run("-m", str(mode.number))
        if done.returncode != 0:
            return f"nvpmodel -m {mode.number} failed: {_short(done)} It may need root."
        now = self.current()
        # some modes of a board take a reboot: nvpmodel asks for it, and nobody answers
        return None if now == mode.number else f"nvpmodel stayed in mode {now}: {_short(done)} It may need a reboot."

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change modes inside this block: at its begin, its end, or ours, the original one is in force.

        Raises:
            DeviceError: it could not be set back. Where an interrupt or a signal ends the block, that is only said.
        """
        if self.current() != self.original and (failed := self.set(Mode(self.original, ""))):
            raise DeviceError(f"power-modes: an earlier change was not undone: {failed} {_set_back(self.original)}")
        self._write_note()
        command = [sys.executable, "-I", mode_guard.__file__, self._command, str(self.original), str(self._state)]
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
        told_to_end = False
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            told_to_end = True
            raise
        finally:
            if why := self._end(guard):
                why = f"power-modes: {why} {_set_back(self.original)}"
                if not told_to_end:
                    raise DeviceError(why)
                say(why)  # how the process ends says who ended it

    def _end(self, guard: subprocess.Popen[bytes]) -> str:
        """Set the original mode back, or leave it to the guard; return why it is not in force, "" if it is."""
        failed = self._set_original()
        if not failed:
            self._state.unlink(missing_ok=True)
        with suppress(subprocess.TimeoutExpired):  # it goes on trying
            guard.communicate(b"" if failed else mode_guard.DONE, timeout=3 * _LIMIT_S)
        with suppress(DeviceError):
            if failed and self.current() == self.original:
                return ""
        return failed

    def _set_original(self) -> str:
        """Put the original mode in force; return why that did not work, "" if it did."""
        try:
            return "" if self.current() == self.original else self.set(Mode(self.original, "")) or ""
        except DeviceError as err:
            return str(err).removeprefix("power-modes: ")

    def _write_note(self) -> None:
        """Write the file, onto the drive: it is for when the power is cut."""
        make_folder(self._state.parent)
        note = {"mode": self.original, "pid": os.getpid(), "started": _started(os.getpid())}
        with open(self._state, "w", encoding="utf-8") as file:
            file.write(json.dumps(note))
            file.flush()
            os.fsync(file.fileno())

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - found on the PATH, as its user would
                [self._command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as err:
            raise DeviceError(f"power-modes: nvpmodel {' '.join(words)}: {err}.") from err


def state_file() -> Path:
    """Return where the mode to go back to is remembered."""
    return state_folder() / "power-mode.json"


def left_over(state: Path | None = None) -> int | None:
    """Return the mode an earlier sweep should have gone back to and did not; None if all is well."""
    path = state or state_file()
    try:
        found = json.loads(path.read_text())
        mode, pid, started = int(found["mode"]), int(found["pid"]), found.get("started")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    now = _started(pid)
    # after a boot the number may be another process's: it has begun at another time. Older files do not say when
    return mode if now is None or started not in (None, now) else None


def left_over_warning() -> str:
    """Return what to say of a mode that an earlier change left in force; "" if all is well."""
    mode = left_over()
    if mode is None:
        return ""
    return (
        f"power-modes: an earlier run was ended before it could set power mode {mode} back. {_set_back(mode)}, then "
        f"remove {state_file()}"
    )


def _set_back(mode: int) -> str:
    return f"Set it back: sudo nvpmodel -m {mode}"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[_STARTED]
    except (OSError, IndexError):
        return None


def _short(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip()[:300].rstrip(".") + "."
