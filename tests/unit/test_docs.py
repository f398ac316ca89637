"""Pages of documentation: the form of ADRs and their index."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
