"""deploy/install.sh over an installation that runs, ended at every step: what was there stays whole, or comes back."""

from __future__ import annotations

import fcntl
import os
import re
import signal as signals
import subprocess
import sys

import pytest
from conftest import REPO

STEPS = ("cp", "install", "ln", "mktemp", "mv", "rm")
"""Programs of the system that change something: they do here what they do, but for owners and users."""
NOTHING = ("sync", "systemd-sysusers", "systemd-tmpfiles", "journalctl")
"""Those that have nothing to do here."""
INSTALLED = re.compile(r"(?<![\w$}/.])(/(?:opt|etc|usr/lib|usr/local|var/lib)/)")
"""Where a path begins that the installer writes to."""
TICK = """#!/bin/bash
exec 8>>$ROOT/ticks; flock 8; echo x >&8
if [ "$(wc -l <$ROOT/ticks)" = "${END_AT:-0}" ]; then kill -$SIGNAL "$(cat $ROOT/pid)"; fi
exec 8>&-
"""
PYTHON = (
    TICK
    + """
here=$(dirname "$(dirname "$0")")
case "$*" in
  "-c import os, sys"*) echo /usr/bin/python3 ;;
  "-c"*) ;;
  "-m venv "*) mkdir -p "$3/bin" "$3/share/man/man1"; cp "$0" "$3/bin/python" ;;
  "-m pip "*)
    wheel=${!#}
    read -r version <"${wheel%\\[serve\\]}"
    if [ "$version" = no-wheel ]; then exit 1; fi
    touch "$here/share/man/man1/hobbit-$version.1"
    printf '#!/bin/sh\\necho %s\\n' "$version" >"$here/bin/hobbit"
    chmod +x "$here/bin/hobbit"
    cp /usr/bin/sleep "$here/bin/service" ;;
  *) exec PYTHON "$@" ;;
esac
"""
)
# the service is a process whose program lies where hobbit did when it was started; version 'bad' does not start
SYSTEMCTL = (
    TICK
    + """
state=$ROOT/running
case "$*" in
  --version) echo systemd 252 ;;
  "is-active "*.service) if [ -e $state ]; then echo active; else echo inactive; exit 3; fi ;;
  is-active*) echo inactive; exit 3 ;;
  stop*hobbit.service | restart*hobbit.service)
    if [ -e $state ]; then pid=$(cat $state); kill -9 $pid; rm $state; while [ -e /proc/$pid/exe ]; do sleep 0.01; done; fi
    if [ $1 = stop ]; then exit 0; fi
    program=$(readlink -f $ROOT/opt/hobbit-edge/bin/hobbit)
    if [ "$($program)" = bad ]; then exit 1; fi
    "$(dirname "$program")/service" 1000 </dev/null >/dev/null 2>&1 9>&- &
    echo $! >$state ;;
esac
"""
)


class Pretended:
    """A root of its own with systemd, users and Python pretended, and the installer rewritten to install there."""

    def __init__(self, root):
        self.root, self.prefix = root, root / "opt/hobbit-edge"
        for folder in ("bin", "src/deploy", "etc/systemd/system", "opt", "tmp"):
            (root / folder).mkdir(parents=True)
        for name in ("install.sh", "replacing.sh", "hobbit.env.example"):
            text = (REPO / "deploy" / name).read_text().replace("[ -d /run/systemd/system ]", "true")
            (root / "src/deploy" / name).write_text(INSTALLED.sub(rf"{root}\1", text))
        for name in ("systemd", "docs"):
            (root / "src" / name).symlink_to(REPO / name)
        for name in STEPS:
            real = f'exec /usr/bin/{name} "$@"'
            if name == "install":
                real = 'for word; do shift; case $word in -g | hobbit) ;; *) set -- "$@" "$word" ;; esac; done\n' + real
            self._program(name, f"{TICK}{real}\n")
        self._program("python", PYTHON.replace("PYTHON", sys.executable))
        self._program("systemctl", SYSTEMCTL)
        for name in NOTHING:
            self._program(name, TICK)
        self._program("id", "#!/bin/sh\necho 0\n")
        self._program("runuser", '#!/bin/sh\nshift 3\nexec "$@"\n')

    def _program(self, name, text):
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def install(self, version, *flags, end_at=0, signal="TERM"):
        """Run the installer with a wheel of a version; end it at a step if one is given."""
        wheel = self.root / "a.whl"
        wheel.write_text(version)
        (self.root / "ticks").write_text("")
        environ = {
            **os.environ,
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "ROOT": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "END_AT": str(end_at),
            "SIGNAL": signal,
        }
        script = f'echo $$ >{self.root}/pid; exec bash {self.root}/src/deploy/install.sh "$@"'
        command = ["bash", "-c", script, "-", "--wheel", str(wheel), "--python", f"{self.root}/bin/python", *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)

    def steps(self):
        """How many steps the run before took."""
        return (self.root / "ticks").read_text().count("x")

    def bundle(self):
        """Put a bundle where the service looks for it."""
        (self.root / "var/lib/hobbit-edge/bundle").mkdir(parents=True)
        (self.root / "var/lib/hobbit-edge/bundle/manifest.json").write_text("{}")

    def version(self):
        """What the command says that is in place."""
        return subprocess.run([self.prefix / "bin/hobbit"], capture_output=True, text=True, check=True).stdout.strip()

    def running(self):
        """The folder of the service's program as the kernel sees it, '... (deleted)' once it is gone; None if none runs."""
        state = self.root / "running"
        return os.path.dirname(os.readlink(f"/proc/{state.read_text().strip()}/exe")) if state.exists() else None

    def stop(self):
        """End the service."""
        if (self.root / "running").exists():
            os.kill(int((self.root / "running").read_text()), signals.SIGTERM)

    def files(self):
        """Everything installed, by content; without what only this pretence keeps."""
        found = {}
        for top in ("opt", "etc", "usr", "tmp"):
            for path in (self.root / top).rglob("*"):
                if path.is_symlink():
                    found[path] = os.readlink(path)
                elif path.is_file():
                    found[path] = path.read_bytes()
        return found


@pytest.fixture
def machine(tmp_path):
    found = Pretended(tmp_path)
    found.bundle()
    yield found
    found.stop()


def as_before(machine):
    """A version 1 as earlier releases had it: a folder, not a link."""
    built = machine.prefix.resolve()
    machine.prefix.unlink()
    built.rename(machine.prefix)
    built.parent.rmdir()


def test_an_upgrade_switches_and_leaves_one_environment(machine):
    done = machine.install("1")
    assert done.returncode == 0, done.stderr
    first = machine.prefix.resolve()
    assert machine.running() == str(first / "bin")
    assert machine.install("2").returncode == 0
    assert machine.version() == "2"
    assert [path.name for path in (machine.root / "opt/hobbit-edge.d").iterdir()] == [machine.prefix.resolve().name]
    assert not first.exists()
    pages = [path.name for path in (machine.root / "usr/local/share/man/man1").iterdir()]
    assert pages == ["hobbit-2.1"], "the page of a command that is no more is gone"


def end_at_steps(machine, layout, signal, every):
    """Upgrade again and again, each run ended at another step, to a version that starts and to one that does not."""
    machine.install("1")
    if layout == "folder":
        as_before(machine)
    before = machine.files()
    probe = machine.install("bad")
    assert probe.returncode == 1
    assert machine.files() == before, "a version that does not start is taken back, whole"
    assert "starting again what ran before" in probe.stdout
    ended = 0
    for step in range(1, machine.steps(), every):
        done = machine.install("bad" if step % 2 else "2", "--memory", "1GiB", end_at=step, signal=signal)
        ended += done.returncode not in (0, 1)
        running = machine.running()
        if signal == "TERM" and done.returncode:
            assert machine.files() == before, (step, done.stdout, done.stderr)
            assert running is not None, (step, done.stdout)
        before = machine.files()
        assert machine.version() in ("1", "2", "bad"), (step, done.stdout)
        assert running is None or os.path.isdir(running), (step, done.stdout)
    assert ended * every > 20
    done = machine.install("3")
    assert done.returncode == 0, done.stderr
    assert machine.version() == "3"
    assert len(list((machine.root / "opt/hobbit-edge.d").iterdir())) == 1, "what killed runs left is gone"


ENDS = [("link", "TERM"), ("folder", "TERM"), ("link", "KILL"), ("folder", "KILL")]


@pytest.mark.parametrize(("layout", "signal"), ENDS)
def test_ended_in_between_there_is_an_installation_that_runs(machine, layout, signal):
    end_at_steps(machine, layout, signal, every=17)


@pytest.mark.system
@pytest.mark.parametrize(("layout", "signal"), ENDS)
def test_ended_at_any_step_there_is_an_installation_that_runs(machine, layout, signal):
    end_at_steps(machine, layout, signal, every=1)


def test_pip_that_fails_changes_nothing(machine):
    machine.install("1")
    before = machine.files()
    done = machine.install("no-wheel")
    assert (done.returncode, "pip could not install" in done.stderr) == (1, True)
    assert machine.files() == before


def test_two_at_a_time_are_refused(machine):
    machine.install("1")
    held = os.open(machine.root / "etc/systemd/system", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    done = machine.install("2")
    os.close(held)
    assert done.returncode == 1
    assert "another install.sh or uninstall.sh is at work" in done.stderr
    assert machine.version() == "1"
