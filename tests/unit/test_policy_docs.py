"""docs/policies.md lists every policy, rule and parameter there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edge_runtime.policy import POLICIES

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_code():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "policy_table.py"), "--check"], check=False)
    assert done.returncode == 0, "run python tools/policy_table.py"


def test_every_policy_has_its_line():
    page = (ROOT / "docs" / "policies.md").read_text()
    assert [name for name in POLICIES if f"| `{name}` |" not in page and f"`{name}`" not in page] == []


def test_every_parameter_says_where_it_comes_from():
    for entry in POLICIES.values():
        assert all(param.doc and param.source for param in entry.params.values())
