"""The limits `make gpu-compile` holds kernels against, on reports and machine code written for these tests."""

from __future__ import annotations

import json
from pathlib import Path

import gpu_compile
import pytest
from cuda.build import launch_bounds
from sass import Code, Resources, read_code, read_resources

from edge_runtime.backends.cuda.sources import read_source

LOG = """
ptxas info    : Compiling entry function 'hb_down_4' for 'sm_87'
ptxas info    : Function properties for hb_down_4
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function 'hb_route' for 'sm_87'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 25 registers, used 0 barriers
"""


NARROW = "LDG.E.NA.64.CONSTANT R4, [R2.64]"
IMMA = "IMMA.16832.S8.S8 R4, R2, R6, RZ"


def loop(loads: int, others: int, load: str = "LDG.E.NA.128.CONSTANT R4, [R2.64]", products: int = 0) -> str:
    body = [load] * loads + [IMMA] * products + ["@!P0 LOP3.LUT R1, R2, 0xcccccccc, R3, 0xca, !PT"] * (others - 1)
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
    kernel = gpu_compile.measure("hb_batch_down_4", Resources(64, 0, 0), code(TILES, "hb_batch_down_4"))
    assert (kernel.wide_loads, kernel.products, kernel.instructions_a_weight) == (4, 2, None)


def test_an_unrolled_loop_is_taken_not_the_one_for_what_is_left_over_nor_the_one_around_both():
    lines = [
        "MOV R1, R2",
        *["LDG.E.NA.128 R4, [R2]"] * 4,
        "@P1 BRA 0x10",
        "LDG.E.NA.128 R4, [R2]",
        "@P2 BRA 0x60",
        "BRA 0x0",
    ]
    sass = "\n".join(f"/*{16 * at:04x}*/ {text} ;" for at, text in enumerate(lines))
    found = code(sass).inner_loop(gpu_compile.WEIGHT_LOAD)
    assert found is not None
    assert (found.start, found.end, len(found.instructions)) == (0x10, 0x50, 5)


GOOD = Resources(80, 0, 0)
TILES = loop(4, 100, "LDG.E.128.CONSTANT R4, [R2.64]", products=2)


@pytest.mark.parametrize(
    ("name", "resources", "sass", "said"),
    [
        ("hb_down_4", Resources(80, 0, 4), loop(4, 156), "hb_down_4: 4 bytes spilled, 0 bytes of local memory"),
        ("hb_route", Resources(80, 8, 0), loop(4, 156), "hb_route: 0 bytes spilled, 8 bytes of local memory"),
        ("hb_down_4", Resources(81, 0, 0), loop(4, 156), "hb_down_4: 81 registers, at most 80"),
        ("hb_down_4", GOOD, loop(4, 256), "hb_down_4: 2.031 instructions a weight, at most 1.45"),
        ("hb_down_4", GOOD, loop(8, 99, NARROW), "hb_down_4: its loop has 0 loads of 16 bytes, at least 4"),
        ("hb_down_4", GOOD, loop(2, 70), "hb_down_4: its loop has 2 loads of 16 bytes, at least 4"),
        ("hb_down_5", GOOD, loop(2, 70), "hb_down_5: its loop has 2 loads of 16 bytes, at least 4"),
        ("hb_gate_up_8", GOOD, loop(4, 100), "hb_gate_up_8: its loop has 4 loads of 16 bytes, at least 8"),
        ("hb_down_16", GOOD, loop(2, 20), "hb_down_16: its loop has 2 loads of 16 bytes, at least 4"),
        ("hb_read", GOOD, loop(3, 20), "hb_read: its loop has 3 loads of 16 bytes, at least 4"),
        (
            "hb_batch_down_4",
            GOOD,
            loop(4, 99, products=1),
            "hb_batch_down_4: its loop has 1 tensor-core products, at least 2",
        ),
        ("hb_batch_down_8", GOOD, TILES, "hb_batch_down_8: its loop has 2 tensor-core products, at least 4"),
        (
            "hb_batch_down_6",
            GOOD,
            loop(4, 99, NARROW, products=4),
            "hb_batch_down_6: its loop has 0 loads of 16 bytes, at least 4",
        ),
    ],
)
def test_what_is_over_a_limit_is_said(name: str, resources: Resources, sass: str, said: str):
    assert found(name, resources, sass) == [said]


def test_what_is_within_the_limits_passes():
    assert found("hb_down_4", GOOD, loop(4, 156)) == []
    assert found("hb_route", GOOD, "") == []
    assert found("hb_read", GOOD, loop(4, 20)) == []
    assert found("hb_batch_down_4", GOOD, TILES) == []


def test_without_compilers_the_target_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu_compile, "RESULT", tmp_path / "result.json")
    monkeypatch.setattr(gpu_compile, "PAGE", tmp_path / "page.md")
    assert gpu_compile.main(["--toolchain", str(tmp_path)]) == 2, "what was not run has not passed"
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
    assert result["source"] == read_source().fingerprint(""), "the kernels have changed: run make gpu-compile"
    assert {(r["compiler"], r["arch"]) for r in result["results"]} == {
        (compiler, arch)
        for compiler, archs in [("nvcc 13.2", ("sm_87", "sm_90", "sm_110")), ("nvrtc 12.6", ("sm_87", "sm_90"))]
        for arch in archs
    } | {("nvrtc 13.2", arch) for arch in ("sm_87", "sm_90", "sm_110")}
    for each in result["results"]:
        assert set(each["kernels"]) == set(launch_bounds()), "run make gpu-compile"
        for name, kernel in each["kernels"].items():
            known = {key: kernel.get(key) for key in ("wide_loads", "instructions_a_weight", "products")}
            compiled = gpu_compile.Kernel(Resources(kernel["registers"], 0, 0), **known)
            assert list(gpu_compile.faults(name, compiled)) == [], each["compiler"]
