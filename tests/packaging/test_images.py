"""Container images: nobody's rights, a check of health, no model inside, and a board's devices where there are some."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import REPO

CONTAINERS = REPO / "deploy/containers"
DOCKERFILES = sorted(CONTAINERS.glob("*.Dockerfile"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_run_as_nobody_and_say_whether_they_are_well(path):
    text = path.read_text()
    last_user = re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1]
    assert last_user == "10001:10001"
    for needed in (
        "HEALTHCHECK",
        "ENTRYPOINT",
        "/health/ready",
        "--mount=type=bind,source=.,target=/bundle",
        "STOPSIGNAL",
    ):
        assert needed in text, needed
    assert "COPY" not in text, "models and bundles stay out of the image"


def test_the_compose_file_mounts_models_read_only_and_gives_boards_their_devices():
    found = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
    assert {path.stem.partition(".")[0] for path in DOCKERFILES} == {"cpu", "jetpack6", "jetpack7"}
    for name, service in found["services"].items():
        assert any(volume.endswith(":/models:ro") for volume in service["volumes"]), name
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        assert service["command"][0] == "serve"
    board, cpu = found["services"]["jetpack"], found["services"]["cpu"]
    # the runtime brings the nodes in; groups of the board may open them
    assert board["runtime"] == "nvidia"
    assert board["environment"].items() > cpu["environment"].items()
    assert board["environment"]["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert {*board["environment"]["NVIDIA_DRIVER_CAPABILITIES"].split(",")} == {"compute", "utility"}
    assert board["group_add"] == ["44", "${RENDER_GID:-104}"], "video, and render by its number on the board"
    assert cpu.keys() & {"runtime", "group_add", "devices", "privileged"} == set()
    assert "privileged" not in board
