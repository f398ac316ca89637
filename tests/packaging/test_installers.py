"""deploy/environment.sh and deploy/install.sh where they must refuse, and that a dry run changes nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPO

from edge_runtime.config.options import OPTIONS
from edge_runtime.config.profiles import profile_names

sys.path.insert(0, str(REPO / "tools/release"))

import common

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def bundle(tmp_path):
    """An offline bundle without libraries: enough for every check that comes before installing."""
    folder = tmp_path / "bundle"
    (folder / "deploy").mkdir(parents=True)
    (folder / "wheels").mkdir()
    shutil.copy(REPO / "deploy/environment.sh", folder / "deploy")
    (folder / f"requirements-{HERE}.txt").write_text("")
    (folder / "ARCHITECTURE").write_text(platform.machine() + "\n")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def environment(bundle, *words):
    command = ["bash", str(bundle / "deploy/environment.sh"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_bundle_for_another_python_is_refused_by_name(bundle, tmp_path):
    (bundle / f"requirements-{HERE}.txt").rename(bundle / "requirements-3.99.txt")
    code, said = environment(bundle, tmp_path / "env", "--python", sys.executable)
    assert code == 1
    assert f"is Python {HERE}; this bundle is for 3.99" in said
    assert not (tmp_path / "env").exists()


def test_a_bundle_for_another_machine_is_refused(bundle, tmp_path):
    (bundle / "ARCHITECTURE").write_text("riscv64\n")
    code, said = environment(bundle, tmp_path / "env", "--python", sys.executable)
    assert (code, f"this machine is {platform.machine()}; the bundle is for riscv64" in said) == (1, True), said


def test_a_damaged_bundle_is_refused_before_anything_is_made(bundle, tmp_path):
    with (bundle / f"requirements-{HERE}.txt").open("a") as file:
        file.write("evil==1\n")
    code, said = environment(bundle, tmp_path / "env", "--python", sys.executable)
    assert code == 1
    assert "the bundle is damaged" in said
    assert f"requirements-{HERE}.txt" in said
    assert not (tmp_path / "env").exists()


def test_the_same_modules_are_left_uncompiled_everywhere():
    (here,) = re.findall(r"^seldom='(.*)'$", (REPO / "deploy/environment.sh").read_text(), re.MULTILINE)
    assert here == common.SELDOM_IMPORTED
    for path in (REPO / "deploy/debian").glob("*/postinst"):
        assert '-x "@SELDOM@"' in path.read_text()
    for left in ("numpy/_core/tests/test_x.py", "onnxruntime/tools/x.py"):
        assert re.search(here, f"lib/python3.11/site-packages/{left}")
    for kept in ("edge_runtime/lab/bench/run.py", "numpy/testing/x.py", "onnxruntime/capi/x.py", "pygments/lexer.py"):
        assert not re.search(here, f"lib/python3.11/site-packages/{kept}")


def test_what_an_installation_takes_is_listed_and_below_the_limit():
    page = (REPO / "docs/operations.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|((?: [\d.]+ \|){4})$", page, re.MULTILINE)
    sizes = {
        name: [float(size) for size in line.split(" | ") if size]
        for name, line in ((n, c.strip(" |")) for n, c in rows)
    }
    total = sizes.pop("all of it")
    assert [sum(column) for column in zip(*sizes.values(), strict=True)] == pytest.approx(total, abs=1)
    assert max(total) < common.MOST_BYTES / 1e6


def test_a_folder_of_somebody_elses_is_left_alone(bundle, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    code, said = environment(bundle, home, "--python", sys.executable)
    assert code == 1
    assert f"{home} holds something else than a Python environment" in said
    assert (home / "thesis.tex").read_text() == "years of work"
    (tmp_path / "link").symlink_to(home)
    assert environment(bundle, tmp_path / "link", "--python", sys.executable)[0] == 1


def test_an_environment_comes_back_where_its_successor_cannot_be_made(bundle, tmp_path):
    """This bundle has no libraries, so pip fails after the new environment was begun."""
    env = tmp_path / "env"
    env.mkdir()
    (env / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (env / "kept").write_text("x")
    code, said = environment(bundle, env, "--python", sys.executable)
    assert code != 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "env"]
    assert sorted(path.name for path in env.iterdir()) == ["kept", "pyvenv.cfg"]


def test_outside_a_bundle_it_says_so():
    done = subprocess.run(
        ["bash", str(REPO / "deploy/environment.sh"), "/nonexistent/env"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "works inside an offline bundle" in done.stderr


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--python"], ["--what"]])
def test_usage_is_said(bundle, words):
    assert environment(bundle, *words)[0] == 2


@pytest.fixture
def pretended(tmp_path):
    """A PATH whose systemctl and runuser write down that they were called, and do nothing."""
    folder, log = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "runuser", "install", "ln", "rm"):
        answer = 'if [ "$1" = --version ]; then echo "systemd 252"; exit; fi; ' if name == "systemctl" else ""
        (folder / name).write_text(f'#!/bin/sh\n{answer}echo "{name} $*" >> {log}\n')
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, log


def dry_run(pretended, *flags):
    """What install.sh would do in a checkout; whatever would change the machine is pretended here."""
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("no /usr/bin/python3; the dry run was NOT checked")
    script = (REPO / "deploy/install.sh").read_text()
    if not os.path.isdir("/run/systemd/system"):
        script = script.replace("[ -d /run/systemd/system ]", "true")
    environ, log = pretended
    copy = log.with_name("deploy") / "install.sh"
    copy.parent.mkdir()
    copy.write_text(script)
    for name in ("replacing.sh", "hobbit.env.example"):
        shutil.copy(REPO / "deploy" / name, copy.parent)
    for name in ("systemd", "docs"):
        (log.parent / name).symlink_to(REPO / name)
    command = ["bash", str(copy), "--dry-run", "--python", "/usr/bin/python3", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def test_a_dry_run_names_every_step_and_takes_none(pretended):
    """None of the pretended programs may be called."""
    _, log = pretended
    (log.parent / "model").mkdir()
    (log.parent / "model/manifest.json").touch()
    done = dry_run(pretended, "--wheel", "some.whl", "--socket", "--bundle", str(log.parent / "model"))
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    for step in (
        "-m venv",
        "pip install",
        "systemd-sysusers",
        "hobbit.service",
        "/usr/local/bin/hobbit",
        "daemon-reload",
    ):
        assert any(step in line for line in done.stdout.splitlines() if "would" in line), step
    last = [line.strip() for line in done.stdout.splitlines() if "would" in line][-2:]
    assert last == ["would run: systemctl restart hobbit.service", "would run: hobbit doctor"], "the doctor comes last"
    assert done.stdout.splitlines()[-1] == "==> dry run: nothing was changed"


OURS = f"hobbit_edge-1.2.3-cp310-abi3-%s_{platform.machine()}.whl"


@pytest.mark.parametrize("newest", ["manylinux_2_35", "linux"])
def test_the_newest_wheel_for_this_machine_is_installed(pretended, newest):
    """`make wheels` and pip give theirs different names, of which the last in order would be taken for ever."""
    dist = pretended[1].with_name("dist")
    dist.mkdir()
    times = {OURS % "manylinux_2_35": 100, OURS % "linux": 100, "hobbit_edge-9.0.0-cp310-abi3-linux_riscv64.whl": 300}
    times |= {"hobbit_edge-9.0.0-cp39-cp39-linux_x86_64.whl": 300, "hobbit_edge-0.2.0.tar.gz": 300, OURS % newest: 200}
    for name, when in times.items():
        (dist / name).touch()
        os.utime(dist / name, (when, when))
    done = dry_run(pretended)
    assert f"    from {dist / (OURS % newest)}\n" in done.stdout, done.stderr


@pytest.mark.parametrize("other", [None, "hobbit_edge-1.2.3-cp310-abi3-linux_riscv64.whl"])
def test_without_a_wheel_for_this_machine_the_checkout_is_built(pretended, other):
    checkout = pretended[1].parent
    if other is not None:
        (checkout / "dist").mkdir()
        (checkout / "dist" / other).touch()
    (checkout / "bin/c++").write_text("#!/bin/sh\n")
    (checkout / "bin/c++").chmod(0o755)
    done = dry_run(pretended)
    assert (done.returncode, f"    from {checkout}\n" in done.stdout) == (0, True), (done.stdout, done.stderr)


def test_which_profile_a_board_gets_is_decided_by_the_runtime():
    """`--profile auto` tells a 4 GB module from an 8 GB one; a second table here did not."""
    script = (REPO / "deploy/install.sh").read_text()
    assert [name for name in profile_names() if name in script.replace("generic", "")] == []


def test_uninstalling_leaves_the_files_of_a_debian_package_alone(pretended, tmp_path):
    environ, log = pretended
    unit, script = tmp_path / "hobbit.service", tmp_path / "uninstall.sh"
    (tmp_path / "bin/id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "bin/id").chmod(0o755)
    text = (REPO / "deploy/uninstall.sh").read_text()
    assert "/usr/lib/systemd/system/hobbit.service" in text
    script.write_text(text.replace("/usr/lib/systemd/system/hobbit.service", str(unit)))
    unit.touch()
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the Debian package hobbit-edge is installed" in done.stderr
    assert not log.exists(), log.read_text()


def test_lines_of_the_example_that_are_commented_out_say_the_default():
    text, seen = (REPO / "deploy/hobbit.env.example").read_text(), set()
    for name, value in re.findall(r"^#(HOBBIT_\w+)=(.*)$", text, re.MULTILINE):
        option = next(option for option in OPTIONS if option.variable == name)
        expected = {"HOBBIT_API_KEY_FILE": "none"}.get(name, value)
        assert option.shown_default.partition(":")[0] == expected, name
        seen.add(name)
    assert len(seen) > 6
