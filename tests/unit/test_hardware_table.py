"""tools/hardware_table.py: docs/hardware.md says what result files say, and nothing else."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("hardware_table")


@pytest.fixture
def results(tool: ModuleType, tmp_path: Path) -> Path:
    """The committed result files, to be changed."""
    return Path(shutil.copytree(tool.RESULTS, tmp_path / "benchmarks/results"))


def row(page: str, feature: str) -> list[str]:
    return next(line for line in page.splitlines() if line.startswith(f"| {feature}")).strip("| ").split(" | ")


def test_the_page_is_current(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0, "run python tools/hardware_table.py"


def test_each_cell_says_of_which_day_and_commit_it_is(tool: ModuleType, results: Path) -> None:
    path = results / "hardware/x86.json"
    whole = json.loads(path.read_text())
    found = whole["features"]["encoder"]
    found["changed"] = True
    path.write_text(json.dumps(whole))
    page = tool.page(results)
    assert row(page, "expert encoder")[1].endswith(f"; {found['date']} at {found['commit']} with changes")
    for feature in tool.FEATURES:
        cells = row(page, feature.title)[1:]
        assert all(
            each == "never" or re.search(r"; \d{4}-\d\d-\d\d at \w+( with changes)?$", each) for each in cells
        ), cells


def test_an_old_page_is_found(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "hardware.md"
    old.write_text(tool.PAGE.read_text().replace("never", "passed"))
    monkeypatch.setattr(tool, "PAGE", old)
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0


def test_what_shows_a_feature_is_there(tool: ModuleType) -> None:
    for feature in tool.FEATURES:
        assert feature.checks, feature.name
        for kind, *words in feature.checks.values():
            assert kind in ("pytest", "bash")
            assert [word for word in words if not (ROOT / word).exists()] == []
    assert len({feature.name for feature in tool.FEATURES}) == len(tool.FEATURES)


OF_TOOLS = {"test_gpu_compile.py", "test_roofline.py"}
"""What they test runs on no device."""


def test_every_test_of_the_gpus_path_shows_a_feature(tool: ModuleType) -> None:
    named = {Path(word).name for feature in tool.FEATURES for command in feature.checks.values() for word in command}
    assert {path.name for path in (ROOT / "tests/cuda").glob("test_*.py")} - named == OF_TOOLS


def test_nothing_is_said_to_have_run_on_a_gpu_without_a_result(tool: ModuleType, results: Path) -> None:
    for path in [*results.glob("gpu_check_*.json"), *results.glob("bringup/*.json")]:
        path.unlink()
    for feature in tool.FEATURES:
        assert row(tool.page(results), feature.title)[-2:] == [tool.NEVER, tool.NEVER], feature.name


def test_a_result_of_a_gpu_becomes_a_column_and_a_fakes_does_not(tool: ModuleType, results: Path) -> None:
    found = {"device": "NVIDIA H100", "arch": "sm_90", "driver_cuda": 12060, "date": "2026-12-01", "emulated": False}
    found |= {
        "passed": ["self_test", "checks"],
        "skipped": ["tensorrt"],
        "failed": ["memory"],
        "commit": "0123456789ab",
    }
    (results / "gpu_check_NVIDIA_H100.json").write_text(json.dumps(found))
    (results / "gpu_check_Fake.json").write_text(json.dumps(found | {"device": "A fake", "emulated": True}))
    page = tool.page(results)
    assert "A fake" not in page
    titles = row(page, "feature")
    assert titles[-2:] == ["NVIDIA H100", "Jetson"]
    age = "2026-12-01 at 0123456789ab"
    assert row(page, "CUDA: device-only functions")[-2:] == [f"passed; {age}", "never"]
    assert row(page, "CUDA: kinds of memory")[-2] == f"**failed**; {age}"
    assert row(page, "CUDA: driver layer")[-2] == "never", "no error is injected on a GPU"
    assert row(page, "CUDA: decode loop")[-2] == "never"
    assert row(page, "TensorRT: the trunk as engines")[-2] == f"skipped; {age}"
    assert "2026-12-01, commit 0123456789ab; " in page
    (results / "bringup").mkdir(exist_ok=True)
    board = found | {"device": "Orin", "passed": ["demo", "tensorrt"], "skipped": [], "failed": None, "changed": True}
    board["demo"] = ["streamed through device memory", "pinned memory left out: refused", "resident"]
    (results / "bringup/orin.json").write_text(json.dumps({"board": "Jetson Orin NX", "gpu_check": board}))
    page = tool.page(results)
    assert row(page, "feature")[-2:] == ["NVIDIA H100", "Jetson Orin NX"]
    assert row(page, "CUDA: decode loop")[-2:] == ["never", f"passed, 1 of its ways left out; {age} with changes"]
    assert row(page, "TensorRT: the trunk as engines")[-2:] == [f"skipped; {age}", f"passed; {age} with changes"]
    assert "commit 0123456789ab with changes; " in page


def test_a_quick_check_shows_and_so_does_how_much_was_checked(tool: ModuleType, results: Path) -> None:
    found = {"device": "Orin", "arch": "sm_87", "driver_cuda": 12060, "date": "2026-12-01", "emulated": False}
    found |= {"passed": ["self_test", "checks", "memory"], "failed": [], "checks": 121, "commit": "0123456789ab"}
    found |= {"multiprocessors": 8, "board": "Jetson Orin NX", "memory_bytes": 16 << 30, "jetson_linux": "36.4.3"}
    found |= {"power_mode": "MAXN", "compiler": "NVRTC 12.6", "gpu_memory_bytes": None}
    file, age = results / "gpu_check_Orin.json", "2026-12-01 at 0123456789ab"
    file.write_text(json.dumps(found | {"quick": False}))
    page = tool.page(results)
    assert row(page, "feature")[-1] == "Jetson Orin NX", "each Orin's GPU is called Orin"
    assert row(page, "CUDA: experts of one token")[-1] == f"passed, 121 checks; {age}"
    assert row(page, "CUDA: kinds of memory")[-1] == f"passed; {age}"
    said = "8 multiprocessors, Jetson Orin NX, 16.0 GiB of the system, Jetson Linux 36.4.3, power mode MAXN, NVRTC 12.6"
    assert f"| Orin (sm_87), {said}, driver for CUDA 12060; 2026-12-01, " in page
    file.write_text(json.dumps(found | {"quick": True}))
    page = tool.page(results)
    assert row(page, "CUDA: experts of one token")[-1] == f"passed, 121 checks, quick; {age}"
    assert row(page, "CUDA: kinds of memory")[-1] == f"passed, quick; {age}"
    file.write_text(json.dumps(found | {"failed": "checks", "passed": []}))
    assert row(tool.page(results), "CUDA: experts of one token")[-1] == f"**failed**; {age}", "of a checkout of before"


def steps(**outcomes: str) -> dict[str, dict[str, str]]:
    found = {name.replace("_", " "): {"outcome": outcome} for name, outcome in outcomes.items()}
    return {name: {**each, "ended": "2026-12-02 10:00:00Z"} for name, each in found.items()}


def test_steps_of_a_bring_up_are_a_column_without_gpu_check(tool: ModuleType, results: Path) -> None:
    (results / "bringup").mkdir(exist_ok=True)
    sent = {"board": "NVIDIA Jetson Orin Nano", "commit": "0123456789ab", "changed": False, "gpu_check": None}
    sent["steps"] = steps(demo="passed", verify="passed", bench_cpu="passed", gpu_check="not available")
    sent["steps"]["bench cpu"]["trunk"] = "native"
    file = results / "bringup/orin.json"
    file.write_text(json.dumps(sent))
    page, age = tool.page(results), "2026-12-02 at 0123456789ab"
    assert row(page, "feature")[-2:] == ["NVIDIA GPU", "NVIDIA Jetson Orin Nano"]
    assert row(page, "expert encoder")[-1] == f"by use, no tests: `demo`; {age}"
    assert row(page, "expert kernels of the CPU")[-1] == f"by use, no tests: `verify`; {age}"
    assert row(page, "table of slots")[-1] == f"by use, no tests: `bench cpu`; {age}"
    assert row(page, "trunk of our own kernels on the CPU")[-1].startswith("by use")
    assert row(page, "trunk on ONNX Runtime's CPU")[-1] == "never"
    assert all(row(page, feature.title)[-1] == "never" for feature in tool.FEATURES if "CUDA" in feature.title)
    sent["steps"] |= steps(bench_cpu="failed")
    file.write_text(json.dumps(sent | {"board": "AMD EPYC"}))
    page = tool.page(results)
    assert row(page, "feature")[-3:] == ["AMD EPYC", "NVIDIA GPU", "Jetson"], "of a machine without a GPU"
    assert row(page, "expert kernels of the CPU")[-3] == f"**failed** in use: `bench cpu`; {age}"
    file.write_text(json.dumps(sent | {"steps": steps(demo="failed") | steps(plan="passed")}))
    assert row(tool.page(results), "expert encoder")[-1].startswith("**failed** in use: `demo`")


def test_a_failed_check_shows(tool: ModuleType, results: Path) -> None:
    path = results / "hardware/x86.json"
    found = json.loads(path.read_text())
    found["features"]["encoder"] |= {"outcome": "failed", "changed": False}
    path.write_text(json.dumps(found))
    day, commit = (found["features"]["encoder"][name] for name in ("date", "commit"))
    assert row(tool.page(results), "expert encoder")[1] == f"**failed**; {day} at {commit}"
    path.write_text(json.dumps(found | {"place": "somewhere"}))
    with pytest.raises(ValueError, match="expected a result of tools/hardware_run.py"):
        tool.page(results)


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def not_in_history(results: Path) -> dict[str, str]:
    """Commits that results name and that are no ancestor of what is checked out, with a place that names them."""
    named = {}
    for path in (results / "hardware").glob("*.json"):
        found = json.loads(path.read_text())
        named |= {each["commit"]: found["place"] for each in found["features"].values()}
    return {
        commit: place
        for commit, place in named.items()
        if git("merge-base", "--is-ancestor", commit, "HEAD").returncode
    }


@pytest.fixture
def history() -> None:
    if shutil.which("git") is None or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no git, no repository or a shallow clone: commits of result files were NOT looked up")


@pytest.mark.usefixtures("history")
def test_the_commits_named_are_in_the_history(tool: ModuleType, results: Path) -> None:
    assert not_in_history(results) == {}, "run tools/hardware_run.py at a commit that stays"
    path = results / "hardware/x86.json"
    found = json.loads(path.read_text())
    found["features"]["encoder"]["commit"] = "0123456789ab"
    path.write_text(json.dumps(found))
    assert not_in_history(results) == {"0123456789ab": "x86"}


def test_commands_are_run_and_their_outcomes_counted(tool: ModuleType, tmp_path: Path) -> None:
    run = importlib.import_module("hardware_run")
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    )
    found = run.run(("pytest", f"{tmp_path}/test_it.py"))
    assert (found["outcome"], found["tests"], found["skipped"], found["failed"]) == ("failed", 2, 1, 1)
    assert len(found["commit"]) == 12
    assert run.run(("pytest", f"{tmp_path}/test_it.py::test_a"))["outcome"] == "passed"
    assert run.run(("pytest", f"{tmp_path}/test_it.py::test_c"))["outcome"] == "skipped"
    assert run.run(("pytest", str(tmp_path / "none.py")))["outcome"] == "failed"
    for command, outcome in (
        (("sh", "-c", "echo NOT RUN: no compiler; exit 2"), "skipped"),
        (("false",), "failed"),
        (("true",), "passed"),
    ):
        assert run.run(command)["outcome"] == outcome
