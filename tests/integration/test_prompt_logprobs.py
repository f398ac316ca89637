"""`echo` with `logprobs`: what the model says of a prompt, held to transformers, through the real openai client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from conftest import MODEL
from families import load_model
from service_process import ServiceProcess

from edge_runtime.engine.tokenizer import Tokenizer

LOGIT_TOLERANCE = 2e-3  # of the largest logit, as in test_against_transformers
TEXT = (MODEL / "heldout_python.txt").read_text()[:400] + "  caf\u00e9 \U0001f600\n\n \u4e16\u754c end"


@pytest.fixture(scope="module", params=["1", "3"])
def service(request: Any, model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    log = tmp_path_factory.mktemp("scored") / "log"
    flags = ("--parallel", request.param, "--context", "512", "--tier", "bf16", "--no-self-check")
    with ServiceProcess(model_bundle, log, *flags) as started:
        yield started
        assert "Traceback" not in log.read_text()


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[openai.OpenAI]:
    with service.openai_client() as made:
        yield made


@cache
def oracle(ids: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Log probabilities [T, V] after each token by transformers, and the largest logit."""
    import torch

    model = load_model(MODEL, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    return logits.log_softmax(-1).numpy(), float(logits.abs().max())


def complete(client: openai.OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": None, "max_tokens": 3, "temperature": 0, "echo": True} | more)


def columns(choice: Any) -> dict[str, list[Any]]:
    found = choice.logprobs.to_dict()
    assert len({len(column) for column in found.values()}) == 1
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("as_ids", [False, True])
def test_a_prompt_has_the_log_probabilities_of_transformers(client: openai.OpenAI, as_ids: bool) -> None:
    tokenizer = Tokenizer.from_folder(MODEL)
    ids = tokenizer.encode(TEXT)
    assert len(ids) > 2 * 32, "more than one pass"
    (choice,) = complete(client, prompt=ids if as_ids else TEXT, logprobs=3).choices
    found, (expected, largest) = columns(choice), oracle(tuple(ids))
    assert choice.text.startswith(TEXT)
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    tolerance = 2 * LOGIT_TOLERANCE * largest
    for position in range(1, len(ids)):
        row = expected[position - 1]
        assert abs(found["token_logprobs"][position] - row[ids[position]]) <= tolerance
        best = list(found["top_logprobs"][position].values())
        assert len(best) == 3
        assert np.allclose(best, np.sort(row)[:-4:-1], rtol=0, atol=tolerance)
    # what follows the prompt goes on the same way
    assert len(found["tokens"]) == len(ids) + 3
    assert abs(found["token_logprobs"][len(ids)] - expected[-1].max()) <= tolerance
    assert found["tokens"][1] == tokenizer.decode(ids[1:2], skip_special_tokens=False)


@pytest.mark.parametrize("prompt", [TEXT, "The", [5], [5, 6], "  \u4e16 "])
def test_offsets_cut_the_text_into_its_tokens(client: openai.OpenAI, prompt: Any) -> None:
    (choice,) = complete(client, prompt=prompt, logprobs=0).choices
    found = columns(choice)
    ends = [*found["text_offset"][1:], len(choice.text)]
    pieces = [choice.text[start:end] for start, end in zip(found["text_offset"], ends, strict=True)]
    assert "".join(pieces) == choice.text
    whole = [(piece, token) for piece, token in zip(pieces, found["tokens"], strict=True) if "bytes:" not in token]
    assert whole
    assert all(token in piece for piece, token in whole)
    assert found["top_logprobs"][1:] == [{}] * (len(pieces) - 1)


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"prompt": [TEXT, "The"], "n": 2, "logprobs": 2}
    whole = complete(client, **ask)
    texts, joined = [""] * 4, [{} for _ in range(4)]
    for update in complete(client, **ask, stream=True):
        (choice,) = update.choices
        texts[choice.index] += choice.text
        for name, column in (choice.logprobs.to_dict() if choice.logprobs else {}).items():
            joined[choice.index].setdefault(name, []).extend(column)
    assert texts == [choice.text for choice in whole.choices]
    assert joined == [columns(choice) for choice in whole.choices]
    assert whole.usage.prompt_tokens == sum(len(Tokenizer.from_folder(MODEL).encode(p)) for p in ask["prompt"])


def test_scores_depend_on_nothing_that_ran_before_and_leave_nothing(client: openai.OpenAI) -> None:
    plain = complete(client, prompt=TEXT, echo=False)
    first = complete(client, prompt=TEXT, logprobs=1)
    again = complete(client, prompt=TEXT, logprobs=1)
    assert again.usage.prompt_tokens_details.cached_tokens == 0
    assert columns(again.choices[0]) == columns(first.choices[0])
    assert first.choices[0].text == TEXT + plain.choices[0].text
    after = complete(client, prompt=TEXT + " and so on", echo=False)
    service_free = complete(client, prompt=TEXT + " and so on", logprobs=1)
    assert service_free.choices[0].text == TEXT + " and so on" + after.choices[0].text


def test_a_long_answer_comes_in_parts(service: ServiceProcess) -> None:
    ask = {"prompt": [7] * 400, "logprobs": 20, "echo": True, "max_tokens": 100, "ignore_eos": True}
    with httpx.stream("POST", f"{service.api}/completions", json=ask, timeout=120) as response:
        assert response.headers.get("content-length") is None
        assert response.headers["content-type"] == "application/json"
        body = b"".join(response.iter_bytes())
    assert len(body) > 1 << 17
    (choice,) = json.loads(body)["choices"]
    assert [len(column) for column in choice["logprobs"].values()] == [500] * 4
    assert all(len(top) <= 20 for top in choice["logprobs"]["top_logprobs"][1:])


@pytest.mark.filterwarnings("default")  # what the harness and its libraries warn of is theirs
def test_lm_evaluation_harness_scores_texts_over_http(service: ServiceProcess) -> None:
    completions = pytest.importorskip("lm_eval.models.openai_completions", reason="lm_eval is not installed")
    pairs = [("import os\nimport", " sys"), ("import os\nimport", " banana"), ("def read(self", ", path):")]
    model = completions.LocalCompletionsAPI(
        base_url=f"{service.api}/completions", model=service.model, tokenizer=str(MODEL), tokenizer_backend="huggingface",
        batch_size=3, max_length=512,
    )  # fmt: skip
    found = model.loglikelihood([SimpleNamespace(args=pair) for pair in pairs], disable_tqdm=True)
    tokenizer = Tokenizer.from_folder(MODEL)
    for (context, continuation), (logprob, is_greedy) in zip(pairs, found, strict=True):
        ids, start = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
        rows, largest = oracle(tuple(ids))
        targets = list(enumerate(ids))[start:]
        wanted = sum(rows[position - 1][token] for position, token in targets)
        assert abs(logprob - wanted) <= 2 * LOGIT_TOLERANCE * largest * len(targets)
        assert is_greedy is all(rows[position - 1].argmax() == token for position, token in targets)
