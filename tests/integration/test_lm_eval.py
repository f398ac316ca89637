"""lm-evaluation-harness itself on a bundle: likelihoods, whole texts and answers, alone and together."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine
from edge_runtime.__main__ import main as hobbit
from edge_runtime.base.errors import ConfigError
from edge_runtime.lab.evaluation import log_softmax

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra lm-eval): nothing here was tested")
# what the harness and its libraries warn of is theirs
pytestmark = [pytest.mark.filterwarnings("default")]

OPTIONS: dict[str, Any] = {"memory": "4GiB", "context": 256}
QUESTIONS = [
    {"text": "import os\nimport", "choices": [" sys", " banana", " os"], "gold": 0},
    {"text": "def read(self", "choices": [", path):", " elephants", "))))"], "gold": 0},
    {"text": "for i in range", "choices": ["(10):", "x", " the"], "gold": 0},
    {"text": "class Reader:\n    def", "choices": [" __init__(self)", " if", " 3"], "gold": 0},
]
CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list: [{metric: acc}]
"""
ROLLING = """
task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
"""
ANSWER = """
task: tiny_answer
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    for name, text in (("choice", CHOICE), ("rolling", ROLLING), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def make(bundle: Path, **options: Any):
    from edge_runtime.lab.harness.model import HobbitLM

    return HobbitLM(str(bundle), **OPTIONS | options)


def asked(*arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def by_hand(engine: Engine, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    logits = engine.logits(np.array(context + continuation, np.int32))[len(context) - 1 : -1]
    rows = log_softmax(logits)
    chosen = [float(row[token]) for row, token in zip(rows, continuation, strict=True)]
    return sum(chosen), bool((logits.argmax(axis=1) == continuation).all())


def test_likelihoods_are_those_of_the_engine_however_many_run_together(model_bundle: Path) -> None:
    pairs = [(q["text"], choice) for q in QUESTIONS for choice in q["choices"]] + [("", "import os"), ("x = ", "1")]
    with Engine.open(model_bundle, self_check=False, **OPTIONS) as engine:
        first = engine.spec.bos_token_id
        prefix = engine.tokenizer.stop_tokens(engine.spec)[0] if first is None else first
        wanted = []
        for context, continuation in pairs:
            whole = engine.tokenizer.encode(context.rstrip() + (" " if context.endswith(" ") else "") + continuation)
            start = engine.tokenizer.encode(context.rstrip()) if context else [prefix]
            wanted.append(by_hand(engine, start, whole[len(start) :] if context else whole))
    for batch_size in (1, 3):
        model = make(model_bundle, batch_size=batch_size, self_check=False)
        try:
            assert model.engine.parts.config.parallel == batch_size
            assert model.loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True) == wanted
        finally:
            model.close()


def test_a_text_longer_than_the_context_is_scored_in_windows(model_bundle: Path) -> None:
    text = "import os\n\n\ndef main():\n    return os.getcwd()\n" * 10
    model = make(model_bundle, self_check=False, context=64)
    try:
        tokens, prefix = model.tok_encode(text, add_special_tokens=False), model.prefix_token_id
        (whole,) = model.loglikelihood_rolling([asked(text)], disable_tqdm=True)
        # a context that does not fit is cut from the left, not refused
        (cut,) = model.loglikelihood([asked("x " * 400, " and so on")], disable_tqdm=True)
    finally:
        model.close()
    assert len(tokens) > 2 * 64
    assert len(tokens) % 64
    with Engine.open(model_bundle, self_check=False, **OPTIONS | {"context": 64}) as engine:
        wanted, line = 0.0, [prefix, *tokens]
        for start in range(0, len(tokens), 64):  # 64 tokens each, the last window with all the context there is
            end = min(start + 64, len(tokens))
            logits = engine.logits(np.array(line[max(0, end - 64) : end], np.int32))[start - end :]
            wanted += sum(float(row[t]) for row, t in zip(log_softmax(logits), tokens[start:end], strict=True))
    assert whole == pytest.approx(wanted, rel=1e-12)
    assert -1e3 < cut[0] < 0


def test_answers_end_at_their_stop_strings_and_lengths(model_bundle: Path) -> None:
    asks = [
        asked("import os\nimport", {"until": ["\n"], "max_gen_toks": 12}),
        asked("def read(self, path):", {"until": [], "max_gen_toks": 5, "do_sample": False}),
        asked("class A:", {"until": "\n\n", "max_gen_toks": 20, "temperature": 0.0}),
    ]
    texts = []
    for batch_size in (1, 3):
        model = make(model_bundle, batch_size=batch_size, self_check=False)
        try:
            texts.append(model.generate_until(asks, disable_tqdm=True))
            with pytest.raises(ConfigError, match="generation_kwargs: num_beam: expected one of until"):
                model.generate_until([asked("x", {"until": [], "num_beam": 4})])
        finally:
            model.close()
    assert texts[0] == texts[1]
    assert "\n" not in texts[0][0]
    assert "\n\n" not in texts[0][2]
    with Engine.open(model_bundle, self_check=False, **OPTIONS) as engine:
        assert len(engine.tokenizer.encode(texts[0][1])) <= 5


def accuracy(bundle: Path) -> float:
    """Share of the questions whose right answer is the likeliest."""
    model = make(bundle, self_check=False)
    try:
        asks = [[asked(q["text"], choice) for choice in q["choices"]] for q in QUESTIONS]
        scores = [[logprob for logprob, _ in model.loglikelihood(each, disable_tqdm=True)] for each in asks]
    finally:
        model.close()
    return sum(int(np.argmax(s)) == q["gold"] for s, q in zip(scores, QUESTIONS, strict=True)) / len(QUESTIONS)


def test_eval_runs_tasks_of_the_harness(model_bundle: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "tiny_choice,tiny_text,tiny_answer"
    command = ["eval", str(model_bundle), "--tasks", names, "--task-path", str(tasks), "--no-self-check"]
    assert hobbit([*command, "--memory", "4GiB", "--context", "256", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["results"]["tiny_choice"]["acc,none"] == accuracy(model_bundle)
    assert 1 < said["results"]["tiny_text"]["byte_perplexity,none"] < 50
    assert 0 <= said["results"]["tiny_answer"]["exact_match,none"] <= 1
    assert said["questions"]["tiny_choice"]["effective"] == len(QUESTIONS)
    assert said["experts"]["lookups"] > 0
    assert hobbit([*command[:3], "no_such_task", *command[4:]]) == 78
    assert "--tasks: 'no_such_task': the harness has no such task" in capsys.readouterr().err


def test_the_command_of_the_harness_knows_the_model(model_bundle: Path, tasks: Path, tmp_path: Path) -> None:
    code = "from edge_runtime.lab.harness.command import main; raise SystemExit(main())"
    arguments = [
        "--model", "hobbit", "--model_args", f"bundle={model_bundle},memory=4GiB,context=256,policy=lossless",
        "--tasks", "tiny_choice", "--include_path", str(tasks), "--batch_size", "2", "--output_path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tiny_choice" in done.stdout
    (result,) = tmp_path.rglob("results_*.json")
    assert json.loads(result.read_text())["results"]["tiny_choice"]["acc,none"] == accuracy(model_bundle)
    wrong = [*arguments[:3], f"bundle={model_bundle},memry=4GiB", *arguments[4:]]
    refused = subprocess.run([sys.executable, "-c", code, *wrong], capture_output=True, text=True, check=False)
    assert refused.returncode == 78
    assert "memry" in refused.stderr.splitlines()[-1]


def test_the_registry_of_the_harness_loads_the_entry_point() -> None:
    """As versions that look for entry points do: the name leads to the class, whoever registered it before."""
    from lm_eval.api import registry

    from edge_runtime.lab.harness.model import HobbitLM

    (found,) = entry_points(group="lm_eval.models", name="hobbit")
    registry.model_registry.register("hobbit-by-entry-point", target=found)
    assert registry.get_model("hobbit-by-entry-point") is HobbitLM


def test_the_plain_command_knows_the_model_where_the_harness_looks_for_it(
    model_bundle: Path, tasks: Path, tmp_path: Path
) -> None:
    arguments = [
        "--model", "hobbit", "--model_args", f"bundle={model_bundle},memory=4GiB,context=256",
        "--tasks", "tiny_choice", "--include_path", str(tasks), "--output_path", str(tmp_path),
    ]  # fmt: skip
    looks = subprocess.run(
        [sys.executable, "-c", "from lm_eval.api.registry import load_plugins"], capture_output=True, check=False
    )
    done = subprocess.run([sys.executable, "-m", "lm_eval", *arguments], capture_output=True, text=True, check=False)
    if looks.returncode:  # 0.4.13 and before: docs/quality.md says so
        assert done.returncode
        assert "no model for this name found" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = tmp_path.rglob("results_*.json")
    assert json.loads(result.read_text())["results"]["tiny_choice"]["acc,none"] == accuracy(model_bundle)


@pytest.mark.oracle
def test_likelihoods_are_those_of_transformers_in_the_same_harness(exported) -> None:
    pytest.importorskip("torch")
    from lm_eval.models.huggingface import HFLM

    pairs = [asked(q["text"], choice) for q in QUESTIONS for choice in q["choices"]]
    theirs = HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=1)
    wanted = theirs.loglikelihood(pairs, disable_tqdm=True)
    model = make(exported(MODEL, "--tiers", "8,bf16", "--trunk", "fp32"), tier="bf16", self_check=False)
    try:
        got = model.loglikelihood(pairs, disable_tqdm=True)
        assert model.prefix_token_id == theirs.prefix_token_id
    finally:
        model.close()
    np.testing.assert_allclose([g[0] for g in got], [w[0] for w in wanted], rtol=0, atol=2e-3)
    assert [g[1] for g in got] == [w[1] for w in wanted]
