"""What counts as left behind by an installation, of users and groups."""

from __future__ import annotations

import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tests/systemd"))

from leftovers import left_of_accounts

BEFORE = {"root:x:0:0:root:/root:/bin/bash", "root:x:0:", "video:x:44:"}
RENDER = "render:x:104:"


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (BEFORE, BEFORE, set()),
        (BEFORE, BEFORE | {RENDER}, set()),
        (BEFORE, BEFORE | {"hobbit:x:997:"}, {"hobbit:x:997:"}),
        (BEFORE, BEFORE | {"kvm:x:105:"}, {"kvm:x:105:"}),
        (BEFORE, BEFORE | {"render:x:104:hobbit"}, {"render:x:104:hobbit"}),
        (BEFORE, BEFORE - {"video:x:44:"} | {"video:x:44:hobbit"}, {"video:x:44:", "video:x:44:hobbit"}),
        (BEFORE | {RENDER}, BEFORE, {RENDER}),
    ],
    ids=[
        "nothing",
        "render",
        "our-group",
        "another-group",
        "a-member",
        "a-member-of-one-there-was",
        "one-that-is-gone",
    ],
)
def test_only_a_group_render_that_nobody_is_in_may_stay(before, after, left):
    assert left_of_accounts(before, after) == left
