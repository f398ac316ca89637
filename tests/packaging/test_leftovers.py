"""What counts as left behind by an installation: of users and groups, and of what systemd's folder holds."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tests/systemd"))

from leftovers import command, left_of_accounts

RELEASE = (REPO / "tests/debian/release.sh").read_text()
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


def below(listed):
    """What of a list of files is a maintainer script's or systemd's state."""
    return {each.removeprefix("./") for each in listed.splitlines() if "var/lib/systemd/" in each}


def lists_of_files(root):
    """What each of the two checks would list in a root: of a machine that runs, and of one that is only unpacked."""
    (script,) = re.findall(r"files\.sh\" <<'INSIDE'\n(.*?)^INSIDE$", RELEASE, re.MULTILINE | re.DOTALL)
    for line in (command(str(root)), script.replace("cd /", f"cd {root}", 1)):
        yield subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout


def test_what_maintainer_scripts_note_of_units_counts_as_left(tmp_path):
    """systemd's folder holds its own state as well, which changes while it runs."""
    state = tmp_path / "var/lib/systemd"
    ours = {"deb-systemd-helper-enabled/hobbit.service.dsh-also", "deb-systemd-helper-masked/hobbit.service"}
    for name in (*ours, "timers/stamp-x.timer", "random-seed", "catalog/database"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).touch()
    for name in ("etc", "opt", "usr"):
        (tmp_path / name).mkdir()
    folders = {name.partition("/")[0] for name in ours}
    for listed in lists_of_files(tmp_path):
        assert below(listed) == {f"var/lib/systemd/{name}" for name in ours | folders}
