"""Write the parameter tables of docs/policies.md from the registries: `python tools/policy_table.py [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import marked_page

from edge_runtime.base.params import Param
from edge_runtime.experts.eviction import RULES
from edge_runtime.policy import POLICIES
from edge_runtime.prefetch import PREDICTORS

PAGE = Path(__file__).parents[1] / "docs" / "policies.md"


def rows(groups: Iterable[tuple[str, Mapping[str, Param]]]) -> list[str]:
    """One line of the table for each parameter."""
    return [
        f"| `{name}` | `{key}` | `{str(p.default).lower()}` | {_limits(p)} | {p.doc} | {p.source} |"
        for name, params in groups
        for key, p in params.items()
    ]


def tables() -> str:
    """All three tables."""
    head = ["| name | parameter | default | range | what it does | source |", "|---|---|---|---|---|---|"]
    policies = sorted((name, entry.params) for name, entry in POLICIES.items())
    text = ["`--policy NAME:...`", "", *head, *rows(policies), ""]
    rules = [(name, rule.params) for name, rule in RULES.items()]
    text += ["`--eviction NAME:...` (`lru` and `lcu` take none)", "", *head, *rows(rules), ""]
    text += ["`--prefetch NAME:...`", "", *head, *rows((name, entry.params) for name, entry in PREDICTORS.items())]
    return "\n".join(text)


def _limits(p: Param) -> str:
    if p.low is None and p.high is None:
        return ""
    return f"{p.low:g} to {p.high:g}" if p.low is not None and p.high is not None else f"from {p.low:g}"


def main() -> int:
    """Write the page, or say whether it is up to date."""
    fresh = marked_page.put_all(PAGE, "policy_table", {"parameters": [tables()]})
    return marked_page.write({PAGE: fresh}, check="--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
