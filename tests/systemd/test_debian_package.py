"""The Debian package on a real systemd without a network: install, serve, upgrade, remove, purge, and nothing is left."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(REPO / "tools/release"))

import contained
import fresh
from bundle_copies import copy_of, write_manifest
from clean_root import clean_machine, codename
from leftovers import accounts, files, left_of_accounts
from manifests import as_version1
from tokenizers import Tokenizer

from edge_runtime.bundle import manifest_file

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
BLOCKS = re.findall(r"^```sh deb\n(.*?)^```$", (REPO / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
OLD_BUILD = REPO / "tests/old_builds/first"
"""What an early build wrote, and what it said then."""


@pytest.fixture
def runtime_and_exporter():
    """The packages for a clean root here, which `make deb` wrote."""
    packages = ("hobbit-edge", "hobbit-edge-export") if ARCH else ()
    found = [REPO / "dist" / contained.package_name(package, codename(), ARCH)[0] for package in packages]
    if not found or not all(path.exists() for path in found):
        pytest.skip(f"no packages for {codename()} in dist/ (make deb); they were NOT installed")
    for path in found:
        fresh.check(path)
    return found


def upgraded(package: Path, folder: Path) -> Path:
    """The same package as a later version: what an upgrade brings."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    text = control.read_text()
    (version,) = [line for line in text.splitlines() if line.startswith("Version: ")]
    control.write_text(text.replace(version, f"{version}.1"))
    later = folder / package.name.replace("1_", "1.1_")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(later)], check=True)
    return later


def as_written(machine, number, package):
    """Run one of the blocks of docs/operations.md about the package, where its file lies."""
    script = f"cd {package.parent}; export DEBIAN_FRONTEND=noninteractive; set -e\n{BLOCKS[number]}"
    # the page names the release and the machine that the line is for
    script = script.replace("bookworm1_amd64", f"{codename()}1_{ARCH}")
    done = machine.run("bash", "-c", script, check=False)
    # the service is not started without a bundle, which its status says with exit code 3
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return done.stdout


def complete(machine, prompt="import os", tokens=8):
    """What the service says to a prompt."""
    body = json.dumps({"model": "bundle", "prompt": prompt, "max_tokens": tokens, "temperature": 0})
    url, kind = "http://127.0.0.1:8080/v1/completions", "Content-Type: application/json"
    said = machine.run("curl", "--fail", "--silent", url, "-H", kind, "-d", body).stdout
    return json.loads(said)["choices"][0]["text"]


def serve(machine, bundle):
    """Put a bundle where the service looks for it, and start it."""
    place = "/var/lib/hobbit-edge"
    machine.shell(
        f"systemctl stop hobbit; rm -rf {place}/bundle; cp -r {bundle} {place}/bundle; chown -R hobbit: {place}"
    )
    machine.run("systemctl", "start", "hobbit")
    wait_ready(machine)


def serves_what_an_early_build_wrote(machine):
    """A bundle of it, byte for byte: the service says what that build said."""
    serve(machine, OLD_BUILD / "bundle")
    said = json.loads((OLD_BUILD / "said.json").read_text())
    ids = said["token_ids"]["8"]
    tokenizer = Tokenizer.from_file(str(OLD_BUILD / "bundle/tokenizer/tokenizer.json"))
    return complete(machine, said["prompt"], len(ids)) == tokenizer.decode(ids)


def wait_ready(machine):
    machine.until(
        lambda: "ready" in machine.shell("curl --silent http://127.0.0.1:8080/health/ready", check=False), "ready", 180
    )


@pytest.mark.slow
def test_install_serve_upgrade_remove_purge(runtime_and_exporter, model_bundle, tmp_path):
    runtime, exporter = runtime_and_exporter
    old = copy_of(model_bundle, tmp_path / "old")
    write_manifest(old, as_version1(manifest_file.read(model_bundle)))
    later = upgraded(runtime, tmp_path)
    shown = [runtime.parent, tmp_path, REPO / "examples/tiny-moe", OLD_BUILD]
    with clean_machine("the Debian packages were NOT installed", offline=True, shown=shown) as machine:
        assert machine.shell("ip route") == ""
        assert machine.shell("type cc c++ gcc pip pip3 2>/dev/null", check=False) == ""
        before, who = files(machine), accounts(machine)
        said = as_written(machine, 0, runtime)
        assert "no bundle at /var/lib/hobbit-edge/bundle yet" in said
        assert machine.run("dpkg", "--verify", "hobbit-edge").stdout == ""
        assert machine.run("systemctl", "is-enabled", "hobbit").stdout.strip() == "enabled"
        assert machine.shell("hobbit --version").strip()
        assert "--prompt" in machine.shell("hobbit help run")
        machine.shell("man -w hobbit-run || ls /usr/share/man/man1/hobbit-run.1.gz")

        machine.shell("printf 'HOBBIT_MEMORY=600MiB\\nHOBBIT_CONTEXT=256\\n' >> /etc/hobbit-edge/hobbit.env")
        assert serves_what_an_early_build_wrote(machine)
        # a larger one, today's with a manifest of the format before
        serve(machine, old)
        first = complete(machine)
        assert first
        assert machine.shell("ps -o user= -C hobbit").split() == ["hobbit"]

        pid = machine.show("hobbit", "MainPID")
        machine.run("dpkg", "--install", str(later))
        wait_ready(machine)
        assert machine.show("hobbit", "MainPID") != pid, "an upgrade restarts the service"
        assert "HOBBIT_MEMORY=600MiB" in machine.shell("cat /etc/hobbit-edge/hobbit.env"), "settings are kept"
        assert complete(machine) == first

        back = ("apt-get", "install", "--yes", "--allow-downgrades", str(runtime))
        machine.run("env", "DEBIAN_FRONTEND=noninteractive", *back)
        wait_ready(machine)
        assert machine.run("dpkg", "--verify", "hobbit-edge").stdout.count("\n") <= 1, "but for the settings"
        assert complete(machine) == first
        assert serves_what_an_early_build_wrote(machine), "after an upgrade and back"

        assert "usage: hobbit-export" in as_written(machine, 1, exporter)
        machine.shell(f"hobbit-export {REPO}/examples/tiny-moe --out /tmp/exported --tiers 4 --trunk int8")
        machine.run("dpkg", "--purge", "hobbit-edge-export")

        machine.run("apt-get", "remove", "--yes", "hobbit-edge")
        assert machine.shell("systemctl is-active hobbit", check=False).strip() == "inactive"
        kept = machine.shell(
            "ls -d /etc/hobbit-edge/hobbit.env /var/lib/hobbit-edge/bundle /opt/hobbit-edge || true"
        ).split()
        assert kept == ["/etc/hobbit-edge/hobbit.env", "/var/lib/hobbit-edge/bundle"]
        as_written(machine, 2, runtime)
        after = files(machine)
        assert (after - before, before - after) == (set(), set())
        assert left_of_accounts(who, accounts(machine)) == set()
        assert machine.shell("systemctl list-unit-files 'hobbit*' --no-legend", check=False) == ""
