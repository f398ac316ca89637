"""One thought a sentence: none of a document's own has more than 40 words."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import REPO

FOLDERS = ("docs", "deploy", "examples", "profiles", "tests")
HISTORY = ("CHANGELOG.md", "docs/adr/")
"""Written once, and not edited afterwards."""
FOUND = [*REPO.glob("*.md"), *(page for folder in FOLDERS for page in (REPO / folder).rglob("*.md"))]
PAGES = [page for path in sorted(FOUND) if not (page := path.relative_to(REPO).as_posix()).startswith(HISTORY)]
MOST_WORDS = 40
_NO_PROSE = re.compile(
    r"^( *)```.*?^\1```$|<!-- ([^:>\n]+): written by .*?<!-- end of \2 -->|<!--.*?-->|^ *\|[^\n]*|^#[^\n]*",
    re.MULTILINE | re.DOTALL,
)
"""Code, what tools write, comments, tables, headings."""
_PARAGRAPH = re.compile(r"\n[ >]*\n|\n(?= *(?:[-*]|\d+\.) )")


def sentences(text: str) -> Iterator[str]:
    """Yield a page's sentences: a span of code is one word, the address of a link none."""
    for paragraph in _PARAGRAPH.split(_NO_PROSE.sub("\n", text)):
        plain = re.sub(r"`[^`]*`", "code", re.sub(r"\]\([^)]*\)", "]", paragraph))
        yield from (" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])[\"')*]*\s", plain))


def long_ones(text: str) -> list[str]:
    return [each for each in sentences(text) if len(re.findall(r"\S*\w\S*", each)) > MOST_WORDS]


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_is_long(page):
    assert long_ones((REPO / page).read_text(encoding="utf-8")) == []


SENTENCE = MOST_WORDS * "word " + "word."


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        f"Short. {SENTENCE} Short.",
        f"# Title\n\n- one\n- {SENTENCE.replace(' ', chr(10) + '  ')}\n- two",
        f"<!-- a: written by tools/a.py -->\n\n<!-- end of a -->\n{SENTENCE}",
        SENTENCE.replace("word ", "`a b` ", 3).replace("word ", "[word](https://a/b c) ", 3),
    ],
)
def test_a_long_sentence_is_found(text):
    assert len(long_ones(text)) == 1
    assert long_ones(text.replace("word", "", 1)) == []


@pytest.mark.parametrize("text", ["```\n{}\n```", "| {} |", "<!-- a: written by tools/a.py -->\n{}\n<!-- end of a -->"])
def test_what_is_no_prose_may_be_long(text):
    assert long_ones(text.format(SENTENCE)) == []
