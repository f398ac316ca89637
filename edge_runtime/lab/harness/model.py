"""A bundle as a model of lm-evaluation-harness. The one module that imports it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.engine.api import Engine
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.lab.harness.batch import Batch, Text

_MAX_NEW_TOKENS = 256
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")


@register_model("hobbit")
class HobbitLM(TemplateLM):  # type: ignore[misc]
    """``--model hobbit --model_args bundle=DIR,policy=NAME,memory=SIZE,...``.

    Arguments besides these are the engine's options (docs/options.md). `--batch_size` is its `parallel`: how many texts
    run together, which never changes a result.
    """

    def __init__(
        self,
        bundle: str,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        add_bos_token: bool | None = None,
        self_check: bool = True,
        **options: Any,
    ) -> None:
        """Open a bundle.

        Args:
            bundle: directory written by hobbit-export.
            batch_size: texts that run together; "auto" and 1 leave it to the engine.
            max_batch_size: of "auto", which there is no need of here.
            device: not used: the option `backend` says what computes.
            add_bos_token: whether a text begins with the tokenizer's first token; None: as the tokenizer has it.
            self_check: as for `Engine.open`.
            **options: of the engine.

        Raises:
            ConfigError: an argument is unknown or wrong; so for other errors of `Engine.open`.
        """
        super().__init__()
        if str(batch_size).isdecimal() and int(str(batch_size)) > 1:
            options.setdefault("parallel", int(str(batch_size)))
        self.engine = Engine.open(bundle, self_check=self_check, **options)
        self._tokenizer = self.engine.tokenizer
        self._spec = self.engine.spec
        self._add_bos_token = add_bos_token
        self._batch = Batch(self.engine)

    @property
    def max_length(self) -> int:
        """Tokens a text may have."""
        return int(self.engine.parts.config.context)

    @property
    def eot_token_id(self) -> int:
        """The token by which a text ends."""
        ends = self._tokenizer.stop_tokens(self._spec)
        return ends[0] if ends else 0

    @property
    def prefix_token_id(self) -> int:
        """What a text follows that follows nothing."""
        return self.eot_token_id if self._spec.bos_token_id is None else self._spec.bos_token_id

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer for caches of requests: by its bundle."""
        return f"hobbit-{self.engine.parts.bundle.manifest.bundle_id[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the source of the model's chat template, for the record; a name chooses no other."""
        return self._tokenizer.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render messages; a last message of the model's own is left open where no opening is to follow it."""
        text = self._tokenizer.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        said = chat_history[-1]["content"].strip()
        if said not in text:
            raise ConfigError("chat template: it does not repeat the last message, so that none can be gone on from.")
        return text[: text.rindex(said) + len(said)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text; one that begins with the first token's text gets no second one."""
        if add_special_tokens is None:
            first = self._tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
            wanted = True if self._add_bos_token is None else self._add_bos_token
            add_special_tokens = wanted and not (first and string.startswith(first))
        return self._tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        texts = [self._text(context, continuation) for _, context, continuation in requests]
        with _bar("scoring", len(texts), disabled=disable_tqdm) as tell:
            scores = [(score.logprob, score.is_greedy) for score in self._batch.score(texts, tell)]
        for (key, _, _), score in zip(requests, scores, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, score)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in windows of the context's length where they are longer."""
        windows: list[Text] = []
        counts = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text, add_special_tokens=False)
            pairs = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            found = [self._text(*make_disjoint_window(pair)) for pair in pairs]
            windows += found
            counts.append(len(found))
        with _bar("scoring", len(windows), disabled=disable_tqdm) as tell:
            scores = iter(self._batch.score(windows, tell))
        results = [sum(next(scores).logprob for _ in range(count)) for count in counts]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue texts until one of their stop strings, the model's end, or their length."""
        prompts = []
        for context, options in (request.args for request in requests):
            params = sampling(options)
            room = self.max_length - min(params.max_tokens or _MAX_NEW_TOKENS, self.max_length - 1)
            prompts.append((self.tok_encode(context)[-room:] or [self.prefix_token_id], params))
        with _bar("generating", len(prompts), disabled=disable_tqdm) as tell:
            texts = self._batch.generate(prompts, tell)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def _text(self, context: list[int], continuation: list[int]) -> Text:
        """Cut a text from the left to what the model can run; its last token is only predicted."""
        tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
        return Text(tuple(tokens), tuple(continuation[-len(tokens) :] if tokens else ()))


def sampling(options: Mapping[str, Any]) -> SamplingParams:
    """Turn a task's generation options into sampling parameters: greedy unless it asks for sampling.

    Raises:
        ConfigError: an option is unknown: leaving it out could change what is measured.
    """
    rest = dict(options)
    until = rest.pop("until", None) or []
    lengths = [rest.pop(key) for key in _LENGTHS if rest.get(key) is not None]
    samples = rest.pop("do_sample", None)
    values = {key: rest.pop(key) for key in _SAMPLING if rest.get(key) is not None}
    if samples is False or (samples is None and "temperature" not in values):
        values["temperature"] = 0.0
    elif samples:
        values.setdefault("temperature", 1.0)
    unknown = [key for key, value in rest.items() if (key, value) not in {("num_beams", 1)} and value is not None]
    if unknown:
        known = ["until", "do_sample", *_LENGTHS, *_SAMPLING]
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"generation_kwargs: {unknown[0]}: expected one of {', '.join(known)}.{hint}")
    stops = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop)
    return SamplingParams(max_tokens=int(lengths[0] if lengths else _MAX_NEW_TOKENS), stop=stops, **values)


@contextmanager
def _bar(what: str, total: int, *, disabled: bool) -> Iterator[Callable[[int], None]]:
    with tqdm(total=total, desc=what, disable=disabled or not sys.stderr.isatty()) as bar:
        yield lambda number: bar.update() and None
