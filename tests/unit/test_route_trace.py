"""Recordings of other programs: read, turned into traces that replay their choices, refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.__main__ import main
from edge_runtime.base.errors import ConfigError
from edge_runtime.lab.simulator.imported import logits_of, write_trace
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.route_trace import read_recording
from edge_runtime.lab.simulator.trace import Trace

HEAD = "# route_trace v1\n# model=/models/toy.gguf arch=toy n_layer=3 n_expert=4 n_expert_used=2 \n"
COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency\n"
# layers 1 and 2 have experts; the last layer of the first prompt token was not computed
ROWS = (
    "0,0,0,1,0,3,0.75,0\n0,0,0,1,1,0,0.25,0\n"
    "0,0,1,1,0,1,0.6,0\n0,0,1,1,1,2,0.4,0\n0,0,1,2,0,2,0.9,0\n0,0,1,2,1,1,0.1,0\n"
    "1,1,0,1,0,0,0.5,0\n1,1,0,1,1,3,0.5,0\n1,1,0,2,0,0,0.7,0\n1,1,0,2,1,3,0.3,0\n"
)


def write(folder: Path, text: str, *, packed: bool = False) -> Path:
    path = folder / ("r.csv.gz" if packed else "r.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_recording_by_hand(tmp_path, packed):
    found = read_recording(write(tmp_path, HEAD + COLUMNS + ROWS, packed=packed))
    assert (found.model, found.num_layers, found.num_experts, found.layers) == ("toy.gguf", 3, 4, [1, 2])
    assert found.experts.tolist() == [[[3, 0], [2, 1]], [[1, 2], [2, 1]], [[0, 3], [0, 3]]]
    assert found.weights[1, 1] == pytest.approx([0.9, 0.1])
    assert found.first_of_text.tolist() == [True, False, True]
    assert (found.filled, found.has_weights) == (1, True)


def test_columns_may_stand_in_a_remark_and_weights_may_say_nothing(tmp_path):
    rows = "".join(f"0,1,{step},0,{slot},{(step + slot) % 4},0.5\n" for step in range(3) for slot in range(2))
    found = read_recording(write(tmp_path, f"# columns: {COLUMNS.strip()}\n{rows}"))
    assert (found.num_layers, found.num_experts, found.has_weights) == (1, 4, False)
    assert found.experts[:, 0].tolist() == [[0, 1], [1, 2], [2, 3]]


def test_the_trace_gives_choices_and_weights_back(tmp_path):
    recording = read_recording(write(tmp_path, HEAD + COLUMNS + ROWS))
    write_trace(recording, tmp_path / "t")
    trace = Trace(tmp_path / "t")
    passes = list(trace)
    assert [one.first_of_text for one in passes] == [True, False, True]
    for one, experts, weights in zip(passes, recording.experts, recording.weights, strict=True):
        for layer in range(2):
            routing = trace.router().route(recording.layers[layer], one.logits[layer])
            order = np.argsort(-weights[layer], kind="stable")
            assert sorted(routing.topk_ids[0].tolist()) == sorted(experts[layer].tolist())
            np.testing.assert_allclose(routing.topk_weights[0], weights[layer][order], rtol=1e-5)


def test_a_replay_reads_each_expert_once_where_all_fit_and_the_optimum_counts(tmp_path):
    size = write_trace(read_recording(write(tmp_path, HEAD + COLUMNS + ROWS)), tmp_path / "t")
    found = simulate(Trace(tmp_path / "t"), ReplaySettings(8, "lossless", "lru"))
    # layer 1 uses all four experts, layer 2 all four but none of expert 0 before the last token
    assert found.counters.bytes_read == 8 * size
    assert found.counters.hits == 4


def test_sizes_follow_what_was_recorded(tmp_path):
    rows = HEAD.replace("\n# model", "\n# layer=0 expert_bytes=3059712 dense_bytes=1\n# model") + COLUMNS + ROWS
    recording = read_recording(write(tmp_path, rows))
    assert write_trace(recording, tmp_path / "t") == pytest.approx(3059712, rel=0.05)
    assert write_trace(recording, tmp_path / "t", hidden=64, intermediate=32) < 10_000


def test_policies_that_look_at_more_are_refused(tmp_path, capsys):
    path = write(tmp_path, HEAD + COLUMNS + ROWS)
    assert main(["trace", "import", str(path), "--out", str(tmp_path / "t"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["tokens"], said["texts"], said["routing"], said["filled"]) == (3, 2, "weights", 1)
    assert "hobbit" in said["policies"]
    assert "cache-prior" not in said["policies"]
    with pytest.raises(ConfigError, match="'cache-prior' looks at more of the router's output than this trace holds"):
        simulate(Trace(tmp_path / "t"), ReplaySettings(4, "cache-prior", "lru"))
    assert main(["simulate", str(tmp_path / "t"), "--expert-memory", "100%", "--eviction", "next-use"]) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "found none"),
        ("a,b\n1,2\n", "line 1: expected a header with turn, phase"),
        (HEAD + COLUMNS + "0,0,0,1,0,x,1\n", "line 4: expected six whole numbers and a weight, got '0,0,0,1,0,x,1'"),
        (HEAD + COLUMNS + "0,0,0,1,0,1\n", "line 4: expected six whole numbers"),
        (HEAD + COLUMNS + "0,0,0,1,0,-1,1\n", "line 4: expected numbers of 0 and above"),
        (HEAD + COLUMNS + "0,0,0,99999,0,1,1\n", "a layer below 1024"),
        (HEAD + COLUMNS + "0,0,0,1,0,1,nan\n", "weight of at most a million"),
        (HEAD + COLUMNS + ROWS + "1,1,1,1,0,0,1\n", "turn 1, phase 1, step 1, layer 1: expected 2 experts, got 1"),
        (HEAD + COLUMNS + ROWS.replace(",3,0.75", ",7,0.75"), "expected experts below 4 and layers below 3"),
        (HEAD + COLUMNS + "9" * 70_000, "line 4: expected at most 65536 bytes"),
    ],
    ids=lambda value: value[:24].strip() if isinstance(value, str) else None,
)
def test_what_is_no_recording_is_refused_by_name(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read_recording(write(tmp_path, text))


def test_a_truncated_archive_and_a_missing_file_are_named(tmp_path):
    path = write(tmp_path, HEAD + COLUMNS + ROWS, packed=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recording(path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_recording(tmp_path / "none")


def test_logits_stay_finite_for_weights_of_zero():
    logits = logits_of(np.array([[1, 0]], np.int32), np.array([[1.0, 0.0]], np.float32), 4)
    assert np.isfinite(logits).all()
    assert logits[0, 1] > logits[0, 0] > logits[0, 2]
