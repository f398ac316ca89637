"""`--profile auto`: which profile a machine gets, from fake trees of boards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from board_identities import BOARDS, identity, plant

from edge_runtime.config.boards import identify, l4t_release, read_board
from edge_runtime.config.profiles import profile_names


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_is_recognised(name, tmp_path):
    facts = read_board(plant(tmp_path, BOARDS[name]), "aarch64")
    found = identify(facts)
    assert found.profile.name == name
    assert "compatible" in found.why
    assert facts.is_jetson == ("orin" in name or "thor" in name)


def test_every_packaged_profile_of_a_board_is_found_by_a_tree():
    servers = {"x86-server", "arm-server", "generic"}
    assert {*BOARDS, "orin-nano-4gb-super"} == {*profile_names()} - servers


@pytest.mark.parametrize(
    ("model", "kib", "name"),
    [
        ("NVIDIA Orin Nano Developer Kit", 7_600_000, "orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Super", 7_600_000, "orin-nano-8gb-super"),
        ("NVIDIA Jetson Orin Nano Super", 3_600_000, "orin-nano-4gb-super"),
        ("Acme Orin NX carrier", 15_900_000, "orin-nx-16gb"),
        ("NVIDIA Jetson AGX Orin", 31_000_000, "agx-orin-32gb"),
    ],
)
def test_a_carrier_board_without_the_modules_number_is_known_by_its_model(model, kib, name, tmp_path):
    plant(tmp_path, identity("acme,board nvidia,tegra234", model, kib, "36.4.3"))
    found = identify(read_board(tmp_path, "aarch64"))
    assert (found.profile.name, found.why) == (name, f"by its model {model!r}")


def test_in_a_container_that_hides_the_device_tree_the_kernel_repeats_the_model(tmp_path):
    files = identity("", "", 7_600_000, "36.4.3")
    plant(tmp_path, files | {"sys/devices/soc0/machine": "NVIDIA Jetson Orin Nano Developer Kit\n"})
    facts = read_board(tmp_path, "aarch64")
    assert facts.is_jetson
    assert identify(facts).profile.name == "orin-nano-8gb"


@pytest.mark.parametrize(
    ("compatible", "model", "kib", "machine", "name"),
    [
        ("", "", 32_000_000, "x86_64", "x86-server"),
        ("", "", 32_000_000, "aarch64", "arm-server"),
        ("", "", 32_000_000, "riscv64", "generic"),
        ("", "", 0, "x86_64", "x86-server"),
        ("acme,new nvidia,tegra299", "Acme", 8_000_000, "aarch64", "generic"),
        ("raspberrypi,5-model-b brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0", 2_000_000, "aarch64", "generic"),
        ("", "", 32_000_000, "", "generic"),
    ],
)
def test_other_machines(compatible, model, kib, machine, name, tmp_path, monkeypatch):
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine=machine))
    files = identity(compatible, model, kib) if kib else {}
    assert identify(read_board(plant(tmp_path, files))).profile.name == name


def test_releases_of_jetson_linux():
    assert l4t_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic") == (36, 4, 3)
    assert l4t_release("# R38 (release), REVISION: 2.0") == (38, 2, 0)
    assert l4t_release("") == l4t_release("something else") == ()
