"""Chat templates render as transformers renders them, in twenty styles that published models use."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.base.errors import ConfigError, RequestError
from edge_runtime.engine.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "examples" / "tiny-moe"
ASK = [{"role": "user", "content": 'Hi {there} <b>"é"</b>'}]
CHAT = [{"role": "system", "content": "Be brief."}, *ASK, {"role": "assistant", "content": "Yes"}, *ASK]
TOOL = {
    "type": "function",
    "function": {"name": "get", "description": "Gets <x>", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": {"x": [1, True, None]}}}
CALLING = [
    *ASK,
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"},
    {"role": "tool", "content": "4"},
]
DOCUMENTS = [{"title": "A", "text": "one"}, {"title": "B", "text": "two"}]
LOOP = "{% for m in messages %}"

# style: (template, messages, what else is given)
STYLES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "chatml": (
        LOOP + "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        CHAT, {},
    ),
    "blocks": (
        "{{ bos_token }}\n{%- for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content | tojson }}\n"
        "    {% else %}\nA: {{ m.content }}{{ eos_token }}\n    {% endif %}\n{%- endfor %}\n",
        CHAT, {},
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}[INST] {{ m['content'] }} [/INST]{% endfor %}",
        ASK, {},
    ),
    "namespace": (
        "{% set ns = namespace(last='', n=0) %}" + LOOP + "{% set ns.n = ns.n + 1 %}{% set ns.last = m.role %}{% endfor %}"
        "{{ ns.n }}{{ ns.last }}",
        CHAT, {},
    ),
    "date": ("{{ strftime_now('%Y-%m') }}{{ messages[0].content }}", ASK, {}),
    "date-if-there": ("{% if strftime_now is defined %}{{ strftime_now('%B %Y') }}{% endif %}", ASK, {}),
    "generation": (
        LOOP + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}",
        CHAT, {},
    ),
    "loop-controls": (
        LOOP + "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}", CHAT, {}
    ),
    "tojson-indent": ("{{ tools | tojson(indent=4) }}", ASK, {"tools": [TOOL]}),
    "tojson-separators": ("{{ tools[0] | tojson(separators=(',', ':'), sort_keys=True) }}", ASK, {"tools": [TOOL]}),
    "tojson-ascii": ("{{ messages | tojson(ensure_ascii=True) }}", ASK, {}),
    "hermes": (
        "{%- if tools %}\n{%- for t in tools %}\n{{- t | tojson }}\n{%- endfor %}\n{%- endif %}" + LOOP +
        "{%- for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
        "{{ m.content }}{% endfor %}",
        CALLING, {"tools": [TOOL]},
    ),
    "no-tools": ("{{ tools is none }}{{ documents is none }}{% if tools %}T{% endif %}", ASK, {}),
    "documents": (
        "{% if documents %}{% for d in documents %}{{ d['title'] }}: {{ d.text }}\n{% endfor %}{% endif %}",
        ASK, {"documents": DOCUMENTS},
    ),
    "undefined-tokens": ("{{ cls_token is defined }}{{ sep_token is defined }}[{{ cls_token }}]", ASK, {}),
    "named-tokens": ("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}", ASK, {}),
    "thinking": (
        LOOP + "{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{% if m.thinking %}{{ m.thinking }}{% endif %}{% endfor %}{% if enable_thinking is false %}<think>\n\n</think>{% endif %}",
        CALLING, {"enable_thinking": False},
    ),
    "macros": (
        "{%- macro show(v, k=none) -%}{% if v is mapping %}{% for a, b in v.items() %}{{ a }}={{ show(b) }};{% endfor %}"
        "{% elif v is iterable and v is not string %}[{{ v | join(',') }}]{% else %}{{ v }}{% endif %}{%- endmacro %}"
        + LOOP + "{{ show(m) }}{% endfor %}",
        CALLING, {},
    ),
    "strings": (
        LOOP + "{{ m.role.upper() | trim }}{{ (m.content or '').split(' ')[-1].strip() }}{{ m.content | string | length }}"
        "{{ '%s!' | format(m.role) }}{{ m.role ~ loop.index }}{% endfor %}",
        CALLING, {},
    ),
    "filters": (
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages[::-1][0].role }}"
        "{{ (messages | map(attribute='role') | list)[:2] | join('/') }}{{ dict(a=1) | items | list }}",
        CHAT, {},
    ),
}  # fmt: skip


def folder_with(tmp_path: Path, config: dict[str, Any] | None = None, **files: str) -> Path:
    """The example's tokenizer with other templates and tokens."""
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    base = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(base | (config or {})))
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path = path.with_suffix(".json" if name.endswith("_map") else ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def expected_text(folder: Path, messages: list[dict[str, Any]], **more: Any) -> str:
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **more
    )
    assert isinstance(text, str)
    return text


@pytest.mark.oracle
@pytest.mark.parametrize("style", STYLES)
def test_renders_as_transformers_does(tmp_path: Path, style: str) -> None:
    template, messages, more = STYLES[style]
    folder = folder_with(
        tmp_path, {"pad_token": "<p>", "extra_special_tokens": {"image_token": "<i>"}}, chat_template=template
    )
    assert Tokenizer.from_folder(folder).apply_chat_template(messages, **more) == expected_text(
        folder, messages, **more
    )


PLAIN, TOOLS = "plain {{ messages[0].content }}", "tools {{ tools | length }}"


@pytest.mark.oracle
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({"chat_template": [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}]}, {}),
        ({}, {"chat_template": PLAIN, "additional_chat_templates__tool_use": TOOLS}),
        ({}, {"chat_template": PLAIN, "additional_chat_templates__rag": TOOLS}),
        ({"chat_template": "old"}, {"chat_template": PLAIN}),
        (
            {"chat_template": "{{ sep_token }}|{{ bos_token }}"},
            {"special_tokens_map": '{"sep_token": "S", "bos_token": "B"}'},
        ),
    ],
    ids=["list", "files", "another", "file-first", "map"],
)
def test_the_template_transformers_would_choose(
    tmp_path: Path, config: dict[str, Any], files: dict[str, str], tools: Any
) -> None:
    folder = folder_with(tmp_path, config, **files)
    assert Tokenizer.from_folder(folder).apply_chat_template(ASK, tools=tools) == expected_text(
        folder, ASK, tools=tools
    )


def test_several_templates_without_a_default_are_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"chat_template": [{"name": "rag", "template": "x"}]})
    with pytest.raises(ConfigError, match="has rag"):
        Tokenizer.from_folder(folder).apply_chat_template(ASK)


def test_a_refusal_has_the_templates_own_message(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path, chat_template="{{ raise_exception('Only user and assistant roles are supported!') }}"
    )
    with pytest.raises(RequestError, match=r"Only user and assistant roles are supported!"):
        Tokenizer.from_folder(folder).apply_chat_template(ASK)


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ messages.nothing() }}", "{{ messages[0].content + 1 }}", "{{ ('a' * 3).foo.bar }}", "{% for"],
)
def test_faults_of_a_template_are_named_errors(tmp_path: Path, template: str) -> None:
    folder = folder_with(tmp_path, chat_template=template)
    with pytest.raises(RequestError, match="chat template"):
        Tokenizer.from_folder(folder).apply_chat_template(ASK)


def test_the_date_is_today(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, chat_template="{{ strftime_now('%Y') }}")
    assert Tokenizer.from_folder(folder).apply_chat_template(ASK) in {
        str(datetime.now().year),
        str(datetime.now().year - 1),
    }


BOMBS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "multiplied text": "{{ 'a' * 10**9 }}",
    "multiplied list": "{{ ([0] * 10**9) | length }}",
    "doubling": "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
    "power": "{{ (9 ** 999999999) % 7 }}",
    "wide format": "{{ '%03000000000d' % 1 }}",
    "centred": "{{ 'a' | center(3000000000) }}",
    "wrapped": "{{ ('a' * 10000000) | wordwrap(1) | length }}",
    "recursive macro": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "self call": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_without_end_is_refused_and_the_next_one_renders(tmp_path: Path, name: str) -> None:
    folder = folder_with(
        tmp_path,
        {"chat_template": [{"name": "tool_use", "template": BOMBS[name]}, {"name": "default", "template": "fine"}]},
    )
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(RequestError, match="chat template"):
        tokenizer.apply_chat_template(ASK, tools=[TOOL])
    assert tokenizer.apply_chat_template(ASK) == "fine"
