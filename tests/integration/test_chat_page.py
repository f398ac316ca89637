"""The chat page, and pages of other origins, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import chromium
from conftest import MODEL
from patience import until
from serving import served

from edge_runtime.service.http.status_page import CHAT_HEADERS, CHAT_PAGE, content_security_policy

FLAGS = (
    "--memory",
    "1GiB",
    "--context",
    "512",
    "--parallel",
    "2",
    "--tier",
    "8",
    "--no-self-check",
    "--model-name",
    "tiny",
)
KEY = "secret-key-0123456789"
ENTER, SHIFT, RELEASE, ESCAPE, TAB = "\ue007", "\ue008", "\ue000", "\ue00c", "\ue004"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(model_bundle):
    with served(model_bundle, *FLAGS) as started:
        yield started


def one(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return [found.text for found in browser.find_elements("css selector", selector)]


def is_busy(browser):
    return one(browser, "#stop").is_displayed()


def opened(browser, service, **settings):
    """Open the page anew; settings by id of their field."""
    browser.get(service.url + "/chat")
    one(browser, "#settings summary").click()
    for name, value in settings.items():
        one(browser, f"#{name}").send_keys(str(value))
    one(browser, "#settings summary").click()
    browser.get_log("browser")
    browser.get_log("performance")


def say(browser, text, *, waits=True):
    one(browser, "#message").send_keys(text + ENTER)
    if waits:
        until(lambda: not is_busy(browser))


def api_answer(service, *messages, **more):
    body = {"messages": messages, "temperature": 0, "max_tokens": 12} | more
    return json.loads(service.get("/v1/chat/completions", body))["choices"][0]["message"]


def running(service):
    return json.loads(service.get("/v1/stats"))["requests"]["running"]


@pytest.mark.slow
def test_a_conversation(browser, service):
    opened(browser, service, temperature=0, limit=12)
    until(lambda: one(browser, "#model").text == "tiny")
    say(browser, "Tell me a story")
    first = {"role": "user", "content": "Tell me a story"}
    answer = api_answer(service, first)
    assert texts(browser, ".user .text") == ["Tell me a story"]
    assert one(browser, ".assistant .text").get_property("textContent") == answer["content"]
    assert re.fullmatch(
        r"cut off: the limit of tokens was reached; 12 tokens, [\d.]+ a second", texts(browser, ".note")[0]
    )
    # the second question is asked with what was said before, and a system message set in between
    say(browser, "And then?")
    second = {"role": "user", "content": "And then?"}
    expected = api_answer(service, first, {"role": "assistant", "content": answer["content"]}, second)
    last = browser.find_elements("css selector", ".assistant .text")[-1]
    assert last.get_property("textContent") == expected["content"]
    asked = {
        event["params"]["request"]["url"]
        for event in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {service.url + "/v1/chat/completions"}, "nothing else is asked, and nobody else"
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    one(browser, "#fresh").click()
    assert texts(browser, "article") == []
    assert browser.switch_to.active_element.get_attribute("id") == "message"
    say(browser, "Tell me a story")
    assert one(browser, ".assistant .text").get_property("textContent") == answer["content"], (
        "nothing of before is left"
    )


@pytest.mark.slow
def test_text_appears_as_it_comes_and_can_be_stopped(browser, service):
    opened(browser, service, temperature=1)
    # or a short answer might be over before it can be stopped
    browser.execute_script("const plain = request; request = () => ({...plain(), ignore_eos: true});")
    for how in ("button", "escape"):
        say(browser, "Say all you know about rivers", waits=False)
        until(
            lambda: is_busy(browser) and len(one(browser, "article:last-child .text").get_property("textContent")) > 3
        )
        shown = len(one(browser, "article:last-child .text").get_property("textContent"))
        until(lambda shown=shown: len(one(browser, "article:last-child .text").get_property("textContent")) > shown)
        if how == "button":
            one(browser, "#stop").click()
        else:
            one(browser, "#message").send_keys(ESCAPE)
        until(lambda: not is_busy(browser))
        assert texts(browser, "article:last-child .note") == ["stopped"]
        until(lambda: running(service) == 0)
    assert len(texts(browser, ".user")) == 2


@pytest.mark.slow
def test_what_the_model_thinks_is_dimmed(browser, exported, tmp_path):
    checkpoint = tmp_path / "tiny-that-thinks"
    shutil.copytree(MODEL, checkpoint)
    (checkpoint / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
        "{# the answer comes after </think> #}"
    )
    bundle = exported(checkpoint, "--tiers", "8", "--trunk", "fp32")
    with served(bundle, *FLAGS) as service:
        opened(browser, service, temperature=0, limit=12)
        say(browser, "Hello")
        thought = api_answer(service, {"role": "user", "content": "Hello"})["reasoning_content"]
        assert one(browser, ".reasoning .thought").get_property("textContent") == thought
        assert one(browser, ".assistant .text").text == ""
        colours = [one(browser, selector).value_of_css_property("color") for selector in (".thought", ".user .text")]
        assert colours[0] != colours[1]


@pytest.mark.slow
def test_errors_are_shown_and_nothing_is_lost(browser, service):
    opened(browser, service)
    say(browser, "word " * 700)
    assert "This model's context is 512 tokens" in texts(browser, ".note.bad")[0]
    assert one(browser, "#message").get_property("value") == "word " * 700
    assert texts(browser, ".user") == []
    one(browser, "#message").clear()
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    opened(browser, service, limit=1)
    say(browser, hostile)
    assert texts(browser, ".user .text") == [hostile]
    assert browser.find_elements("css selector", "article img, article script") == []


@pytest.mark.slow
def test_with_the_keyboard_alone_on_a_narrow_screen(browser, service):
    size = {"width": 390, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, service, temperature=0, limit=40)
        one(browser, "#message").send_keys("one", SHIFT + ENTER + RELEASE, "two", TAB)
        assert browser.switch_to.active_element.get_attribute("id") == "send"
        assert one(browser, "#message").get_property("value") == "one\ntwo"
        for _ in range(3):
            say(browser, "x" * 200)
        assert one(browser, ".user .text").get_property("textContent") == "one\ntwo" + "x" * 200
        for page in ("/chat", "/"):
            if page == "/":
                browser.get(service.url + page)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 390, page
            if page == "/chat":
                box = browser.execute_script(
                    "return document.getElementById('message').getBoundingClientRect().toJSON()"
                )
                assert 0 < box["top"] < box["bottom"] <= 700, "the input stays in view below a long conversation"
                small = [b for b in browser.find_elements("css selector", "textarea, #key") if b.is_displayed()]
                assert all(float(b.value_of_css_property("font-size")[:-2]) >= 16 for b in small), "or phones zoom in"
        # every control has a name that a screen reader can say
        browser.get(service.url + "/chat")
        nameless = browser.execute_script(
            "return [...document.querySelectorAll('textarea, input, button, a')]"
            ".filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert nameless == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_pages_lead_to_each_other(browser, service):
    browser.get(service.url + "/")
    one(browser, "nav a").click()
    until(lambda: browser.current_url == service.url + "/chat")
    one(browser, "header a").click()
    until(lambda: browser.current_url == service.url + "/")
    until(lambda: one(browser, "#phase").text == "ready")


@contextmanager
def web_page(folder) -> Iterator[str]:
    """Serve a folder at an origin of its own."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ASK = """
const [url, key, done] = arguments;
fetch(url + "/v1/completions", {method: "POST", headers: {"Content-Type": "application/json", Authorization: "Bearer " + key,
  "X-Stainless-Lang": "js"}, body: JSON.stringify({prompt: "Once", max_tokens: 3})})
  .then(answer => answer.json()).then(answer => done(JSON.stringify(answer)), error => done("blocked: " + error.message));
"""


@pytest.mark.slow
def test_the_key_and_pages_of_other_origins(browser, model_bundle, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<title>another page</title>")
    with web_page(tmp_path / "page") as allowed, web_page(tmp_path / "page") as other:
        flags = ("--api-key-file", str(tmp_path / "key"), "--allow-origin", allowed)
        with served(model_bundle, *FLAGS, *flags) as service:
            browser.get(service.url + "/chat")
            until(lambda: one(browser, "#ask").is_displayed())
            one(browser, "#key").send_keys(KEY + ENTER)
            until(lambda: one(browser, "#model").text == "tiny")
            assert not one(browser, "#ask").is_displayed()
            say(browser, "Hello")
            assert one(browser, ".assistant .text").get_property("textContent")
            answers = {}
            for origin in (allowed, other):
                browser.get(origin + "/index.html")
                answers[origin] = browser.execute_async_script(ASK, service.url, KEY)
            assert json.loads(answers[allowed])["usage"]["completion_tokens"] == 3
            assert answers[other].startswith("blocked: ")
            browser.get(allowed + "/index.html")
            wrong = browser.execute_async_script(ASK, service.url, "wrong")
            assert json.loads(wrong)["error"]["code"] == "invalid_api_key", "errors can be read too"


def test_the_page_is_one_file_that_names_no_other():
    assert not re.search(r"(?:src|href|action)\s*=\s*(?![\"']?(?:data:,|\./\"))", CHAT_PAGE.split("<script>")[0])
    assert not re.search(r"https?://", CHAT_PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", CHAT_PAGE)
    assert CHAT_HEADERS["Content-Security-Policy"] == content_security_policy(CHAT_PAGE)
    assert "unsafe" not in CHAT_HEADERS["Content-Security-Policy"]
    assert CHAT_HEADERS["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert len(CHAT_PAGE) < 20_000


def test_the_page_is_served_without_a_key(model_bundle, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    with (
        served(model_bundle, *FLAGS, "--api-key-file", str(tmp_path / "key"), ready=False) as service,
        urllib.request.urlopen(service.url + "/chat") as answer,
    ):
        assert answer.read().decode() == CHAT_PAGE
        assert {name: answer.headers[name] for name in CHAT_HEADERS} == CHAT_HEADERS


def test_without_the_option_no_page_is_told_anything(service):
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    request = urllib.request.Request(service.url + "/v1/models", headers=asked)
    with urllib.request.urlopen(request) as answer:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
