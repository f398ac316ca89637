"""What a checkpoint says of stop tokens and sampling, from its files to `plan`, `run`, the library and the service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MODEL
from service_process import ServiceProcess

from edge_runtime import Engine, SamplingParams
from edge_runtime.__main__ import main
from edge_runtime.bundle import manifest_file

ENGINE = ["--memory", "1GiB", "--context", "256", "--no-self-check"]
GENERATION = {"do_sample": True, "temperature": 1.9, "top_k": 40, "top_p": 0.95, "eos_token_id": [2, 1]}


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("own") / "tiny-with-sampling"
    shutil.copytree(MODEL, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    (checkpoint / "generation_config.json").write_text(json.dumps(GENERATION))
    return exported(checkpoint, "--tiers", "8", "--trunk", "fp32")


def test_the_manifest_has_them(bundle: Path) -> None:
    manifest = manifest_file.read(bundle)
    assert manifest.model.eos_token_ids == [2, 1]
    assert manifest.sampling.given == {"temperature": 1.9, "top_k": 40, "top_p": 0.95}


def test_plan_shows_them(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), *ENGINE[:-1]]) == 0
    assert "sampling the model wants: temperature 1.9, top-k 40, top-p 0.95" in capsys.readouterr().out
    assert main(["plan", str(bundle), *ENGINE[:-1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"] == {"temperature": 1.9, "top_k": 40, "top_p": 0.95}


def test_plan_says_nothing_where_the_model_does(model_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(model_bundle), *ENGINE[:-1]]) == 0
    assert "sampling" not in capsys.readouterr().out
    assert main(["plan", str(model_bundle), *ENGINE[:-1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"] == {}


def test_run_uses_them_unless_told_otherwise(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*flags: str) -> list[int]:
        assert main(["run", str(bundle), *ENGINE, "-p", "Once", "-n", "12", "--seed", "3", "--json", *flags]) == 0
        found: list[int] = json.loads(capsys.readouterr().out)["token_ids"]
        return found

    with Engine.open(bundle, memory="1GiB", context=256, seed=3, self_check=False) as engine:

        def wanted(**params: float) -> list[int]:
            return engine.generate("Once", SamplingParams(max_tokens=12, **params)).token_ids

        own = engine.sampling_defaults.given
        assert run() == wanted(**own) != wanted()
        assert run("--temperature", "0") == wanted() == engine.generate("Once", SamplingParams(max_tokens=12)).token_ids
        assert run("--top-k", "0") == wanted(**own | {"top_k": 0})
        assert run("--top-k", "1") == wanted()
        assert run("--logit-bias", "300=100") == [300] * 12
        assert run("--logit-bias", "300=100", "--logit-bias", "300=0") == run()
        assert run("--temperature", "0", "--presence-penalty", "2", "--frequency-penalty", "1") == wanted(
            presence_penalty=2, frequency_penalty=1
        )
        # the manifest's stop tokens, and the one only the tokenizer names
        assert engine.tokenizer.stop_tokens(engine.spec) == (2, 1, 0)


def test_chat_uses_them_unless_told_otherwise(bundle: Path) -> None:
    def answers(*flags: str) -> str:
        command = [
            sys.executable,
            "-m",
            "edge_runtime",
            "chat",
            str(bundle),
            *ENGINE,
            "-n",
            "12",
            "--seed",
            "3",
            *flags,
        ]
        found = subprocess.run(command, input=b"Once\n", capture_output=True, check=True, timeout=120)
        return found.stdout.decode()

    own = answers()
    assert own == answers("--temperature", "1.9", "--top-k", "40", "--top-p", "0.95")
    assert own != answers("--temperature", "0") == answers("--top-k", "1")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--logit-bias", "300"], "logit-bias: expected a token id and a number"),
        (["--logit-bias", "x=1"], "logit-bias: expected a token id and a number"),
        (["--logit-bias", "300=1000"], "logit_bias"),
        (["--logit-bias", "4096=1"], "outside the vocabulary of 4096"),
        (["--presence-penalty", "1000"], "presence_penalty"),
    ],
)
def test_wrong_flags_are_named(
    bundle: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["run", str(bundle), *ENGINE, "-p", "Once", "-n", "1", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_service_uses_them_unless_told_otherwise(bundle: Path, tmp_path: Path) -> None:
    with (
        ServiceProcess(bundle, tmp_path / "log", "--context", "256", "--no-self-check") as service,
        service.client() as http,
    ):

        def ask(**more: object) -> str:
            body = {"prompt": "Once", "max_tokens": 12, "seed": 3, **more}
            text: str = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
            return text

        assert http.get("/v1/models").json()["data"][0]["sampling"] == {"temperature": 1.9, "top_k": 40, "top_p": 0.95}
        ask()
        assert ask() == ask(temperature=1.9, top_k=40, top_p=0.95) != ask(temperature=0)
        assert ask(temperature=0) == ask(temperature=0, top_k=0) == ask(top_k=1)
        assert ask(temperature=None, top_k=None) == ask()
        # each of its stop tokens ends an answer, and so does the tokenizer's
        for token in ("0", "1", "2"):
            answer = http.post("/v1/completions", json={"prompt": "Once", "logit_bias": {token: 100}}).json()
            assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["text"]) == ("stop", "")
            assert answer["usage"]["completion_tokens"] == 1
        bias = {"logit_bias": {"1": 100}, "ignore_eos": True, "stop": ["<|im_start|>"]}
        answer = http.post("/v1/completions", json={"prompt": "Once", **bias}).json()
        assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("stop", 1)
