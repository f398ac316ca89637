"""Text to tokens and back: the bundle's tokenizer and its chat template."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError, RequestError


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
        # both belong to training batches: a text is neither cut nor filled up here
        self._backend.no_truncation()
        self._backend.no_padding()
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

    @property
    def vocab_size(self) -> int:
        """Tokens it knows, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that `decode` leaves out."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens that stand for one byte each where the decoder joins runs of them; empty for other tokenizers."""
        ids = [self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        letter = ids[ord("A")]
        if letter is None or self.decode([letter], skip_special_tokens=False) != "A":
            return frozenset()
        return frozenset(token_id for token_id in ids if token_id is not None)

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
