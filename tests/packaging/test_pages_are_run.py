"""docs/operations.md: every block, and every command its sentences name, is run as written by a test that is named here."""

from __future__ import annotations

import re

from conftest import REPO

PAGE = (REPO / "docs/operations.md").read_text()
BLOCKS = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = (
    r"hobbit|hobbit-export|systemctl|apt-get|dpkg|deploy/\w+\.sh|sudo|make|curl|journalctl|ssh|docker|dmesg|nvpmodel"
)
RUN_BY = {
    "sh": ("tests/systemd/test_operations.py", r"^```sh\n"),
    "sh bundle": ("tests/systemd/test_offline_bundle.py", r"^```sh bundle\n"),
    "sh deb": ("tests/systemd/test_debian_package.py", r"^```sh deb\n"),
    "console": ("tests/systemd/test_operations.py", r"^```console\n"),
    "sh hardware": (None, "only a board has these programs; the page says so"),
}
"""Kind of block to the test that runs those of its kind, and what it finds them by."""
NAMED = {
    "apt-get install": ("tests/systemd/test_debian_package.py", "as_written(machine, 0"),
    "apt-get install --allow-downgrades": ("tests/systemd/test_debian_package.py", '"--allow-downgrades"'),
    "apt-get purge": ("tests/systemd/test_debian_package.py", "as_written(machine, 2"),
    "apt-get remove": ("tests/systemd/test_debian_package.py", '"apt-get", "remove"'),
    "deploy/environment.sh DIR --no-compile": ("tests/installed/check.sh", "--no-compile"),
    "docker compose -f deploy/containers/compose.yaml --profile cpu down -v": (
        "tests/containers/compose.sh",
        'docker compose -f "$bundle/deploy/containers/compose.yaml" --profile cpu down -v >"$work/said"',
    ),
    "hobbit doctor": ("tests/systemd/test_operations.py", "doctor"),
    "hobbit plan": ("tests/systemd/test_operations.py", '"hobbit plan"'),
    "hobbit pull": ("tests/integration/test_pull.py", '"pull"'),
    "hobbit serve": ("tests/installed/inside.py", '"serve"'),
    "hobbit verify": ("tests/systemd/test_operations.py", '"hobbit verify"'),
    "make wheel": ("tests/systemd/test_readme.py", 'types("make wheel"'),
    "sudo -u hobbit ls FOLDER": ("tests/systemd/test_ten_things.py", '"-u", "hobbit", "--", "ls"'),
    "systemctl start": ("tests/systemd/test_ten_things.py", "systemctl start"),
}
"""Commands with a word behind the program, as sentences name them, to what runs them."""
NOT_RUN = {
    "docker compose -f deploy/containers/compose.yaml --profile cpu logs": "its line says so",
    "docker image rm hobbit-edge:cpu": "its line says so",
    "ssh -L 8080:127.0.0.1:8080 BOARD": "it is of somebody else's machine",
    "make container-check": "it is itself a check, with engines that a fresh root has not: run by hand and by the workflow",
}
"""The page's head says of these, and of the kinds of blocks that no test runs as they stand, that they are not."""


def test_every_kind_of_block_has_a_test_that_runs_it():
    assert {kind for kind, _ in BLOCKS} == RUN_BY.keys()
    for kind, (file, sought) in RUN_BY.items():
        assert file is None or repr(sought)[1:-1] in repr((REPO / file).read_text()), (kind, file)


def test_blocks_of_a_terminal_are_the_two_that_are_run():
    images, looks = (text for kind, text in BLOCKS if kind == "console")
    assert images.count("$ ") == 2
    check = (REPO / "tests/containers/check.sh").read_text()
    assert r"docker build" in images
    assert r"docker build .*" in check, "it runs the page's own line"
    assert "docker compose" in images
    assert "docker compose" in check
    assert looks.splitlines()[0].startswith("$ systemctl status")


def test_every_command_that_a_sentence_names_is_run():
    found = set(re.findall(rf"`((?:{PROGRAMS}) [^`\n]+)`", PROSE))
    assert found == NAMED.keys() | NOT_RUN.keys()
    assert {file for file, _ in NAMED.values() if not file.startswith("tests/")} == set(), (
        "that something exists runs nothing"
    )
    for command, (file, sought) in NAMED.items():
        assert sought in (REPO / file).read_text(), (command, file)


def test_the_page_says_what_is_not_run_as_written():
    head, _, _ = PAGE.partition("## Install")
    for kind in (kind for kind, (file, _) in RUN_BY.items() if file is None):
        assert f"`{kind}`" in head
    for command in NOT_RUN:
        assert f"`{command.split()[0]}" in head
    assert "`docker`" in head
    assert "*not run here*" in head
    for command, why in NOT_RUN.items():
        if why == "its line says so":
            (line,) = [line for line in PAGE.splitlines() if f"`{command}`" in line]
            assert "*Not run here*" in line


def test_the_page_about_releases_names_every_exception():
    """Not only those of this page: README's `make test` is only asked what it would run."""
    _, _, rest = (REPO / "docs/releasing.md").read_text().partition("## What is not covered")
    exceptions = " ".join(next(item for item in rest.split("\n- ") if item.startswith("Commands of README")).split())
    kinds = [kind for kind, (file, _) in RUN_BY.items() if file is None]
    commands = [" ".join(command.split()[:2]) for command in NOT_RUN]
    for words in (*kinds, *commands, "docker", "make test", "make -n test"):
        assert f"`{words}`" in exceptions, words
    assert 'replace("make test ", "make -n test ")' in (REPO / "tests/systemd/test_readme.py").read_text()
