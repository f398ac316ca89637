"""One meaning a word, in names: a word of CONTRIBUTING's table is used where that meaning is at home, others nowhere."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO

FOLDERS = ("edge_runtime", "export", "profiles", "tools", "benchmarks", "tests")
NATIVE = {".cpp", ".hpp", ".cu", ".cuh"}
HOMES = {
    "plan": (
        *("edge_runtime/config/*", "edge_runtime/engine/*", "edge_runtime/service/ops/*"),
        *("edge_runtime/cli/plan.py", "edge_runtime/cli/simulate.py", "edge_runtime/cli/verify.py"),
        *("edge_runtime/cli/bench_run.py", "edge_runtime/cli/tune.py"),
        *("edge_runtime/lab/*plan*.py", "edge_runtime/lab/doctor/trial.py", "edge_runtime/lab/bench/session.py"),
        # a probe's and a tuning's subject is a model whose memory was planned, and which nothing has loaded
        *("edge_runtime/lab/probes/*", "edge_runtime/lab/tune/child.py", "edge_runtime/lab/tune/session.py"),
        *("edge_runtime/lab/tune/surroundings.py", "edge_runtime/lab/tune/resident_tokens.py"),
        "edge_runtime/backends/cpu/*memory.py",
        *("edge_runtime/backends/cpu/backend.py", "export/hobbit_export/fit.py", "tools/*_table.py", "benchmarks/*"),
        # TensorRT's own word for an engine as it is stored
        *("edge_runtime/backends/cuda/tensorrt/*", "edge_runtime/backends/cuda/backend.py"),
        *("tests/integration/*", "tests/late_backend/*", "tests/cuda/*", "tests/hostile/test_service_resources.py"),
        *("tests/unit/test_memory.py", "tests/unit/test_board_table.py", "tests/unit/test_hardware_table.py"),
        *("tests/fuzz/tries.py", "tests/manifests.py", "tests/reload_cases.py"),
        *("tests/elastic_speaker.py", "tests/service_figures.py", "tests/contract/test_backends.py"),
    ),
    "turn": (
        *("edge_runtime/cli/chat/*", "edge_runtime/lab/simulator/route_trace.py", "tests/unit/test_chat.py"),
        # in `policy_turns` policies take turns: an exception, since results are published under its name
        *("benchmarks/*turns*.py", "tests/unit/test_bench_turns.py", "tests/integration/test_turns.py"),
        *("tests/unit/test_published_templates.py", "tests/fuzz/inputs.py"),
    ),
    "piece": (
        *("edge_runtime/bundle/tokenizer_file.py", "edge_runtime/lab/tasks.py"),
        *("edge_runtime/service/openai/grammar.py", "export/hobbit_export/gguf/tokenizer/*"),
        *("tests/unit/test_detokenizer.py", "tests/unit/test_gguf_tokenizer.py", "tests/unit/test_tasks.py"),
        *("tests/integration/test_prompt_logprobs.py", "tests/hostile/test_tokenizer_file.py"),
    ),
    "moe": (
        *("export/hobbit_export/arch/*", "benchmarks/*", "tests/families/*", "tests/toy_in_transformers.py"),
        *("tests/gguf_routed.py", "tests/hostile/test_export_memory.py", "tests/hostile/test_gguf_file.py"),
        *("tests/unit/test_formats.py", "tests/unit/test_rope.py", "tests/unit/test_compare_peers.py"),
    ),
    "chunk": (
        *("edge_runtime/engine/*", "edge_runtime/config/*", "edge_runtime/experts/borrowed_scratch.py"),
        *("edge_runtime/backends/*.py", "edge_runtime/backends/cpu/trunk/*", "edge_runtime/backends/cpu/backend.py"),
        *("edge_runtime/backends/cuda/*", "edge_runtime/lab/harness/batch.py", "edge_runtime/lab/probes/*"),
        *("edge_runtime/lab/simulator/*", "edge_runtime/lab/tune/replays.py", "edge_runtime/lab/tune/child.py"),
        "edge_runtime/lab/tune/surroundings.py",
        *("edge_runtime/cli/calibrate.py", "edge_runtime/cli/eval.py", "export/hobbit_export/quality.py"),
        *("export/hobbit_export/reference.py", "export/hobbit_export/statistics/*", "benchmarks/*"),
        *("tests/integration/*", "tests/late_backend/*", "tests/cuda/*", "tests/state_dict_weights.py"),
        *("tests/native_trunk_cases.py", "tests/arm/check_dense.cpp", "tests/families/granitemoehybrid.py"),
        *("tests/unit/test_memory.py", "tests/unit/test_kv_cache.py", "tests/unit/test_borrowed_scratch.py"),
        "tests/contract/test_backends.py",
    ),
    **dict.fromkeys(("settle", "foresee", "worth", "rent", "loan", "tidy", "forgo"), ()),
}
PUBLIC = {"Chunk", "read_chunk", "read_chunks"}
"""Names users know, in which a chunk is something else."""
_FORMS = """
plan plans planned planning planner | turn turns | piece pieces | moe | chunk chunks | worth | rent rents | loan loans
settle settles settled settling unsettled | foresee foresees foreseen | tidy tidies tidied | forgo forgoes forgoing
"""
FORMS = {form: forms.split()[0] for forms in re.split(r"[|\n]", _FORMS) for form in forms.split()}
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def split(name: str) -> list[str]:
    """The words of a name, without `worth` where it is no noun: `worth_a_look` is plain English."""
    words = [word.lower() for word in _WORD.findall(name)]
    return [word for word in words[:-1] if word != "worth"] + words[-1:]


def misused(path: str, names: set[str]) -> list[str]:
    """The names with a word that does not belong in a file. A test's name is a sentence: it may take things in turn."""
    found = []
    for name in sorted(names - PUBLIC):
        words = {FORMS[word] for word in split(name) if word in FORMS}
        words = {word for word in words if not (name.startswith("test_") and HOMES[word])}
        found += [f"{path}: {name}" for word in words if not any(fnmatch(path, home) for home in HOMES[word])]
    return found


def names_in(path: Path) -> set[str]:
    """Every name a file of code has, its own included."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return {path.stem, *re.findall(r"[A-Za-z_]\w*", _NO_CODE.sub("", text))}
    keys = ("name", "id", "attr", "arg", "asname")
    found = (getattr(node, key, None) for node in ast.walk(ast.parse(text)) for key in keys)
    return {path.stem, *(name for name in found if isinstance(name, str) and "." not in name)}


@cache
def names_of_files() -> dict[str, set[str]]:
    """The names in every file of code, by its path."""
    paths = (path for folder in FOLDERS for path in sorted((REPO / folder).rglob("*")))
    return {path.relative_to(REPO).as_posix(): names_in(path) for path in paths if path.suffix in {".py", *NATIVE}}


def test_a_word_is_used_where_its_meaning_is_at_home():
    assert {Path(path).suffix for path in names_of_files()} == {".py", *NATIVE}
    found = [line for path, names in names_of_files().items() for line in misused(path, names)]
    assert not found, "one meaning a word (CONTRIBUTING.md): rename\n" + "\n".join(found)


def test_no_home_is_empty():
    """A file that lost its use of a word loses the permission."""
    words = {
        path: {FORMS.get(word) for name in names for word in split(name)} for path, names in names_of_files().items()
    }
    for word, homes in HOMES.items():
        for home in homes:
            assert any(word in found for path, found in words.items() if fnmatch(path, home)), (word, home)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("edge_runtime/policy/src/one_token.hpp", "TokenPlan"),
        ("edge_runtime/experts/src/x.cpp", "kEvictionPlan"),
        ("edge_runtime/config/environment.py", "settle"),
        ("edge_runtime/transfer/ranges.py", "_PIECE_BYTES"),
        ("edge_runtime/cli/run.py", "chunk"),
        ("edge_runtime/backends/cpu/trunk/src/trunk.cpp", "moe"),
        ("edge_runtime/lab/bringup/turns.py", "turns"),
        ("edge_runtime/engine/speculation/judge.py", "_worth"),
        ("tests/patience.py", "_turns"),
        ("tests/unit/test_cache.py", "plan"),
        ("tests/unit/test_recorded_routing.py", "test_reading_ahead_pays_where_it_foresees"),
    ],
)
def test_a_second_meaning_is_found(path, name):
    assert misused(path, {name}) == [f"{path}: {name}"]


def test_a_tests_name_is_a_sentence():
    assert misused("tests/unit/test_guest_shares.py", {"test_shares_are_run_in_turn"}) == []


def test_the_table_names_every_limited_word():
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Words") : text.index("## How to add")]
    rows = "\n".join(re.findall(r"(?m)^\| ([^|]+) \|", table))
    limited = {word for word, homes in HOMES.items() if homes} - {"moe"}
    assert limited == {word for word in limited if re.search(rf"\b{word}\b", rows)}
    unused = re.search(r"Words not used in names: ([^.]+)\.", table.replace("\n", " "))
    assert unused is not None
    assert set(re.findall(r"\*(\w+)\*", unused[1])) == {word for word in HOMES if word not in limited}
