"""A real systemd as PID 1 of namespaces of its own, over a throw-away copy of this machine's root or of another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conftest import REPO

BOOT = Path(__file__).with_name("boot.sh")
EMPTY = (Path("/tmp"), Path("/var/tmp"))
"""What begins empty in every machine."""
CGROUP = Path("/sys/fs/cgroup")
PATIENCE_S = 900.0
"""A command inside that takes longer hangs; a machine that does other work beside the tests needs minutes."""
_V1 = ("memory", "devices", "pids", "cpu", "freezer")


def missing() -> str | None:
    """Say what this machine lacks to run a systemd, None if nothing."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("/lib/systemd/systemd", "unshare", "nsenter", "systemctl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    return f"no namespaces: {probe.stderr.strip()}" if probe.returncode else None


def hidden(paths: Iterable[Path]) -> list[Path]:
    """Those of some folders that a machine over this machine's root does not see by itself."""
    return [path for path in paths if any(path.is_relative_to(folder) for folder in EMPTY)]


class Machine:
    """A booted systemd.

    Attributes:
        controllers: cgroup controllers whose limits it can enforce.
    """

    def __init__(self, *, offline: bool = False, root: Path = Path("/"), shown: Sequence[Path] = ()) -> None:
        self._name = f"hobbit-test-{uuid.uuid4().hex[:8]}"
        self._work = Path(tempfile.mkdtemp(prefix=self._name))
        self._groups = _make_groups(self._name)
        self.controllers = _controllers()
        is_v2 = (CGROUP / "cgroup.controllers").exists()
        command = [
            "unshare",
            "--fork",
            "--kill-child",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
            "--cgroup",
            *(["--net"] if offline else []),
            "bash",
            str(BOOT),
        ]
        command += [str(self._work), str(root), *([] if is_v2 else self.controllers), "--", *map(str, shown)]
        groups = self._groups

        def enter() -> None:
            for group in groups:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        self._unshare = subprocess.Popen(
            command, preexec_fn=enter, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._pid = 0

    def wait_until_booted(self, timeout_s: float = 60.0) -> None:
        """Return once basic.target is reached."""
        deadline = time.monotonic() + timeout_s
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while time.monotonic() < deadline:
            if self._unshare.poll() is not None:
                assert self._unshare.stdout is not None
                raise RuntimeError(f"no systemd: {self._unshare.stdout.read().decode()}")
            words = children.read_text().split()
            self._pid = int(words[0]) if words else 0
            if self._pid and self.run("systemctl", "is-active", "ci.target", check=False).stdout.strip() == "active":
                return
            time.sleep(0.1)
        raise RuntimeError("systemd did not boot")

    def run(self, *command: str, check: bool = True, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        inside = ["nsenter", "-t", str(self._pid), "-a", "--", *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=timeout_s, cwd="/")
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def shell(self, script: str, check: bool = True) -> str:
        """Run bash lines inside; return stdout. Where it is checked, every line has to hold, not the last alone."""
        return self.run("bash", *(["-e"] if check else []), "-c", script, check=check).stdout

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """Return what a unit logged, and what systemd logged about it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """Wait for something."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"timed out: {what}\n{self.journal('hobbit')[-4000:]}")
            time.sleep(0.1)

    def close(self) -> None:
        """Kill every process inside and remove what was made outside."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._unshare.kill()
        self._unshare.communicate()
        for group in self._groups:
            _remove_group(group)
        shutil.rmtree(self._work, ignore_errors=True)


@contextmanager
def booted(*, offline: bool = False, root: Path = Path("/"), shown: Sequence[Path] = ()) -> Iterator[Machine]:
    """Boot a machine; it is gone afterwards.

    Args:
        offline: it has a loopback of its own and no route anywhere.
        root: the root that it starts from.
        shown: folders of this machine that a root without them gets. One over this machine's own root gets those of
            them that lie below /tmp, and this checkout and its Python if they do.
    """
    if root == Path("/"):
        shown = hidden({*shown, REPO, Path(sys.prefix), Path(sys.base_prefix)})
    machine = Machine(offline=offline, root=root, shown=shown)
    try:
        machine.wait_until_booted()
        yield machine
    finally:
        machine.close()


def _own_groups() -> dict[str, Path]:
    """Controller (or 'name=systemd', or '' for the unified hierarchy) to this process's group."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            mount = CGROUP / (name.removeprefix("name=") or "unified")
            if not name and not mount.is_dir():
                mount = CGROUP
            found[name] = mount / path.strip("/")
    return found


def _controllers() -> list[str]:
    own = _own_groups()
    if (CGROUP / "cgroup.controllers").exists():
        return (CGROUP / "cgroup.controllers").read_text().split()
    return [name for name in _V1 if name in own and own[name].is_dir()]


def _make_groups(name: str) -> list[Path]:
    own = _own_groups()
    groups = [path / name for key, path in own.items() if key in ("", "name=systemd", *_V1) and path.is_dir()]
    for group in groups:
        group.mkdir()
    return groups


def _remove_group(group: Path) -> None:
    """Remove a cgroup and those below; the kernel lets go a moment after the last process has."""
    for _ in range(100):
        folders = sorted((p for p in [group, *group.rglob("*")] if p.is_dir()), reverse=True)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if not group.exists():
            return
        time.sleep(0.05)
