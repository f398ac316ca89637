"""docs/operations.md, "Ten things that go wrong": each is made to happen on a real systemd, and looks as its row says."""

from __future__ import annotations

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import REPO

sys.path.insert(0, str(Path(__file__).parent))

from installed import installed
from machine import missing
from streams import Stream

SECTION = (REPO / "docs/operations.md").read_text().partition("## Ten things that go wrong")[2]
ROWS = {int(row[0]): row[1:] for row in re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", SECTION, re.MULTILINE)}
"""Number to what it looks like, and why."""
SHOWN_ELSEWHERE = {4: "test_a_hung_serving_loop_is_killed_though_http_still_answers", 10: "needs a board"}


def words(row: int) -> list[str]:
    """What a row quotes of what one sees."""
    return re.findall(r"`([^`]+)`", ROWS[row][0])


@pytest.fixture
def service(model_bundle):
    if lacks := missing():
        pytest.skip(f"no systemd can be booted here ({lacks}); the ten things were NOT made to happen")
    with installed(model_bundle) as found:
        yield found


def status(service) -> str:
    """What the person on call looks at first."""
    commands = re.findall(r"^\$ (systemctl|journalctl)( .*)$", SECTION, re.MULTILINE)
    return "".join(service.machine.shell(f"{name}{rest} --no-pager || true") for name, rest in commands)


def fails(service, row: int, *expected: str, **settings: object) -> None:
    """Start it with settings that it refuses; the row's words are what is seen, all of them unless some are named."""
    service.settings(**settings)
    service.systemctl("start", check=False)
    said = status(service)
    assert set(expected) <= set(words(row))
    for each in expected or words(row):
        assert each in said, (row, each, said[-3000:])
    assert service.show("NRestarts") == "0"
    service.systemctl("reset-failed", check=False)


def test_there_are_ten():
    assert sorted(ROWS) == list(range(1, 11))
    tests = (REPO / "tests/systemd/test_real_systemd.py").read_text()
    assert f"def {SHOWN_ELSEWHERE[4]}(" in tests
    assert words(4)[0] in tests
    shown = re.findall(r"(?:words|fails)\((?:service, )?(\d+)|ROWS\[(\d+)\]", Path(__file__).read_text())
    assert {int(number) for pair in shown for number in pair if number} | SHOWN_ELSEWHERE.keys() == set(range(1, 11))


def refusal(service):
    """The status, code and Retry-After of a request that is refused; None if it is answered, or nothing listens."""
    try:
        service.get("/v1/completions", service.body("def", 1))
    except urllib.error.HTTPError as err:
        return err.code, json.load(err)["error"]["code"], int(err.headers["Retry-After"])
    except OSError:
        return None
    return None


@pytest.mark.slow
def test_clients_are_refused_as_the_page_says(service):
    """Row 6: a request runs and none may wait; then the service drains behind it; then it loads."""
    assert re.findall(r"\d{3}|Retry-After", ROWS[6][0]) == ["429", "503", "Retry-After"]
    assert re.findall(r"`([^`]+)`", ROWS[6][1]) == ["HOBBIT_MAX_WAITING"]
    service.settings(HOBBIT_MAX_WAITING=0, HOBBIT_PARALLEL=1)
    service.systemctl("start")
    stream = Stream(service)
    (status, code, retry_after_s) = refusal(service)
    assert (status, code) == (429, "queue_full")
    assert retry_after_s >= 1
    figures = service.open("/metrics").read().decode()
    assert re.search(r'^hobbit_requests_rejected_total\{.*reason="queue_full".*\} 1', figures, re.MULTILINE)

    service.machine.run("systemctl", "stop", "--no-block", "hobbit")
    service.machine.until(lambda: "finishing" in service.machine.journal("hobbit"), "draining")
    assert refusal(service) == (503, "draining", 5)
    assert stream.tokens_until_the_end() > 0

    service.machine.until(lambda: service.show("ActiveState") == "inactive", "stopped")
    service.machine.run("systemctl", "start", "--no-block", "hobbit")
    seen = []

    def asked():
        seen.append(refusal(service))
        return service.is_ready()

    service.machine.until(asked, "ready")
    assert (503, "loading", 5) in seen, seen
    assert refusal(service) is None, "it answers again, and has room"


@pytest.mark.slow
def test_they_look_as_the_page_says(service):
    machine = service.machine
    fails(service, 2, HOBBIT_POLICY="nonsense")
    fails(service, 3, HOBBIT_MEMORY="20MiB")

    # the unit hides /home from the service by the same means as here (ProtectHome=yes); /root stays visible for this test
    (denied, nothing) = words(9)
    hidden = {"/home/b": ("InaccessiblePaths=/home", denied), "/tmp/b": ("PrivateTmp=yes", nothing)}
    for place, (hides, looks) in hidden.items():
        machine.shell(f"cp -r /var/lib/hobbit-edge/bundle {place}; chmod -R go+rX {place}")
        service.drop_in("40-hidden.conf", hides)
        fails(service, 9, looks, HOBBIT_BUNDLE=place)
        machine.shell("rm /etc/systemd/system/hobbit.service.d/40-hidden.conf; systemctl daemon-reload")
    machine.shell("chmod 700 /home/b; chown root:root /home/b")
    fails(service, 9, denied, HOBBIT_BUNDLE="/home/b")
    assert machine.run("runuser", "-u", "hobbit", "--", "ls", "/home/b", check=False).returncode != 0

    service.settings()
    service.systemctl("start")
    (what,) = [each for each in words(7) if "_" in each]
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}/v1/models", headers={"Host": "proxy.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 403
    assert json.load(refused.value)["error"]["code"] == what
    (field, place) = words(8)
    assert field in json.dumps(service.get(place))

    service.systemctl("kill", "--signal=KILL")
    machine.until(lambda: service.show("NRestarts") == "1", "a restart")
    machine.until(service.is_ready, "ready again")
    for each in words(5):
        assert each in status(service) + machine.journal("hobbit"), each


@pytest.mark.slow
def test_a_start_that_verifies_says_so(service):
    """The unit's status is looked at while it starts: a bundle on a drive read slowly takes a while."""
    service.settings()
    service.machine.shell("systemctl start --no-block hobbit")
    seen = set()

    def looked() -> bool:
        seen.add(service.show("StatusText"))
        return service.is_ready()

    service.machine.until(looked, "ready")
    (command, what) = words(1)
    assert command == "systemctl start"
    assert any(what in each for each in seen) or what in service.machine.journal("hobbit"), seen
