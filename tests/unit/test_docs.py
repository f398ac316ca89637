"""Pages of documentation: the form of ADRs and their index."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.__main__ import main as hobbit
from hobbit_export.cli import main as hobbit_export

adr_index = importlib.import_module("adr_index")

ROOT = Path(__file__).parents[2]
ADRS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Consequences", "What would reverse it"]
OPTIONAL = {"Measured", "Alternatives considered"}
STATUS = re.compile(r"accepted|(superseded|superseded in part) by \[ADR \d+\]\(\S+\.md\)(, \[ADR \d+\]\(\S+\.md\))*")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_an_adr_has_title_status_date_and_its_sections_in_order(path):
    text = path.read_text(encoding="utf-8")
    title = re.match(r"# (\d+)\. \S.*\n\n- \*\*Status:\*\* (.+)\n- \*\*Date:\*\* 20\d\d-\d\d-\d\d", text)
    assert title, "expected '# N. Title', a blank line, '- **Status:** ...', '- **Date:** YYYY-MM-DD'"
    assert int(title[1]) == int(path.name[:4])
    assert STATUS.fullmatch(title[2]), f"status: {title[2]!r}"
    found = headings(text)
    assert [name for name in found if name not in OPTIONAL] == SECTIONS
    assert found[0] == SECTIONS[0]
    assert found[-1] == SECTIONS[-1]


def test_the_index_of_adrs_is_up_to_date():
    done = subprocess.run([sys.executable, str(ROOT / "tools/adr_index.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/adr_index.py"


def test_the_hours_of_an_export_follow_from_its_sizes_and_rates():
    done = subprocess.run([sys.executable, str(ROOT / "tools/export_cost.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/export_cost.py"


@pytest.fixture
def three_pages(tmp_path):
    """Two decisions of one day and one of the next."""
    for number, day in ((1, 28), (2, 28), (4, 29)):
        text = f"# {number}. T\n\n- **Status:** accepted\n- **Date:** 2026-11-{day}\n\n## Context\n\nSee [x](y.md).\n"
        (tmp_path / f"{number:04}-t.md").write_text(text)
    return tmp_path


def test_a_page_is_closed_by_one_of_a_later_day(three_pages):
    digests = adr_index.closed(adr_index.read_pages(three_pages), "")
    assert [line.split()[0] for line in digests.splitlines()] == ["0001-t.md", "0002-t.md"]
    assert adr_index.changed(adr_index.read_pages(three_pages), digests) == []
    assert adr_index.numbers({1, 2, 4, 7, 8}) == ["The last number is 8. Not used: 3, 5-6."]


@pytest.mark.parametrize(
    ("old", "new", "is_edit"),
    [
        ("See [x]", "Do not see [x]", True), ("# 2. T", "# 2. U", True), ("2026-11-28", "2026-11-29", True),
        ("](y.md)", "](z.md)", False), ("accepted", "superseded by [ADR 4](0004-t.md)", False),
    ],
)  # fmt: skip
def test_an_edit_of_a_closed_page_is_found(three_pages, old, new, is_edit):
    digests = adr_index.closed(adr_index.read_pages(three_pages), "")
    page = three_pages / "0002-t.md"
    page.write_text(page.read_text().replace(old, new))
    after = adr_index.read_pages(three_pages)
    assert adr_index.changed(after, digests) == (["0002-t.md"] if is_edit else [])
    assert adr_index.closed(after, digests) == digests, "what is written down stays"


PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "profiles/README.md", ROOT / "examples/tiny-moe/README.md"]
PAGES += sorted((ROOT / "deploy").glob("*.md"))
GUIDES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("adding-*.md"))]
WIDTH = 100
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of a page that are neither code nor a table."""
    found, in_code = [], False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.lstrip().startswith(("|", "<!--")) and not line.startswith("    "):
            found.append((number, line))
    return found


def links(path: Path) -> list[Path]:
    """Files of the repository a page links to; what a code block shows is no link."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in LINK.findall(text)]
    return [(path.parent / target).resolve() for target in targets if target and "://" not in target]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_of_prose_have_at_most_100_columns(path):
    wide = [f"{path.name}:{number}: {len(line)}" for number, line in prose(path) if len(LINK.sub("", line)) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    """Links to files of the repository; those to elsewhere are not followed."""
    assert [target.name for target in links(path) if not target.exists()] == []


def test_every_path_in_the_architecture_exists():
    """A newcomer finds the file in one hop only if it is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:edge_runtime|export|tests|tools|docs)/[^`*]*)`", text)
    assert len(paths) > 40
    assert [p for p in paths if not (ROOT / p).exists()] == []


FILE = re.compile(r"`([A-Za-z_][\w.-]*/[\w./-]*?(?:\.(?:py|pyi|md|cpp|hpp|cu|cuh|sh|toml|json|yaml|yml)|/))`")
WRITTEN_BY_THE_READER = re.compile(r"\b(twin_backend|thrifty|toy_moe)\b")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", *GUIDES])
def test_every_file_a_guide_names_exists(page):
    """Named from the root of the repository, as somebody who follows a guide looks for it."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    paths = [path for path in FILE.findall(text) if not WRITTEN_BY_THE_READER.search(path)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_is_reachable_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop().resolve()
        if path in seen or path.suffix != ".md" or not path.exists():
            continue
        seen.add(path)
        todo += links(path)
    assert [p.relative_to(ROOT).as_posix() for p in PAGES if p not in seen and p.name != "README.md"] == []


COMMANDS = re.compile(r"^\$ (hobbit|hobbit-export) (.*(?:\\\n.*)*)", re.MULTILINE)


def help_of(program: str, verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the help of `hobbit VERB` or of `hobbit-export`."""
    main, arguments = (hobbit, [verb, "--help"]) if program == "hobbit" else (hobbit_export, ["--help"])
    with contextlib.suppress(SystemExit):
        main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_have_only_flags_that_exist(path, capsys):
    unknown = []
    for program, rest in COMMANDS.findall(path.read_text(encoding="utf-8")):
        words = rest.replace("\\\n", " ").partition("#")[0].split()
        known = help_of(program, words[0], capsys)
        flags = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--help"]
        unknown += [f"{program} {words[0]} {flag}" for flag in flags if not re.search(rf"(?<!\S){flag}\b", known)]
    assert unknown == []


def test_make_targets_in_the_readme_exist():
    targets = re.findall(r"(?:\$ |or: |`)make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(targets)
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_every_test_that_the_page_of_faults_names_exists():
    text, named, path = (ROOT / "docs/robustness.md").read_text(encoding="utf-8"), 0, Path()
    for file in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / file).is_file(), file
    for file, function in re.findall(r"`([\w/]*\.py)?::(\w+)`", text):
        path = ROOT / "tests" / file if file else path
        assert f"def {function}(" in path.read_text(encoding="utf-8"), f"{path}::{function}"
        named += 1
    assert named > 100
