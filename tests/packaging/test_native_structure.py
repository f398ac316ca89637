"""The shape of native code: functions are short in every file, macros too, and emulation builds every source."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO

FOLDERS = ("edge_runtime", "export", "tests", "tools", "benchmarks")
NATIVE = {".c", ".cpp", ".hpp", ".cu", ".cuh"}
MOST_LINES = 60
_TEXT = r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])'"
_DIRECTIVE = r"(?m:^[ \t]*#(?:\\\n|[^\n])*)"
_SCOPE = re.compile(r"\b(?:namespace|class|struct|union|enum|extern)\b")
_BODY = re.compile(r"\)\s*(?:(?:const|noexcept|override|final|mutable|&+|->[^=]*)\s*)*$")
_MEMBERS = re.compile(r"\)\s*(?:noexcept\s*)?:(?!:)")
"""Behind a constructor's arguments."""


def blanked(source: str, what: str) -> str:
    """A source with what matches as blanks, on as many lines."""
    return re.sub(what, lambda found: re.sub(r"[^\n]", " ", found[0]), source, flags=re.DOTALL)


def kind_of(head: str) -> str:
    """What a brace opens by what is before it: a scope, a function's body, a value inside its head, or a value."""
    head = head.rstrip()
    if head.count("(") > head.count(")") or (_MEMBERS.search(head) and re.search(r"[\w>]$", head)):
        return "inside"
    if _BODY.search(head) or _MEMBERS.search(head):
        return "body"
    return "scope" if _SCOPE.search(head) and not head.endswith("=") else "value"


def start_of(text: str, head: int, brace: int) -> int:
    """Where a function begins: behind the last empty line before its brace, or behind `public:`."""
    before = re.match(r"(?:.*\n[ \t]*\n)?(?:\s*(?:public|protected|private)\s*:)?\s*", text[head:brace], re.DOTALL)
    return head + (before.end() if before else 0)


def functions(source: str) -> Iterator[tuple[int, int]]:
    """Line and number of lines of every function, from its return type or `template` to its last brace."""
    text = blanked(blanked(source, _TEXT), _DIRECTIVE)
    opened: list[str] = []
    head = begin = 0
    for found in re.finditer(r"[{};]", text):
        kind = "" if not opened or opened[-1] == "scope" else "deeper"
        if found[0] == "{":
            kind = kind or kind_of(text[head : found.start()])
            opened.append(kind)
            begin = start_of(text, head, found.start()) if kind == "body" else begin
            head = found.end() if kind == "scope" else head
            continue
        if found[0] == "}":
            kind = opened.pop()
            if kind == "body":
                yield text.count("\n", 0, begin) + 1, text.count("\n", begin, found.end()) + 1
        head = head if kind in ("deeper", "inside") else found.end()
    assert not opened, "a brace that does not close"


def macros(source: str) -> Iterator[tuple[int, int]]:
    """Line and number of lines of every directive."""
    text = blanked(source, _TEXT)
    for found in re.finditer(_DIRECTIVE, text):
        yield text.count("\n", 0, found.start()) + 1, found[0].count("\n") + 1


@cache
def sources() -> dict[str, str]:
    """Every native file by its path in the repository."""
    paths = (path for folder in FOLDERS for path in sorted((REPO / folder).rglob("*")) if path.suffix in NATIVE)
    return {path.relative_to(REPO).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def long_ones(source: str) -> list[tuple[int, int]]:
    return [each for each in (*functions(source), *macros(source)) if each[1] > MOST_LINES]


def test_native_functions_are_short():
    assert {Path(path).suffix for path in sources()} == NATIVE
    assert {path: found for path, source in sources().items() if (found := long_ones(source))} == {}
    every = [lines for source in sources().values() for _, lines in functions(source)]
    assert statistics.median(every) <= 5


@pytest.mark.parametrize("path", sources())
def test_a_long_function_is_found_behind_everything_a_file_has(path):
    """The search lost no brace on its way there."""
    source = sources()[path].rstrip()
    planted = "\n\nint planted() {" + (MOST_LINES - 1) * "\n" + "}\n"
    assert long_ones(source + planted) == []
    planted = planted.replace("{", "{\n")
    assert long_ones(source + planted) == [(source.count("\n") + 3, MOST_LINES + 1)]


@pytest.mark.parametrize(
    ("before", "head"),
    [
        ("", "void f() {"),
        ("MACRO(x)\n\n", "template <class T>\nstatic auto f(T x) noexcept -> std::vector<T> {"),
        ("using std::move;\n", "NB_MODULE(_native, m) {"),
        ('extern "C" {\nnamespace {\n', "int f(std::vector<int> x = {}) {"),
        ("class A final : public B<int()> {\n public:\n", "  bool operator()(int) const override {"),
        ("struct A {\n  int b = 1, c{2};\n", "  A(int x) : b{x}, c(x) {"),
        ("int table[] = {1, 2};\n", "A::A(int x)\n    : B(x) {"),
        ("struct alignas(16) A { int b; };\n", "const auto f = [](char c) {"),
        ("/* { */ // {\n", 'int f(char c = \'{\', const char* s = "{\\"", const char* r = R"({)") {'),
    ],
)
def test_every_kind_of_function_is_found(before, head):
    body = MOST_LINES * "  if (x) { y = {1}; }\n"
    scopes = len(re.findall(r"\{\n", before)) - before.startswith("/")
    source = before + head + "\n" + body + "}" + scopes * "}"
    assert long_ones(source) == [(before.count("\n") + 1, head.count("\n") + MOST_LINES + 2)]


@pytest.mark.parametrize("opening", ["const int table[] = {", "enum class A : int {", "struct alignas(16) A {"])
def test_what_is_no_function_may_be_long(opening):
    assert long_ones(opening + MOST_LINES * "\n" + "};") == []


def test_a_long_macro_is_found():
    assert long_ones("#define F(x) \\\n" + MOST_LINES * "  f(x); \\\n" + "\n") == [(1, MOST_LINES + 2)]


def test_emulated_arm64_builds_every_native_source():
    """But what binds to Python or is of x86 alone, and forecasts of uses, which nothing checks there."""
    script = (REPO / "tests/arm/run.sh").read_text()
    folders = ("experts/drive", "experts", "policy", "backends/cpu/kernels", "backends/cpu/trunk")
    names = [path.stem for folder in folders for path in (REPO / "edge_runtime" / folder / "src").glob("*.cpp")]
    left_out = re.compile(r"bindings|_avx|use_forecast")
    assert [name for name in names if not left_out.search(name) and not re.search(rf"\b{name}\b", script)] == []
