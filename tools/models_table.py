"""Does it run my model: the tables of docs/models.md, from test results, published configurations and board profiles.

    python tools/models_table.py            writes the page's tables
    python tools/models_table.py --check    exits with 1 if they are out of date

What a family is follows from its adapter and from configurations and chat templates of published models
(tests/published_configs). The largest difference to transformers, and the policies that ran and were replayed exactly,
are those of a run of the tests, kept in benchmarks/results/families.jsonl:

    python -m pytest --family-results benchmarks/results/families.jsonl \
        tests/integration/test_against_transformers.py tests/integration/test_every_family.py

Sizes and boards are the arithmetic of tools/board_table.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import marked_page
from board_table import SEGMENTS, boards, estimate, trunk_bytes, trunk_shapes

from edge_runtime.base.sizes import format_size
from edge_runtime.base.spec import LayerSpec, ModelSpec, SoftmaxAttention, mixer_kind, state_of
from edge_runtime.bundle.record import record_layout
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.service.openai.call_formats import format_of
from edge_runtime.service.openai.harmony import is_harmony
from edge_runtime.service.openai.thinking import thinking_of
from hobbit_export.arch import ADAPTERS, read_model
from hobbit_export.gguf.families import FAMILIES as GGUF
from hobbit_export.shards import read_json

ROOT = Path(__file__).parents[1]
PAGE, CONFIGS = ROOT / "docs/models.md", ROOT / "tests/published_configs"
RESULTS = ROOT / "benchmarks/results/families.jsonl"
TIERS = (2, 4, 6, 8)
TIER = 4
"""Of the boards' columns."""
CALLS = {
    "hermes": "Hermes", "qwen_xml": "Qwen's XML", "glm": "GLM", "deepseek": "DeepSeek", "nemotron": "Nemotron",
    "gemma": "Gemma", "lfm2": "LFM2", "minimax": "MiniMax",
}  # fmt: skip
"""Module of a format of tool calls -> its name in docs/http-api.md."""
_MIXERS = {
    "latent": "latent (MLA)", "gated_delta": "Gated DeltaNet", "kimi_delta": "Kimi Delta", "mamba2": "Mamba-2",
    "convolution": "short convolution",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: without its publisher's.
        family: its model_type.
        spec: its shape.
    """

    name: str
    family: str
    spec: ModelSpec


def published() -> list[Model]:
    """Return the models whose configurations are here and can be exported, by family and size."""
    found = []
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        config = read_json(folder / "config.json")
        if config["model_type"] not in ADAPTERS:
            continue  # not supported yet; tests/integration/test_published_configs.py holds it to that
        config.pop("quantization_config", None)  # how weights are stored is read elsewhere
        spec = read_model(config, {})[0]
        found.append(Model(folder.name, str(config["model_type"]), spec))
    return sorted(found, key=lambda model: (model.family, expert_bytes(model.spec, TIER)))


def results() -> dict[str, list[float]]:
    """Return the largest differences of each family's cases; the last result of a case counts."""
    by_case = {line["case"]: (line["family"], float(line["difference"])) for line in _lines() if "case" in line}
    return {family: [d for f, d in by_case.values() if f == family] for family, _ in by_case.values()}


def policies() -> dict[str, list[str]]:
    """Return the policies that ran with each family, by its last result."""
    return {line["family"]: line["policies"] for line in _lines() if "policies" in line}


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def chat_of(model: str) -> tuple[str, str] | None:
    """Return how a published model writes tool calls and what opens its thinking: "-" where it does not.

    It is what the service finds in its chat template; None: the template is not here.
    """
    path = CONFIGS / model / "chat_template.jinja"
    if not path.exists():
        return None
    template = path.read_text(encoding="utf-8")
    if is_harmony(template):
        return "harmony", "harmony"
    calls, marks = format_of(template), thinking_of(template)
    tools = "-" if calls is None else CALLS[type(calls).__module__.rpartition(".")[2]]
    return tools, "-" if marks is None else marks.opens


def family_rows() -> Iterator[str]:
    """Yield a line for each family."""
    columns = (
        "family", "models", "attention", "kept of a text", "router", "formats", "tool calls", "thinking", "policies",
        "cases tested", "largest difference",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    models, measured, ran = published(), results(), policies()
    for family in sorted(ADAPTERS):
        own = [model for model in models if model.family == family]
        spec = own[0].spec if own else None
        tested = measured.get(family, [])
        cells = [
            f"`{family}`", ", ".join(model.name for model in own) or "-", *_shape(spec),
            _formats(family), *_chat(own), ", ".join(ran.get(family, [])) or "not measured",
            str(len(tested)), f"{max(tested):.1e}" if tested else "not measured",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _formats(family: str) -> str:
    names = [f"GGUF `{name}`" for name, found in GGUF.items() if family in (found.model_type, *found.also)]
    return ", ".join(["safetensors", *names])


def _chat(models: Sequence[Model]) -> tuple[str, str]:
    """What the models of a family have; a mark is shown as code, its bars escaped."""
    found = [chat for model in models if (chat := chat_of(model.name)) is not None]
    tools = ", ".join(dict.fromkeys(tools for tools, _ in found)) or "-"
    marks = dict.fromkeys(mark for _, mark in found)
    shown = [mark if mark in ("-", "harmony") else f"`{mark}`".replace("|", "\\|") for mark in marks]
    return tools, ", ".join(shown) or "-"


def _shape(spec: ModelSpec | None) -> list[str]:
    if spec is None:
        return ["-", "-", "-"]
    kinds = [_mixer(layer) for layer in spec.layers]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    names = dict.fromkeys(
        "keys and values" if array.name in ("k", "v") else f"{array.name} ({'grows' if array.grows else 'fixed'})"
        for layer in spec.layers
        for array in state_of(layer.attention, spec.hidden)
    )
    return [counts, ", ".join(names), _router(spec)]


def _mixer(layer: LayerSpec) -> str:
    attention = layer.attention
    if attention is None:
        return "without attention"
    if not isinstance(attention, SoftmaxAttention):
        return _MIXERS[mixer_kind(attention)]
    return f"sliding {attention.window}" if attention.window else "full"


def _router(spec: ModelSpec) -> str:
    router = spec.router
    words = [f"{router.score.replace('_', ' ')}, {router.top_k} of {router.num_experts}"]
    words += ["bias for the choice"] if router.selection_bias else []
    words += [f"{router.groups.chosen} of {router.groups.count} groups"] if router.groups else []
    words += ["shared network"] if any(layer.shared for layer in spec.layers) else []
    return ", ".join(words)


def model_rows() -> Iterator[str]:
    """Yield a line for each model: its sizes, and the smallest boards."""
    tiers = " | ".join(f"experts at {tier} bits" for tier in TIERS)
    yield f"| model | weights | trunk (int8) | {tiers} | runs on, at most tok/s | all experts held by |"
    yield "|---|---|---|" + "---|" * len(TIERS) + "---|---|"
    columns = boards()
    for model in published():
        sizes = [format_size(expert_bytes(model.spec, tier)) for tier in TIERS]
        cells = [model.name, _weights(model.spec), format_size(trunk_bytes(model.spec)), *sizes]
        yield f"| {' | '.join([*cells, *_boards(model.spec, columns)])} |"


def expert_bytes(spec: ModelSpec, tier: int) -> int:
    """Return what all experts take at a tier."""
    return len(spec.sparse_layers) * spec.num_experts * record_layout(spec, SEGMENTS).tier_bytes(tier)


def _weights(spec: ModelSpec) -> str:
    matrices = len(spec.experts.matrices) * spec.hidden * spec.experts.intermediate
    experts = len(spec.sparse_layers) * spec.num_experts * matrices
    trunk = sum(prod(shape) for shape in _trunk_shapes(spec))
    return f"{(experts + trunk) / 1e9:.1f} B"


def _trunk_shapes(spec: ModelSpec) -> list[tuple[int, ...]]:
    embedding = [] if spec.tied_embeddings else [(spec.vocab_size, spec.hidden)]
    return [*trunk_shapes(spec), *embedding]


def _boards(spec: ModelSpec, columns: Sequence[DeviceProfile]) -> tuple[str, str]:
    runs, holds = "none of these", "none of these"
    for profile in reversed(columns):  # the smallest comes last
        found = estimate(spec, profile, TIER)
        if found is None:
            continue
        rate = found.speed.tok_s
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
        runs = f"{profile.name}, {speed}"
        holds = profile.name if found.plan.cache_share >= 1 else holds
    return runs, holds


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    args = parser.parse_args(argv)
    tables = {"families": family_rows(), "models": model_rows()}
    return marked_page.write({PAGE: marked_page.put_all(PAGE, "models_table", tables)}, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
