"""The unit files, read by systemd's own tools: no root and no running systemd needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPO

UNITS = REPO / "systemd"
EXAMPLES = sorted((UNITS / "examples").glob("*.conf"))
MAX_EXPOSURE = 3.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed; unit files were NOT checked"
)


@pytest.fixture
def units(tmp_path):
    """Copies of the units whose program exists here, as `verify` insists on it."""
    for name in ("hobbit.service", "hobbit.socket"):
        text = (UNITS / name).read_text().replace("/opt/hobbit-edge/bin/hobbit", "/bin/true")
        (tmp_path / name).write_text(text)
    return tmp_path


def analyze(*args):
    return subprocess.run(["systemd-analyze", *map(str, args)], capture_output=True, text=True, check=False)


def verify(*paths):
    """`verify` exits 0 even for keys it does not know; only silence is a pass."""
    done = analyze("verify", "--man=no", *paths)
    return done.returncode, done.stderr


@needs_systemd
def test_units_verify_without_a_word(units):
    assert verify(units / "hobbit.service", units / "hobbit.socket") == (0, "")


@needs_systemd
def test_the_check_itself_sees_an_unknown_key(units):
    unit = units / "hobbit.service"
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nProtectEverything=yes"))
    assert "ProtectEverything" in verify(unit)[1]


@needs_systemd
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_drop_in_example_verifies(units, example):
    text = example.read_text()
    unit = "hobbit.socket" if "[Socket]" in text else "hobbit.service"
    folder = units / f"{unit}.d"
    folder.mkdir()
    shutil.copy(example, folder / "override.conf")
    assert verify(units / unit) == (0, "")


@needs_systemd
def test_exposure_stays_under_the_threshold(units):
    threshold = f"--threshold={int(MAX_EXPOSURE * 10)}"
    done = analyze("security", "--offline=true", "--no-pager", threshold, units / "hobbit.service")
    found = re.search(r"Overall exposure level for hobbit.service: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    print(f"exposure {found[1]}")
    assert done.returncode == 0
    assert float(found[1]) <= MAX_EXPOSURE


@needs_systemd
def test_the_settings_that_score_nothing_are_there_too():
    text = (UNITS / "hobbit.service").read_text()
    assert not re.search(r"^PrivateDevices=", text, re.MULTILINE), "it hides the GPU"
    for line in (
        "Type=notify", "NotifyAccess=main", "RestartPreventExitStatus=2 78", "SupplementaryGroups=render video",
        "ProtectSystem=strict", "StateDirectory=hobbit-edge", "MemoryMax=85%", "Restart=always",
    ):  # fmt: skip
        assert re.search(rf"^{re.escape(line)}$", text, re.MULTILINE), line
    for node in ("/dev/nvmap", "char-nvhost*", "char-nvgpu*", "char-nvidia*", "char-drm"):
        assert f"DeviceAllow={node} rw" in text


def test_the_watchdog_outlasts_the_longest_wait_of_one_step():
    from edge_runtime.experts.store.base import DEFAULT_READ_TIMEOUT_S

    text = (UNITS / "hobbit.service").read_text()
    (seconds,) = re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)
    assert int(seconds) > DEFAULT_READ_TIMEOUT_S * 1.5


def test_configuration_errors_exit_with_a_code_that_is_not_retried():
    from edge_runtime.base.errors import BudgetError, BundleError, ConfigError

    assert {error.exit_code for error in (BudgetError, BundleError, ConfigError)} == {78}


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_sysusers_makes_the_user_and_its_groups(tmp_path):
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "sysusers.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "ermission" in done.stderr:
        pytest.skip(f"needs root: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    passwd = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^hobbit:.*:/var/lib/hobbit-edge:/usr/sbin/nologin$", passwd, re.MULTILINE)
    groups = (tmp_path / "etc/group").read_text()
    for group in ("render", "video"):
        assert re.search(rf"^{group}:.*:hobbit$", groups, re.MULTILINE)


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_shell_scripts_pass_shellcheck(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", "--external-sources", f"deploy/{script}"]  # with what it sources
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 0, done.stdout


def test_documented_paths_agree():
    """The unit, the user's home and the installer name the same places."""
    unit, installer = (UNITS / "hobbit.service").read_text(), Path(REPO / "deploy/install.sh").read_text()
    for place in ("/opt/hobbit-edge", "/etc/hobbit-edge/hobbit.env"):
        assert place in unit
        assert place in installer
