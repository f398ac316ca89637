"""A model's chat templates: which one is meant, and rendering it as transformers' `apply_chat_template` does.

A template is code of whoever made the checkpoint. It runs in jinja2's immutable sandbox, and in a confined process:
two lines of it can loop for ever or fill any memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from edge_runtime.base.confined import ConfinedHost, JobRefusedError, Limits
from edge_runtime.base.errors import ConfigError, UnfitBundleError
from edge_runtime.base.sizes import MIB

DEFAULT, TOOL_USE = "default", "tool_use"
RENDER = f"{__name__}:render_job"
RENDER_LIMITS = Limits(cpu_s=2, memory_bytes=24 * MIB)
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_PLAIN_ERRORS = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RecursionError)
"""What operators of a template raise when messages are not what it computes with."""


class ChatTemplates:
    """Templates by name. Each rendering compiles its template anew, in a confined process.

    Args:
        sources: template text by name; 'default' is the one used unless tools ask for 'tool_use'.
        tokens: special tokens by name, such as 'bos_token'. A name that is absent is undefined in the template.
    """

    def __init__(self, sources: Mapping[str, str], tokens: Mapping[str, str]) -> None:
        self._sources, self._tokens = dict(sources), dict(tokens)
        self._host: ConfinedHost | None = None
        self._is_shared = False

    def use(self, host: ConfinedHost) -> None:
        """Render in a host that is shared with other jobs; it must know `RENDER`."""
        self._host, self._is_shared = host, True

    def start(self) -> None:
        """Start what renders, so that the first prompt does not wait for it; nothing without a template."""
        if self._sources:
            self._ensure_host().start()

    def close(self) -> None:
        """End the host, unless it is shared."""
        if self._host is not None and not self._is_shared:
            self._host.close()

    def _ensure_host(self) -> ConfinedHost:
        if self._host is None:
            self._host = ConfinedHost({RENDER: RENDER_LIMITS})
        return self._host

    def __bool__(self) -> bool:
        """Whether there is any template."""
        return bool(self._sources)

    def source(self, *, with_tools: bool = False) -> str:
        """Return the text of the template that would be rendered.

        Raises:
            ConfigError: there is none, or several and none is the default.
        """
        return self._sources[self._pick(with_tools)]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """Render messages as the prompt this model was trained on.

        Args:
            messages: role, content and more, as the OpenAI API has them.
            tools: JSON schemas of functions the model may call; None where there are none.
            documents: for templates of retrieval models.
            add_generation_prompt: end with the opening of the model's own turn.
            **extra: further names for the template; they go before special tokens of the same name.

        Raises:
            ConfigError: the model has no template that fits.
            RequestError: the template refuses the messages, in its own words.
        """
        source = self._sources[self._pick(tools is not None)]
        names = {
            "messages": [_normalised(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None if documents is None else list(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return str(self._ensure_host().run(RENDER, [source, {**self._tokens, **extra, **names}]))
        except JobRefusedError as err:
            raise UnfitBundleError(f"chat template: {err}.") from err

    def _pick(self, with_tools: bool) -> str:
        if not self._sources:
            raise ConfigError("chat: this model has no chat template. Use `hobbit run` (plain completion) instead.")
        if with_tools and TOOL_USE in self._sources:
            return TOOL_USE
        if DEFAULT in self._sources:
            return DEFAULT
        raise ConfigError(
            f"chat: expected a template named 'default', this model has {', '.join(sorted(self._sources))}. "
            "Name one of them 'default' in tokenizer_config.json and export again."
        )


def sources_of(config: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, str]:
    """Collect templates by name: those of files, else those of tokenizer_config.json.

    Args:
        config: tokenizer_config.json.
        files: text by file name: 'chat_template.jinja' and 'additional_chat_templates/NAME.jinja'.
    """
    named = {_name_of(path): text for path, text in files.items()}
    if named:
        return named
    given = config.get("chat_template")
    if isinstance(given, str):
        return {DEFAULT: given}
    entries = given if isinstance(given, list) else []
    return {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }


def tokens_of(config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]) -> dict[str, str]:
    """Collect the special tokens a template may name.

    Args:
        config: tokenizer_config.json.
        special_tokens_map: special_tokens_map.json, as old checkpoints have it; transformers reads it only where the
            configuration has no `added_tokens_decoder`.
    """
    merged = dict(config)
    if "added_tokens_decoder" not in config:
        merged |= special_tokens_map
    found = {name: _token_text(merged.get(name)) for name in _NAMED_TOKENS}
    for key in ("model_specific_special_tokens", "extra_special_tokens"):
        extra = merged.get(key)
        if isinstance(extra, dict):
            found |= {str(name): _token_text(token) for name, token in extra.items()}
    return {name: text for name, text in found.items() if text is not None}


def render_job(argument: tuple[str, dict[str, Any]]) -> str:
    """Compile and render a template: (source, names). Runs in a confined process.

    Raises:
        ValueError: the template refuses the names, in its own words.
    """
    from jinja2 import TemplateError

    source, names = argument
    try:
        return str(_environment().from_string(source).render(**names))
    except TemplateError as err:
        raise ValueError(f"{_words(err)}. Check the roles and order of the messages") from err
    except _PLAIN_ERRORS as err:
        raise ValueError(f"it cannot render these messages: {_words(err)}") from err


def _environment() -> Any:
    """The environment transformers gives a template, except that nothing of it is shared between templates."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # local time, as transformers has it
    return env


def _generation_tag() -> Any:
    """``{% generation %}`` marks what the model wrote, for training; here its body is rendered and no more."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlock(Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja2 wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> str:
            return str(caller())

    return GenerationBlock


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own filter escapes HTML; models were trained on plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _normalised(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: without keys that are None, its reasoning under every name it goes by."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[key] for key in _REASONING if key in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _name_of(path: str) -> str:
    name = path.rpartition("/")[2].removesuffix(".jinja")
    return DEFAULT if name == "chat_template" else name


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _words(err: Exception) -> str:
    return str(err)[:300] or type(err).__name__
