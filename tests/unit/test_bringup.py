"""`hobbit bringup`: which steps there are, what becomes of each, and which are run again."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bringups import Recorder, bring_up, python, run

from edge_runtime.__main__ import main
from edge_runtime.backends.cuda import nvrtc
from edge_runtime.lab.bringup.bringup import Bringup
from edge_runtime.lab.bringup.process import MOST_TEXT
from edge_runtime.lab.bringup.steps import HOBBIT, Step, power_modes_in, steps_of
from edge_runtime.lab.doctor.device import Device

CONF = """< PARAM TYPE=CLOCK NAME=CPU >
# mode loop starts from here
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=7W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=2 >
"""


def test_what_a_step_prints_is_kept_whole_or_its_end(tmp_path: Path):
    assert run(python("print('{\"a\": 1}')"), tmp_path)["json"] == {"a": 1}
    found = run(python("import sys; print('x' * 9000 + 'end'); sys.stderr.write('warned')"), tmp_path)
    assert (found["outcome"], found["stderr"]) == ("passed", "warned")
    assert found["stdout"].endswith("end\n")
    assert len(found["stdout"]) == MOST_TEXT


@pytest.mark.parametrize(
    ("step", "outcome", "why"),
    [
        (python("import sys; sys.exit('no such thing')"), "failed", "no such thing"),
        (
            python("import os; print(1, flush=True); os.kill(os.getpid(), 9)"),
            "failed",
            "takes too much memory, see dmesg",
        ),
        (python("import os; os.kill(os.getpid(), 11)"), "failed", "a signal ended it: Segmentation fault"),
        (python("import sys; sys.stderr.write('gpu-check: SKIPPED, no GPU'); sys.exit(2)"), "not available", "no GPU"),
        (python("import sys; sys.stderr.write('SKIPPED, nothing was checked: no GPU')"), "not available", "no GPU"),
        (python("import sys; sys.stderr.write('unrecognized arguments'); sys.exit(2)"), "failed", "unrecognized"),
        (Step("it", "", ("/no/such/program",)), "failed", "No such file"),
        (Step("it", "", why_not="no GPU here"), "not available", "no GPU here"),
        (
            Step("it", "", ("unused",), verb="no-such-verb"),
            "not available",
            "this version has no `hobbit no-such-verb`",
        ),
    ],
)
def test_whatever_happens_to_a_step_is_its_outcome(tmp_path: Path, step: Step, outcome: str, why: str):
    found = run(step, tmp_path)
    assert found["outcome"] == outcome
    assert why in found["why"]


def test_a_step_that_left_out_a_part_has_passed(tmp_path: Path):
    assert run(python("import sys; sys.stderr.write('a part: SKIPPED')"), tmp_path)["outcome"] == "passed"


def test_what_a_step_found_is_its_result(tmp_path: Path):
    code = "import sys; print('{\"findings\": 3}'); sys.exit(1)"
    found = run(python(code, finds=True), tmp_path)
    assert (found["outcome"], found["json"]) == ("passed", {"findings": 3})
    assert run(python(code), tmp_path)["outcome"] == "failed"
    assert run(python("import sys; sys.exit(1)", finds=True), tmp_path)["outcome"] == "failed"
    doctor, *others = steps_of(tmp_path, tmp_path, None, power_modes=False)
    assert doctor.finds
    assert not any(step.finds for step in others)


def test_a_verb_gets_the_flags_it_has(tmp_path: Path):
    step = replace(python("import sys; print(sys.argv[1:])"), verb="verify")
    step = replace(step, optional=(("--json", "--json"), ("BUNDLE", "b"), ("--sing", "--sing"), ("TUNE", "t")))
    assert run(step, tmp_path)["stdout"] == "['--json', 'b']\n"


def test_it_goes_on_after_a_failure_and_another_run_does_what_did_not_pass(tmp_path: Path):
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    bundle.mkdir()
    first, second, third = Recorder("tune"), Recorder(), Recorder()
    outcomes = bring_up(Bringup(bundle, out), first)
    assert first.ran[:7] == ["doctor", "demo", "gpu-check", "verify", "plan", "bench cuda", "bench cpu"]
    assert {"bench cpu", "bench cuda", "bench cuda:memory=pinned", "power modes"} <= set(first.ran)
    assert (outcomes["tune"], outcomes["bench cpu"]) == ("failed", "passed")
    assert bring_up(Bringup(bundle, out), second)["tune"] == "passed"
    assert second.ran == ["tune"]
    bring_up(Bringup(bundle, out, again=("plan",)), third)
    assert third.ran == ["plan"]
    again = Recorder()
    bring_up(Bringup(bundle, out, again=("all",)), again)
    assert again.ran == first.ran


@pytest.mark.parametrize("bundle", [True, False])
def test_what_needs_a_gpu_is_left_out_where_there_is_none(bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def on_gpu() -> dict[str, str]:
        found = steps_of(tmp_path if bundle else None, tmp_path, Path("tree"), power_modes=True, conf=tmp_path / "no")
        return {step.name: step.why_not for step in found if step.name.startswith("bench cuda")}

    monkeypatch.setattr(Device, "has_gpu_nodes", False)
    assert len(on_gpu()) >= 7
    assert all("no device file of an NVIDIA GPU" in why for why in on_gpu().values())
    monkeypatch.setattr(Device, "has_gpu_nodes", True)
    assert on_gpu()["bench cuda"] == "", "what its path lacks the benchmark itself says"


def test_engines_are_measured_where_tensorrt_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Device, "has_gpu_nodes", True)

    def step() -> Step:
        found = steps_of(tmp_path, tmp_path, None, power_modes=False)
        return next(step for step in found if step.name == "bench cuda:trunk=tensorrt")

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    missing = run(step(), tmp_path)
    assert missing["outcome"] == "not available"
    assert "python3-libnvinfer" in missing["why"]
    (tmp_path / "tensorrt.py").touch()
    found = step()
    assert (found.why_not, found.minutes) == ("", 10)
    assert found.command[len(HOBBIT) :][:4] == (
        "bench",
        str(tmp_path),
        "--backend",
        "cuda:trunk=tensorrt",
    )


def test_onnx_runtimes_provider_is_measured_where_its_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Device, "has_gpu_nodes", True)

    def step() -> Step:
        found = steps_of(tmp_path, tmp_path, None, power_modes=False)
        return next(step for step in found if step.name == "bench cuda:trunk=onnx")

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "no onnxruntime-gpu" in run(step(), tmp_path)["why"]
    package = tmp_path / "onnxruntime_gpu-1.23.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.23.0\n")
    assert step().why_not == ""


def test_without_a_bundle_the_demo_is_measured_once_it_is_there(tmp_path: Path):
    bundle, checkout = tmp_path / "out/demo-bundle", Path(__file__).parents[2]

    def steps(named: Path | None, tree: Path | None = checkout) -> dict[str, Step]:
        return {step.name: step for step in steps_of(named, tmp_path / "out", tree, power_modes=False)}

    mine, demo = steps(tmp_path / "mine"), steps(None)
    assert [name for name in demo if not name.endswith(" streamed")] == list(mine)
    for name in ("verify", "plan", "tune", "bench cuda", "bench cpu", "bench cuda:graph=false"):
        assert str(tmp_path / "mine") in mine[name].command
        assert str(bundle) in demo[name].command
        assert (mine[name].takes, demo[name].takes, demo[name].needs) == (None, bundle, "demo")
    assert str(bundle) in demo["demo"].command
    missing = run(replace(demo["verify"], command=("true",), verb=""), tmp_path)
    assert (missing["outcome"], missing["why"]) == (
        "not available",
        "step 'demo' left nothing to take: see what it says",
    )
    bundle.mkdir(parents=True)
    assert run(replace(demo["verify"], command=("true",), verb=""), tmp_path)["outcome"] == "passed"
    assert steps(None, None)["verify"].why_not.startswith("no bundle was named, and the demo cannot be exported: ")
    assert steps(tmp_path / "mine", None)["verify"].why_not == ""


def test_the_page_says_what_the_steps_are_planned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensorrt.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    page = (Path(__file__).parents[2] / "deploy/jetson-bringup.md").read_text()
    conf = tmp_path / "none"
    steps = [
        step for step in steps_of(tmp_path, tmp_path, None, power_modes=False, conf=conf) if step.folder or step.verb
    ]
    assert f"adds up to {sum(step.minutes for step in steps) + 5:g} minutes" in page


def test_the_page_installs_what_a_checkout_needs():
    root = Path(__file__).parents[2]

    def packages(name: str) -> set[str]:
        lines = re.findall(r"^\$ (.*apt-get install .*)$", (root / name).read_text(), re.MULTILINE)
        return {word for line in lines for word in line.partition("apt-get install ")[2].partition("#")[0].split()}

    readme, page = packages("README.md"), packages("deploy/jetson-bringup.md")
    assert "python3-dev" in readme
    assert readme <= page
    (compiler,) = (word for word in page if word.startswith("cuda-nvrtc-"))
    assert compiler in nvrtc.ADVICE, "what the runtime asks for where there is none"
    text = (root / "deploy/jetson-bringup.md").read_text()
    for wheel in nvrtc.WHEELS.values():
        assert f"pip install {wheel}`" in text
        assert wheel in nvrtc.ADVICE
    assert "apt-get update" in (root / "deploy/jetson-bringup.md").read_text()


def test_what_the_time_did_not_reach_is_run_next(tmp_path: Path):
    recorder, wanted = Recorder(), Bringup(None, tmp_path, minutes=1e-9)
    can_run = {step.name for step in wanted.steps() if not step.why_not}
    outcomes = bring_up(wanted, recorder)
    assert {outcomes[name] for name in can_run} == {"not reached"}
    assert not can_run & set(recorder.ran)
    assert set(bring_up(Bringup(None, tmp_path), recorder).values()) == {"passed"}


def test_power_modes_are_measured_only_if_allowed(tmp_path: Path):
    conf = tmp_path / "nvpmodel.conf"
    conf.write_text(CONF)
    assert power_modes_in(CONF) == [(0, "15W"), (1, "7W"), (2, "MAXN_SUPER")]
    *_, last = steps_of(tmp_path, tmp_path, None, power_modes=False, conf=conf)
    assert last.why_not.startswith("not allowed: give --power-modes")
    *_, last = steps_of(tmp_path, tmp_path, None, power_modes=True, conf=tmp_path / "none")
    assert last.why_not.endswith("not a Jetson")
    steps = list(steps_of(tmp_path, tmp_path, None, power_modes=True, conf=conf))[-6:]
    modes = ["15W", "7W", "MAXN_SUPER"]
    assert [step.name for step in steps] == [f"bench mode {m} {where}" for m in modes for where in ("cuda", "cpu")]
    assert [step.command[step.command.index("--backend") + 1] for step in steps] == ["cuda", "cpu"] * len(modes)


def test_the_command_lists_its_steps_and_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["bringup", "--list"]) == 0
    assert capsys.readouterr().out.startswith("doctor ")
    for words, message in (
        (["--again", "doctr"], "Did you mean 'doctor'"),
        ([str(tmp_path / "none")], "expected a folder written by hobbit-export"),
        (["--minutes", "0"], "expected more than 0"),
    ):
        assert main(["bringup", "--out", str(tmp_path / "out"), *words]) == 78
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
