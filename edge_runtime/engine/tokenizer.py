"""Text to tokens and back: the bundle's tokenizer and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ContextExceededError, RequestError, is_failure
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.tokenizer_file import DEFAULT_VOCABULARY, NAME, check_tokenizer, most_bytes
from edge_runtime.engine.chat_template import ChatTemplates, sources_of, tokens_of
from edge_runtime.telemetry.process import trim_heap

_FOLDER = "tokenizer/"
_FIRST_CHARACTERS = 4
"""Characters a token of ordinary text has; a prompt with fewer of them a token is refused at the first look."""
_MAX_FILE_BYTES, _LARGE_BYTES = 8 << 20, 1 << 20
_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja")
_NAMED = ("tokenizer_config.json", "special_tokens_map.json")
_READ = ("tokenizer.json", *_NAMED, *_TEMPLATES)


class Tokenizer:
    """A model's tokenizer.

    Args:
        files: content by name, as a checkpoint names them; `tokenizer.json` is required, the rest optional.
        vocab_size: V of the model; bounds the file.

    Raises:
        BundleError: a file is damaged, or has what its library cannot be trusted with; it is named.
    """

    def __init__(self, files: Mapping[str, bytes], vocab_size: int = DEFAULT_VOCABULARY) -> None:
        self._backend = _load(files.get("tokenizer.json", b""), vocab_size)
        # both belong to training batches: a text is neither cut nor filled up here
        self._backend.no_truncation()
        self._backend.no_padding()
        self._config = _read_json(files, "tokenizer_config.json")
        tokens = _named_tokens(files)
        self._eos_text = tokens.get("eos_token")
        templates = {name: _text(name, files[name]) for name in files if name.endswith(".jinja")}
        self._templates = ChatTemplates(sources_of(self._config, templates), tokens)

    @staticmethod
    def from_bundle(bundle: Bundle) -> Tokenizer:
        """Read what the bundle's manifest lists, and nothing else that may lie in its folder.

        Raises:
            BundleError: a part is damaged, too large, or not a plain file; it is named.
        """
        return Tokenizer(_read(bundle, _READ), bundle.manifest.model.vocab_size)

    @staticmethod
    def from_folder(folder: Path) -> Tokenizer:
        """Read a checkpoint's own tokenizer.

        Raises:
            BundleError: a file is damaged or missing; it is named.
        """
        paths = [path for pattern in _READ for path in sorted(folder.glob(pattern))]
        return Tokenizer({str(path.relative_to(folder)): path.read_bytes() for path in paths})

    @property
    def templates(self) -> ChatTemplates:
        """The model's chat templates."""
        return self._templates

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brought a chat template."""
        return bool(self._templates)

    @property
    def chat_template(self) -> str | None:
        """Source of the template used when tools are given, which is the default one for most models; None without."""
        return self._templates.source(with_tools=True) if self._templates else None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of text."""
        try:
            with _guarded("cannot encode a text"):
                return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except (TypeError, UnicodeEncodeError) as err:
            raise RequestError(f"prompt: expected text that is valid Unicode, got: {err}.") from err

    def encode_within(self, text: str, limit: int, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of text, refusing what is longer than `limit` before all of it is tokenised.

        A tokenizer takes some hundred bytes a character while it works: a huge text must not cost memory to refuse.

        Raises:
            ContextExceededError: it has more than `limit` tokens.
        """
        size = _FIRST_CHARACTERS * limit
        while size < len(text):
            # cutting in the middle of a word can only add tokens at the cut, a handful at most
            if len(self.encode(text[:size], add_special_tokens=add_special_tokens)) > limit + 16:
                raise ContextExceededError(
                    f"prompt: its first {size} characters already exceed the context of {limit} tokens. "
                    "Shorten it, or open the engine with a larger context."
                )
            size *= 2
        return self.encode(text, add_special_tokens=add_special_tokens)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first character of each token of a text, and the one behind its last; equal if it has none."""
        with _guarded("cannot encode a text"):
            return list(self._backend.encode(text).offsets)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""
        try:  # without `_guarded`: it is called twice a token
            return str(self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens))
        except BaseException as err:
            _name_failure(err, "cannot decode tokens")
            raise

    @property
    def vocab_size(self) -> int:
        """Tokens it knows, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_texts(self) -> Mapping[int, str]:
        """Tokens that `decode` leaves out, with their text."""
        added = self._backend.get_added_tokens_decoder()
        return {token_id: token.content for token_id, token in added.items() if token.special}

    @property
    def special_ids(self) -> Set[int]:
        """Tokens that `decode` leaves out."""
        return self.special_texts.keys()

    @cached_property
    def eos_id(self) -> int | None:
        """The token by which the tokenizer ends a text; None if it names none."""
        found = None if self._eos_text is None else self._backend.token_to_id(self._eos_text)
        return None if found is None else int(found)

    def stop_tokens(self, model: ModelSpec) -> tuple[int, ...]:
        """Return the tokens that end a text of a model: those of its manifest, and the tokenizer's own.

        A base model's configuration may name another token than the one its chat template ends turns with.
        """
        own = [] if self.eos_id is None or self.eos_id >= model.vocab_size else [self.eos_id]
        return tuple(dict.fromkeys([*model.eos_token_ids, *own]))

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens that stand for one byte each where the decoder joins runs of them; empty for other tokenizers."""
        ids = [self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        letter = ids[ord("A")]
        if letter is None or self.decode([letter], skip_special_tokens=False) != "A":
            return frozenset()
        return frozenset(token_id for token_id in ids if token_id is not None)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        """Render messages (role, content) as the prompt this model was trained on; see `ChatTemplates.render`.

        Raises:
            ConfigError: the model has no chat template.
            RequestError: the template refuses the messages.
        """
        return self._templates.render(messages, add_generation_prompt=add_generation_prompt, **extra)


def eos_text(bundle: Bundle) -> str | None:
    """Return the text of the token by which a bundle's tokenizer ends a text, without loading the tokenizer.

    Raises:
        BundleError: a part is damaged, too large, or not a plain file; it is named.
    """
    return _named_tokens(_read(bundle, _NAMED)).get("eos_token")


def _read(bundle: Bundle, patterns: Sequence[str]) -> dict[str, bytes]:
    parts = {part.name.removeprefix(_FOLDER): part for part in bundle.manifest.parts if part.role == "tokenizer"}
    largest = most_bytes(bundle.manifest.model.vocab_size)
    return {
        name: bundle.read_part(part, limit=largest if part.name == NAME else _MAX_FILE_BYTES)
        for name, part in parts.items()
        if any(fnmatch(name, pattern) for pattern in patterns)
    }


def _named_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    config, special = (_read_json(files, name) for name in _NAMED)
    return tokens_of(config, special)


def _load(raw: bytes, vocab_size: int) -> Any:
    from tokenizers import Tokenizer as Backend

    check_tokenizer(raw, vocab_size)
    with _guarded("cannot be loaded"):
        backend = Backend.from_buffer(raw)
    if len(raw) > _LARGE_BYTES:
        trim_heap()  # a large file leaves half of what reading it took, and the memory plan would count it
    return backend


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """Turn what the library raises, panics included, into an error of the bundle; not what is wrong with a text."""
    try:
        yield
    except BaseException as err:
        _name_failure(err, what)
        raise


def _name_failure(err: BaseException, what: str) -> None:
    """Raise an error of the bundle for one the library raised; return for any other, the caller raises it again."""
    if is_failure(err) and not isinstance(err, (TypeError, UnicodeEncodeError)):
        raise BundleError(f"{NAME}: {what}: {str(err)[:200]}. Export the bundle again.") from err


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise BundleError(f"{_FOLDER}{name}: expected UTF-8, got {err}.") from err


def _read_json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        data = json.loads(_text(name, files[name]))
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{_FOLDER}{name}: expected JSON, got damage: {str(err)[:200]}.") from err
    if not isinstance(data, dict):
        raise BundleError(f"{_FOLDER}{name}: expected a JSON object.")
    return data
