"""Text to tokens and back: the bundle's tokenizer, its chat template, and detokenisation one token at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError, RequestError

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_MAX_PENDING = 16
_CONTEXT_TOKENS = 4


class Tokenizer:
    """The tokenizer of a bundle.

    Args:
        folder: the bundle's `tokenizer/` directory; `tokenizer.json` is required, the rest optional.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Backend

        path = folder / "tokenizer.json"
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as err:
            raise BundleError(f"tokenizer/tokenizer.json: cannot be loaded: {err}. Export the bundle again.") from err
        self._config = _read_json(folder / "tokenizer_config.json")
        template = folder / "chat_template.jinja"
        self._template: Any = template.read_text("utf-8") if template.exists() else self._config.get("chat_template")

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brought a chat template."""
        return isinstance(self._template, (str, list))

    @property
    def chat_template(self) -> str | None:
        """Source of the default chat template, None without one."""
        return self._pick_template() if self.has_chat_template else None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of text."""
        try:
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except (TypeError, UnicodeEncodeError) as err:
            raise RequestError(f"prompt: expected text that is valid Unicode, got: {err}.") from err

    def encode_within(self, text: str, limit: int) -> list[int]:
        """Return the token ids of text, refusing what is longer than `limit` before all of it is tokenised.

        A tokenizer takes some hundred bytes a character while it works: a huge text must not cost memory to refuse.

        Raises:
            RequestError: it has more than `limit` tokens.
        """
        size = 16 * limit
        while size < len(text):
            # cutting in the middle of a word can only add tokens at the cut, a handful at most
            if len(self.encode(text[:size])) > limit + 16:
                raise RequestError(
                    f"prompt: its first {size} characters already exceed the context of {limit} tokens. "
                    "Shorten it, or open the engine with a larger context."
                )
            size *= 2
        return self.encode(text)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""
        return str(self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        """Render messages (role, content) as the prompt this model was trained on.

        Raises:
            ConfigError: the model has no chat template.
            RequestError: the template refuses the messages.
        """
        if not self.has_chat_template:
            raise ConfigError("chat: this model has no chat template. Use `hobbit run` (plain completion) instead.")
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
        env.globals["raise_exception"] = _raise_from_template
        names = {k: _token_text(self._config.get(k)) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            template = env.from_string(self._pick_template())
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **names, **extra)
        except TemplateError as err:
            raise RequestError(f"chat template: {err}. Check the roles and order of the messages.") from err

    def _pick_template(self) -> str:
        if isinstance(self._template, str):
            return self._template
        named = {entry.get("name"): entry.get("template", "") for entry in self._template}
        return str(named.get("default") or next(iter(named.values()), ""))


class IncrementalDecoder:
    """Turns tokens into text as they come, never emitting half a character.

    Args:
        tokenizer: the model's.
        context: tokens before the text, such as the prompt; they are not emitted.
        skip_special_tokens: leave out tokens that are not text.

    Bytes of a character spread over several tokens are held back until it is whole. Tokenizers that join words
    (sentencepiece) need context, so each step decodes a short window and emits what is new in it.
    """

    def __init__(self, tokenizer: Tokenizer, *, context: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        # without what stands before, a decoder of that kind would take the first word for the start of the text
        self._window: list[int] = list(context[-_CONTEXT_TOKENS:])
        self._emitted = tokenizer.decode(self._window, skip_special_tokens=self._skip) if self._window else ""

    def push(self, token_id: int) -> str:
        """Add a token; return the text it completes, possibly empty."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window, skip_special_tokens=self._skip)
        incomplete = text.endswith(_INCOMPLETE) and len(self._window) < _MAX_PENDING
        if incomplete or len(text) <= len(self._emitted):
            return ""
        new = text[len(self._emitted) :]
        # restart the window at the last token: one token of context is enough to keep word joints right
        self._window = self._window[-1:]
        self._emitted = self._tokenizer.decode(self._window, skip_special_tokens=self._skip)
        return new

    def flush(self) -> str:
        """Return what is still held back, incomplete bytes shown as replacement characters."""
        text = self._tokenizer.decode(self._window, skip_special_tokens=self._skip)
        new, self._window, self._emitted = text[len(self._emitted) :], [], ""
        return new


class StopStrings:
    """Holds text back as long as it could be the start of a stop string, and cuts at the first one found."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add new text; return what may be shown. After `stopped` nothing more comes out."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stops) if at >= 0]
        if found:
            self.stopped = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = max(_overlap(self._held, s) for s in self._stops)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """Return what is held back once no more text will come."""
        out, self._held = ("" if self.stopped else self._held), ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that starts `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as err:
        raise BundleError(f"tokenizer/{path.name}: expected JSON, got damage: {err}.") from err
    if not isinstance(data, dict):
        raise BundleError(f"tokenizer/{path.name}: expected a JSON object.")
    return data


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _raise_from_template(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
