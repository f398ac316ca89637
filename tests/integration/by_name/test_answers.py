"""Answers of a hub that do not fit what it listed are refused by name, and a server that stays busy is given up."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub, Fault
from hub_exports import export

from edge_runtime.base.errors import BundleError, HobbitError, HubError
from hobbit_export.hub.files import HubFiles
from hobbit_export.hub.listing import list_model
from hobbit_export.hub.name import HubName

pytestmark = pytest.mark.oracle
NAME = HubName("org/tiny", None)
WEIGHTS = "model-00001-of-"


def reading(hub: FakeHub, checkpoint: Path) -> tuple[HubFiles, str]:
    listing = list_model(NAME)
    return HubFiles(listing, checkpoint), next(n for n in listing.files if n.startswith(WEIGHTS))


LIES: list[tuple[str, Fault, type[HobbitError], str]] = [
    ("store", Fault(headers={"Content-Range": "bytes 0-7/9"}), BundleError, "expected bytes 0-99 of .*has bytes 0-7/9"),
    ("resolve", Fault(headers={"X-Repo-Commit": "b" * 40}), BundleError, "expected commit aaaa"),
    ("resolve", Fault(headers={"X-Linked-Size": "12"}), BundleError, "expected size .*has 12"),
    ("resolve", Fault(headers={"X-Linked-Etag": '"abc"'}), BundleError, "expected ETag .*has abc"),
    ("store", Fault(416), HubError, "the server said 416"),
]


@pytest.mark.parametrize(("place", "fault", "kind", "said"), LIES, ids=[lie[3] for lie in LIES])
def test_an_answer_that_is_not_what_was_listed(hub: FakeHub, checkpoint: Path, place, fault, kind, said) -> None:
    files, name = reading(hub, checkpoint)
    hub.faults[place].append(fault)
    with pytest.raises(kind, match=f"{name}: .*{said}"):
        files.read_into(name, 0, memoryview(bytearray(100)))


def test_another_file_under_the_same_address(hub: FakeHub, checkpoint: Path) -> None:
    files, name = reading(hub, checkpoint)
    files.read_into(name, 0, memoryview(bytearray(8)))
    hub.faults["store"].append(Fault(headers={"ETag": '"another"'}))
    with pytest.raises(BundleError, match="expected ETag"):
        files.read_into(name, 8, memoryview(bytearray(8)))


def test_a_server_that_stays_busy_is_given_up(hub: FakeHub, checkpoint: Path) -> None:
    for fault, said in [(Fault(503), "the server said 503"), (Fault(404), "has expired .404."), (Fault(cut=0), "")]:
        files, name = reading(hub, checkpoint)
        hub.faults["store"].clear()
        hub.faults["store"].extend([fault] * 20)
        with pytest.raises(HubError, match=f"{name}: .*{said}.*, 6 times in a row"):
            files.read_into(name, 0, memoryview(bytearray(8)))


def test_small_reads_come_in_order(hub: FakeHub, checkpoint: Path) -> None:
    files, name = reading(hub, checkpoint)
    raw = (checkpoint / name).read_bytes()
    wanted = [(name, at, 16) for at in range(0, 3000, 50)] + [(name, len(raw) - 4, 16)]
    assert list(files.read_many(wanted)) == [raw[at : at + count] for _, at, count in wanted]


def test_a_small_file_with_other_bytes_is_refused(hub: FakeHub, checkpoint: Path, tmp_path: Path, monkeypatch, capsys):
    info = hub.model_info()
    config = next(file for file in info["siblings"] if file["rfilename"] == "config.json")
    config["blobId"] = "0" * 40
    monkeypatch.setattr(hub, "model_info", lambda: info)
    assert export(tmp_path / "bundle") == 78
    assert "config.json: expected the digest 0000" in capsys.readouterr().err
