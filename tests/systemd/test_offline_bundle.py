"""The offline bundle on a real systemd without a network: docs/operations.md as written, and nothing is left afterwards."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from clean_root import clean_machine
from leftovers import accounts, files, left_of_accounts
from offline_bundle import newest_bundle

BLOCKS = re.findall(r"^```sh bundle\n(.*?)^```$", (REPO / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
PRELUDE = "export HOME=/root PATH=/usr/bin:/usr/sbin:/bin:/sbin; set -euo pipefail; cd /srv/here\n"


def in_order(text: str, *parts: str) -> bool:
    """Whether each part is in the text, behind the one before it."""
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


@pytest.mark.slow
def test_the_page_as_written_then_nothing_left(model_bundle):
    found = newest_bundle("it was NOT installed")
    shown = [found.parent, model_bundle]
    with clean_machine("the offline bundle was NOT installed", offline=True, shown=shown) as machine:
        assert machine.shell("ip route") == ""
        assert machine.shell("type cc c++ gcc pip pip3 2>/dev/null", check=False) == ""
        machine.shell("mkdir -p /srv/here")
        before, who = files(machine), accounts(machine)
        machine.shell(
            f"cp {found} /srv/here; mkdir -p /var/lib/hobbit-edge; cp -r {model_bundle} /var/lib/hobbit-edge/bundle"
        )
        said = machine.run("bash", "-c", PRELUDE + "".join(BLOCKS)).stdout
        dry, _, wet = said.partition("dry run: nothing was changed")
        assert in_order(dry, "would run: systemctl restart hobbit.service", "would run: hobbit doctor")
        assert in_order(wet, "==> starting", "==> hobbit doctor", "==> done. Next"), (
            "the last step examines the machine"
        )
        assert re.search(r"\d+ checks", wet.partition("==> hobbit doctor")[2])
        assert "experts cached" in wet
        assert machine.shell("curl --fail --silent http://127.0.0.1:8080/health/ready") == '{"status":"ready"}'
        assert "hobbit-run.1" in machine.shell(
            "man --where hobbit-run || readlink /usr/local/share/man/man1/hobbit-run.1"
        )
        folder = machine.shell("echo -n /srv/here/hobbit-edge-*/")
        machine.run(f"{folder}deploy/uninstall.sh", "--purge")
        assert files(machine) - before == set()
        assert before - files(machine) == set()
        assert left_of_accounts(who, accounts(machine)) == set()
