"""The limits `make gpu-compile` holds kernels against, on reports and machine code written for these tests."""

from __future__ import annotations

import json
from pathlib import Path

import gpu_compile
import pytest
from cuda.build import launch_bounds
from sass import Code, Resources, read_code, read_resources

LOG = """
ptxas info    : Compiling entry function 'hb_down_4' for 'sm_87'
ptxas info    : Function properties for hb_down_4
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function 'hb_route' for 'sm_87'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 25 registers, used 0 barriers
"""


def loop(loads: int, others: int, load: str = "LDG.E.NA.128.CONSTANT R4, [R2.64]") -> str:
    body = [load] * loads + ["@!P0 LOP3.LUT R1, R2, 0xcccccccc, R3, 0xca, !PT"] * (others - 1)
    lines = ["MOV R1, c[0x0][0x28]", *body, "@P1 BRA 0x0010", "EXIT"]
    return "\n".join(
        f"        /*{16 * at:04x}*/                   {text} ;  /* 0x0 */" for at, text in enumerate(lines)
    )


def code(sass: str, name: str = "hb_down_4") -> Code:
    return read_code(f"Function : {name}\n{sass}\nFunction : hb_other\n{loop(1, 9)}")[name]


def found(name: str, resources: Resources, sass: str) -> list[str]:
    return list(gpu_compile.faults(name, gpu_compile.measure(name, resources, code(sass, name))))


def test_a_report_is_read():
    assert read_resources(LOG) == {"hb_down_4": Resources(72, 8, 28), "hb_route": Resources(25, 0, 0)}


def test_the_loop_over_weights_is_found_and_counted():
    kernel = gpu_compile.measure("hb_down_4", Resources(64, 0, 0), code(loop(4, 156)))
    assert (kernel.wide_loads, kernel.instructions_a_weight) == (4, 160 / 128)  # one step of 128 weights a lane
    kernel = gpu_compile.measure("hb_down_8", Resources(64, 0, 0), code(loop(16, 496), "hb_down_8"))
    assert (kernel.wide_loads, kernel.instructions_a_weight) == (16, 2.0)  # two steps
    kernel = gpu_compile.measure("hb_down_16", Resources(64, 0, 0), code(loop(4, 108), "hb_down_16"))
    assert kernel.instructions_a_weight == 112 / 32


GOOD = Resources(80, 0, 0)


@pytest.mark.parametrize(
    ("name", "resources", "sass", "said"),
    [
        ("hb_down_4", Resources(80, 0, 4), loop(4, 156), "hb_down_4: 4 bytes spilled, 0 bytes of local memory"),
        ("hb_route", Resources(80, 8, 0), loop(4, 156), "hb_route: 0 bytes spilled, 8 bytes of local memory"),
        ("hb_down_4", Resources(81, 0, 0), loop(4, 156), "hb_down_4: 81 registers, at most 80"),
        ("hb_down_4", GOOD, loop(4, 256), "hb_down_4: 2.031 instructions a weight, at most 1.45"),
        (
            "hb_down_4",
            GOOD,
            loop(8, 99, "LDG.E.NA.64.CONSTANT R4, [R2.64]"),
            "hb_down_4: its loop has no 16-byte loads",
        ),
        ("hb_read", GOOD, loop(3, 20), "hb_read: its loop has 3 loads of 16 bytes, at least 4"),
        ("hb_batch_down_4", GOOD, loop(4, 156), "hb_batch_down_4: its loop has no tensor-core products"),
    ],
)
def test_what_is_over_a_limit_is_said(name: str, resources: Resources, sass: str, said: str):
    assert found(name, resources, sass) == [said]


def test_what_is_within_the_limits_passes():
    assert found("hb_down_4", GOOD, loop(4, 156)) == []
    assert found("hb_route", GOOD, "") == []
    assert found("hb_read", GOOD, loop(4, 20)) == []
    assert found("hb_batch_down_4", GOOD, loop(2, 100, "IMMA.16832.S8.S8 R4, R2, R6, RZ")) == []


def test_without_compilers_the_target_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu_compile, "RESULT", tmp_path / "result.json")
    monkeypatch.setattr(gpu_compile, "PAGE", tmp_path / "page.md")
    assert gpu_compile.main(["--toolchain", str(tmp_path)]) == 0
    assert "SKIPPED: NVIDIA's compilers are not installed" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_the_page_shows_the_committed_figures():
    result, page = (
        json.loads(gpu_compile.RESULT.read_text(encoding="utf-8")),
        gpu_compile.PAGE.read_text(encoding="utf-8"),
    )
    assert gpu_compile.page_with(page, result["results"]) == page, "run make gpu-compile"


def test_the_committed_figures_are_of_these_kernels_and_within_the_limits():
    result = json.loads(gpu_compile.RESULT.read_text(encoding="utf-8"))
    assert result["ran_on_a_gpu"] is False
    assert {(r["compiler"], r["arch"]) for r in result["results"]} == {
        (compiler, arch)
        for compiler, archs in [("nvcc 13.2", ("sm_87", "sm_90", "sm_110")), ("nvrtc 12.6", ("sm_87", "sm_90"))]
        for arch in archs
    } | {("nvrtc 13.2", arch) for arch in ("sm_87", "sm_90", "sm_110")}
    for each in result["results"]:
        assert set(each["kernels"]) == set(launch_bounds()), "run make gpu-compile"
        for name, kernel in each["kernels"].items():
            assert kernel["registers"] <= gpu_compile.MOST_REGISTERS
            if "instructions_a_weight" in kernel:
                assert kernel["instructions_a_weight"] <= gpu_compile.MOST_INSTRUCTIONS[int(name.rsplit("_", 1)[1])]
