"""The status page in a real browser: live figures, nothing from the network, nothing the policy has to block."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
import urllib.request
from pathlib import Path

import board_trees
import pytest
from browser import chromium
from conftest import MODEL
from patience import until
from serving import served

from edge_runtime.service.http.status_page import HEADERS, PAGE, content_security_policy

FLAGS = ("--context", "512", "--parallel", "2", "--tier", "8", "--no-self-check")


def text(browser, element):
    return browser.find_element("id", element).text


def requested_urls(browser):
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def keep_busy(service, stop):
    prompt = (MODEL / "heldout_prose.txt").read_text()
    at = 0
    while not stop.is_set():
        service.complete(prompt[at : at + 300], max_tokens=96, model="tiny")
        at += 500


@pytest.mark.slow
def test_live_figures_in_a_real_browser(model_bundle, tmp_path):
    # less memory than the experts take, so that the page has something to show
    budget = ("--memory", "270MiB", "--expert-memory", "12MiB", "--model-name", "tiny")
    with chromium(tmp_path / "profile") as browser, served(model_bundle, *FLAGS, *budget) as service:
        browser.get(service.url + "/")
        until(lambda: text(browser, "phase") == "ready")
        assert "not measured" in text(browser, "memtext")
        stop = threading.Event()
        clients = [threading.Thread(target=keep_busy, args=(service, stop)) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            until(lambda: text(browser, "rate") not in ("–", "0.0", "0"))
            until(lambda: int(text(browser, "running")) >= 2)
            if "STATUS_SCREENSHOT" in os.environ:
                time.sleep(25)
            shot = Path(os.environ.get("STATUS_SCREENSHOT", tmp_path / "status.png"))
            browser.get_screenshot_as_file(str(shot))
            stats = json.loads(service.get("/v1/stats"))
            labels = browser.find_elements("css selector", "#residency text")
            assert [label.text for label in labels] == [str(row["layer"]) for row in stats["residency"]]
            # one bar a layer at the one tier in use, once every layer has been reached
            until(lambda: len(browser.find_elements("css selector", "#residency rect.t8")) == len(stats["residency"]))
            assert "8 bit: " in text(browser, "tiers")
            assert "on the drive: " in text(browser, "tiers")
            assert "skipped 0" in " ".join(text(browser, "losses").split())
            until(lambda: re.search(r"evicted [1-9]", " ".join(text(browser, "experts").split())))
            until(lambda: float(text(browser, "hits").split()[0]) > 0)
            assert shot.stat().st_size > 10_000
        finally:
            stop.set()
            for client in clients:
                client.join()
        until(lambda: text(browser, "running") == "0")
        assert complaints(browser) == []
        asked = {
            url for url in requested_urls(browser) if not url.startswith(("chrome://", "chrome-untrusted://", "data:"))
        }
        assert asked == {service.url + "/", service.url + "/v1/stats"}
        service.stop()
        until(lambda: browser.find_element("id", "trouble").is_displayed())
        assert "No answer from the service" in text(browser, "trouble")


@pytest.mark.slow
def test_with_a_key_and_a_hostile_model_name(model_bundle, tmp_path):
    (tmp_path / "key").write_text("secret-key-0123456789\n")
    hostile = "<img src=x onerror=alert(1)>"
    board_trees.nano(tmp_path / "board")
    flags = ("--memory", "1GiB", "--api-key-file", str(tmp_path / "key"), "--model-name", hostile)
    flags += ("--power-meter", f"ina:root={tmp_path / 'board'}")
    with chromium(tmp_path / "profile") as browser, served(model_bundle, *FLAGS, *flags) as service:
        browser.get(service.url + "/")
        until(lambda: browser.find_element("id", "ask").is_displayed())
        assert text(browser, "phase") == "connecting", "nothing is shown without the key"
        browser.find_element("id", "key").send_keys("secret-key-0123456789\n")
        until(lambda: text(browser, "phase") == "ready")
        assert not browser.find_element("id", "ask").is_displayed()
        assert hostile in text(browser, "model")
        assert browser.find_elements("css selector", "#model img") == []
        shown = text(browser, "power")
        for words in ("VDD_CPU_GPU_CV 1.35 W", "machine 5.92 W", "hottest: cpu-thermal 52 °C", "power mode 25W"):
            assert words in shown


@pytest.mark.slow
@pytest.mark.parametrize(("width", "columns"), [(1160, 2), (390, 1)])
def test_labels_can_be_read_at_48_layers_and_on_a_telephone(model_bundle, tmp_path, width, columns):
    with chromium(tmp_path / "profile") as browser, served(model_bundle, *FLAGS, "--memory", "1GiB") as service:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(service.url + "/")
        until(lambda: text(browser, "phase") == "ready")
        # a model of 48 layers, as the service would describe it
        browser.execute_script(
            "const real = show; show = now => { now.residency = Array.from({length: 48}, (_, i) => ({layer: i, tiers: "
            "{8: i % 32, 4: 1}})); real(now); };"
        )
        labels = until(lambda: found if len(found := boxes(browser, "#residency text")) == 48 else None)
        for label in (*labels, *boxes(browser, "#memory text")):
            assert label["height"] >= 10, "as tall as letters that can be read"
            assert 0 <= label["left"] < label["right"] <= width
        for one, two in itertools.pairwise(labels):
            assert two["top"] >= one["bottom"] - 3 or two["left"] > one["right"], "labels do not touch"
        assert len({round(label["right"]) for label in labels}) == columns
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        if "STATUS_SCREENSHOT" in os.environ:
            browser.get_screenshot_as_file(f"{os.environ['STATUS_SCREENSHOT']}-{width}.png")


def boxes(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().toJSON())", selector
    )


def test_the_page_is_one_file_that_names_no_other():
    assert not re.search(r"(?:src|href|action)\s*=\s*(?![\"']?(?:data:,|chat\"))", PAGE.split("<script>")[0])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", PAGE)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert len(PAGE) < 20_000


def test_the_policy_follows_the_page():
    policy = content_security_policy("<style>a</style><script>b</script>")
    assert "script-src 'sha256-PiPoFgA5WUozf0SHBZWkCBkL9e0nWH3zsDUOB0Tkeq4='" not in policy.split(";")[2]
    assert policy != HEADERS["Content-Security-Policy"]
    assert "script-src 'none'" in content_security_policy("<p>")


def test_the_page_is_served_while_the_model_loads(model_bundle):
    with served(model_bundle, *FLAGS, "--memory", "1GiB", ready=False) as service:
        with urllib.request.urlopen(service.url + "/") as answer:
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert answer.read().decode() == PAGE
        service.wait_until_ready()
        assert service.stop() == 0
