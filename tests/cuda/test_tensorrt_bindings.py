"""What our code uses of TensorRT, which is what the fake has, is in the real bindings of both versions."""

from __future__ import annotations

import inspect
import json

import pytest
from cuda import fake_tensorrt
from cuda.tensorrt_api import API, FOLDER, VERSIONS, Api, bindings_of, offered, read_bindings

AGAIN = "python -m cuda.tensorrt_api, with tests/ in PYTHONPATH, reads them again"


def recorded(version: str) -> Api:
    found: Api = json.loads(API.read_text())[version]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_nothing_the_bindings_lack(version: str):
    theirs = recorded(version)
    assert {name: sorted(members) for name, members in theirs.items()} == offered(), AGAIN
    compared = 0
    for kind in fake_tensorrt.OFFERED:
        for name, arguments in theirs[kind.__name__].items():
            function = vars(kind).get(name)
            if arguments is None or not inspect.isfunction(function):
                continue
            mine = [p for p in inspect.signature(function).parameters if p != "self"]
            assert mine == arguments[: len(mine)], f"{kind.__name__}.{name}"
            compared += 1
    assert compared >= 10, "signatures are in the docstrings of both versions"


@pytest.mark.emulation
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_recorded_is_what_the_bindings_say(version: str):
    if not (bindings_of(version) / "tensorrt_bindings").is_dir():
        pytest.skip(
            f"no bindings of TensorRT {version} in {FOLDER}: NOTHING was compared. make gpu-emulation fetches them"
        )
    assert read_bindings(version) == recorded(version), AGAIN
