"""What early builds of this repository wrote, as they wrote it: today's opens it, and says the same.

tests/old_builds has the files, the commits they are of, and the scripts that made them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from changed_graph import Changed
from conftest import REPO

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.base.errors import BundleError
from edge_runtime.bundle import manifest_file
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.state import state_folder
from edge_runtime.bundle.verification import check_bundle
from edge_runtime.cli.chat.history import HistoryFile
from edge_runtime.engine.warm.usage import UsageFile
from edge_runtime.service.ops.warmup import verify_once
from edge_runtime.transfer.sent import Sent

FOLDER = REPO / "tests/old_builds"
FIRST, SECOND = FOLDER / "first", FOLDER / "second"
BUNDLE = FIRST / "bundle"
SAID = json.loads((FIRST / "said.json").read_text())
CLOSE = 1e-4
"""Most that a logit, of a spread of 4, may differ: sums are taken in another order now, which made 6e-6."""


@pytest.fixture(params=[FIRST, SECOND, None], ids=["first", "second", "none"])
def state(request, tmp_path, monkeypatch) -> Path:
    """A copy of the state folder that a build left behind, or none."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param is not None:
        shutil.copytree(request.param / "state", tmp_path / "state")
    return state_folder()


def opened(tier: int = 8, **options: object) -> Engine:
    return Engine.open(BUNDLE, memory="400MiB", context=64, tier=tier, **options)


def test_the_bundle_is_of_the_first_format_and_of_the_script_beside_it(tmp_path):
    data = json.loads((BUNDLE / "manifest.json").read_bytes())
    assert (data["version"], data["created_by"]) == (1, "hobbit-export 0.1.0")
    check_bundle(Bundle.open(BUNDLE))
    subprocess.run([sys.executable, FOLDER / "micro.py", tmp_path / "checkpoint"], check=True)
    config = (tmp_path / "checkpoint/config.json").read_bytes()
    assert manifest_file.read(BUNDLE).source.config_sha256 == hashlib.sha256(config).hexdigest()
    tokenizer = (tmp_path / "checkpoint/tokenizer.json").read_bytes()
    assert (BUNDLE / "tokenizer/tokenizer.json").read_bytes() == tokenizer


@pytest.mark.parametrize("trunk", ["native", "onnx"])
@pytest.mark.parametrize("tier", [8, 4])
def test_tokens_and_logits_are_those_of_the_build_that_wrote_it(state, tier, trunk):
    expected = SAID["token_ids"][str(tier)]
    with opened(tier, trunk=trunk) as engine:
        found = engine.generate(SAID["prompt"], SamplingParams(max_tokens=len(expected), temperature=0))
        logits = engine.logits(engine.tokenizer.encode(SAID["prompt"]) + expected)
    assert found.token_ids == expected
    with np.load(FIRST / "logits.npz") as old:
        assert old[str(tier)].std() > 3
        np.testing.assert_allclose(logits, old[str(tier)], rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("at", "size"), [(0, 2), (1, 2), (3, 9)])
def test_angles_of_a_third_form_are_refused(at, size):
    graph = Changed(BUNDLE)
    graph.check(oldest=True)
    with pytest.raises(BundleError, match="input 'cos': expected float32"):
        graph.check()
    (cos,) = [each for each in graph.graph.input if each.name == "cos"]
    cos.type.tensor_type.shape.dim[at].dim_value = size
    with pytest.raises(BundleError, match="input 'cos': expected float32"):
        graph.check(oldest=True)


def test_commands_take_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["verify", str(BUNDLE)]) == 0
    assert main(["plan", str(BUNDLE), "--memory", "400MiB"]) == 0
    pull = ["pull", str(BUNDLE), "--name", "m", "--models", str(tmp_path), "--json"]
    assert main([*pull, "--tiers", "4"]) == 78
    assert "the bundle is older than cuts. Take all its tiers, or export it again" in capsys.readouterr().err
    assert main(pull) == 0
    assert json.loads(capsys.readouterr().out)["bundle_id"] == manifest_file.read(BUNDLE).bundle_id
    check_bundle(Bundle.open(tmp_path / "m"))


def test_a_state_folder_is_used_further_and_has_a_version_then(state):
    bundle = Bundle.open(BUNDLE)
    assert verify_once(bundle, print), "it lies elsewhere now, so it is read once more"
    assert not verify_once(bundle, print)
    assert (state / "version").read_text() == "1\n"


def test_the_first_build_left_a_folder_without_a_version():
    assert [path.name for path in (FIRST / "state/hobbit-edge").iterdir()] == ["selfcheck"]


@pytest.mark.parametrize("state", [SECOND], indirect=True)
def test_what_a_state_folder_holds_is_found(state):
    said = json.loads((SECOND / "said.json").read_text())
    assert HistoryFile.of_user().read() == said["typed"]
    assert Sent(said["server"], said["bundle_id"]).has(said["part"], said["mark"])
    file = UsageFile.of(said["bundle_id"], said["workload"], tuple(said["shape"]))
    uses = file.read()
    assert uses is not None
    assert uses.sum(axis=1).tolist() == [44, 44], "22 passes after the first, two experts each"
    file.add(np.ones(said["shape"], np.int64))
    assert (file.read() == 1 + 0.5 * uses).all()
    HistoryFile.of_user().add("later")
    assert HistoryFile.of_user().read() == [*said["typed"], "later"]


def test_the_files_are_few():
    assert (
        sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        <= 300_000
    )
