"""The pages in a real headless Chromium, against real servers with the default model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from tests.cli.test_serve import LIMIT_S, SMALL, serving
from tests.e2e.test_seed_clients import number_of

PAGES = ("/", "/docs", "/demos/chat", "/demos/playground")
KEY = "sesame"
CANCELLED = 'takeoff_requests_ended_total{reason="cancelled"}'
STORY = "Tell me a long story about the sea."


class Browser:
    """One Chromium, and what has happened in it since `open`."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))

    def open(self, url: str) -> None:
        """Load a page and wait until it has heard how the server is."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(url)
        self.wait(lambda: self.css("#state").text not in ("", "asking …"))

    def css(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        """The text as it was put there: `.text` of an element is what layout makes of it."""
        return str(self.css(selector).get_property("textContent"))

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < deadline, f"it never happened: {self.css('body').text}"
            time.sleep(0.02)

    def set_number(self, selector: str, value: float) -> None:
        field = self.css(selector)
        field.clear()
        field.send_keys(f"{value:g}")

    def send(self, message: str) -> None:
        self.css("#text").send_keys(message + Keys.ENTER)

    def wait_idle(self) -> None:
        self.wait(lambda: self.css("#run").is_displayed())

    def requests(self) -> list[dict[str, Any]]:
        """Every request since the last call, with its body."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [
            event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What stands in the console: errors, refusals of the content security policy, warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


def bodies(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the generations among these requests."""
    return [json.loads(each["postData"]) for each in sent if each["url"].endswith("/generate_stream")]


def message_of(url: str, body: dict[str, Any]) -> str:
    answer = requests.post(f"{url}/generate", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["message"])


def make_greedy(browser: Browser, max_length: int) -> None:
    """The chat's settings, as a person makes them."""
    browser.css("[popovertarget=settings]").click()
    browser.css("#sampling_temperature").send_keys(Keys.HOME)
    assert browser.text("#shown") == "0"
    browser.set_number("#generate_max_length", max_length)
    browser.css("[popovertarget=settings]").click()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_and_asks_nobody_else(server_url: str, browser: Browser, path: str) -> None:
    browser.open(server_url + path)
    if path == "/docs":
        browser.wait(lambda: browser.count(".opblock"))
    model = requests.get(f"{server_url}/v1/models", timeout=LIMIT_S).json()["data"][0]["id"]
    assert browser.css("#state").text == model
    assert browser.css("#state").get_attribute("class") == "state ready"
    assert browser.complaints() == []
    urls = [each["url"] for each in browser.requests() if not each["url"].startswith("data:")]
    assert len(urls) > 5
    assert [url for url in urls if not url.startswith(f"{server_url}/")] == []
    assert not any("favicon" in url for url in urls)
    for width in (360, 1280):
        metrics = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": False}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.js("return [innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [
            width,
            True,
        ]
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_run_only_our_scripts(server_url: str, path: str) -> None:
    page = requests.get(server_url + path, timeout=LIMIT_S)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy.pop("default-src") == "'self'"
    assert policy.pop("frame-ancestors") == "'none'"
    assert policy.pop("base-uri") == "'none'"
    assert policy.pop("form-action") == "'none'"
    extra = {"img-src": "'self' data:"} if path == "/docs" else {"require-trusted-types-for": "'script'"}
    assert policy == extra
    again = requests.get(server_url + path, headers={"if-none-match": page.headers["etag"]}, timeout=LIMIT_S)
    assert (again.status_code, again.content) == (304, b"")


def test_a_chat_streams_what_generate_answers_and_carries_its_turns_as_text(
    server_url: str, browser: Browser
) -> None:
    browser.open(f"{server_url}/demos/chat")
    make_greedy(browser, 16)
    browser.js(
        """window.lengths = [];
        new MutationObserver(() => lengths.push(document.querySelector(".assistant")?.textContent.length))
          .observe(document.getElementById("turns"), { subtree: true, childList: true, characterData: true });
        """
    )
    browser.send("List 3 things to do in London.")
    browser.wait_idle()
    lengths = [length for length in browser.js("return lengths") if length]
    answer = browser.text(".turn.assistant")
    (body,) = bodies(browser.requests())
    assert body == {
        "text": "List 3 things to do in London.",
        "generate_max_length": 16,
        "sampling_temperature": 0,
        "sampling_topk": 50,
        "sampling_topp": 0.1,
    }
    assert answer == message_of(server_url, body)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5, "the text grows"
    assert lengths[-1] == len(answer.encode("utf-16-le")) // 2

    browser.send("Which is the oldest?")
    browser.wait_idle()
    (body,) = bodies(browser.requests())
    assert body["text"] == (
        f"User: List 3 things to do in London.\nAssistant: {answer}\nUser: Which is the oldest?"
    )
    assert browser.text(".turn.assistant:last-child") == message_of(server_url, body)
    assert browser.complaints() == []

    browser.css("#new").click()
    assert browser.count(".turn") == 0
    browser.css(".welcome button").click()
    assert bodies(browser.requests())[0]["text"] == "List 3 things to do in London.", "a new chat starts bare"


def test_stop_stops_and_the_server_counts_it(server_url: str, browser: Browser) -> None:
    before = number_of(server_url, CANCELLED)
    browser.open(f"{server_url}/demos/chat")
    browser.css("[popovertarget=settings]").click()
    browser.set_number("#generate_max_length", 900)
    browser.send(STORY)
    browser.wait(lambda: browser.text(".turn.assistant"))
    assert browser.css(".turn.assistant").get_attribute("aria-busy") == "true"
    assert not browser.css("#run").is_displayed()
    browser.css("#stop").click()
    browser.wait_idle()
    assert browser.css("#stats").text == "Stopped"
    assert browser.count("[role=alert]") == 0
    assert browser.css(".turn.assistant").get_attribute("aria-busy") == "false"
    text = browser.text(".turn.assistant")
    browser.wait(lambda: number_of(server_url, CANCELLED) == before + 1)
    assert browser.text(".turn.assistant") == text != ""

    browser.send(STORY)
    browser.wait(lambda: browser.text(".turn.assistant:last-child"))
    browser.css("#new").click()
    browser.wait(lambda: number_of(server_url, CANCELLED) == before + 2)
    browser.wait_idle()
    assert browser.count(".turn") == 0

    browser.open(f"{server_url}/demos/playground")
    browser.set_number("[name=generate_max_length]", 900)
    browser.css("#text").send_keys(Keys.CONTROL + Keys.ENTER)
    browser.wait(lambda: browser.text("#output"))
    browser.css("#text").send_keys(Keys.ESCAPE)
    browser.wait_idle()
    browser.wait(lambda: number_of(server_url, CANCELLED) == before + 3)
    assert browser.complaints() == []


def test_the_playground_sends_each_setting(server_url: str, browser: Browser) -> None:
    wanted = {
        "generate_max_length": 6,
        "sampling_temperature": 0.5,
        "sampling_topk": 1,
        "sampling_topp": 0.75,
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
    }
    browser.open(f"{server_url}/demos/playground")
    for name, value in wanted.items():
        browser.set_number(f"[name={name}]", value)
    browser.css("#text").clear()
    browser.css("#text").send_keys('It\'s a "test"')
    browser.css("#run").click()
    browser.wait_idle()
    (body,) = bodies(browser.requests())
    assert body == {"text": 'It\'s a "test"', **wanted}
    assert browser.text("#output") == message_of(server_url, body)
    assert browser.css("#stats").text.startswith("First text after ")
    command = shlex.split(browser.text("#curl"))
    assert command[:3] == ["curl", "-N", f"{server_url}/generate_stream"]
    assert json.loads(command[-1]) == body
    assert browser.complaints() == []


def test_a_model_that_writes_html_writes_text(server_url: str, browser: Browser) -> None:
    html = "<b>bold</b>"
    browser.open(f"{server_url}/demos/chat")
    make_greedy(browser, 20)
    browser.send(f"Repeat exactly: {html}")
    browser.wait_idle()
    assert html in browser.text(".turn.assistant")
    assert html in browser.text(".turn.user")
    assert browser.count("#turns b") == 0

    browser.open(f"{server_url}/demos/playground")
    browser.set_number("[name=sampling_topk]", 1)
    browser.set_number("[name=repetition_penalty]", 1)
    browser.set_number("[name=no_repeat_ngram_size]", 0)
    browser.set_number("[name=generate_max_length]", 20)
    browser.css("#text").clear()
    browser.css("#text").send_keys(f"Repeat exactly: {html}")
    browser.css("#run").click()
    browser.wait_idle()
    assert html in browser.text("#output")
    assert browser.count("#output b") == 0


def test_a_refusal_is_shown_and_the_message_can_be_mended(server_url: str, browser: Browser) -> None:
    browser.open(f"{server_url}/demos/chat")
    browser.js("document.getElementById('text').value = 'many words '.repeat(2000)")
    browser.css("#run").click()
    browser.wait(lambda: browser.count("[role=alert]"))
    assert "tokens, but a sequence holds 1024" in browser.css("[role=alert]").text
    assert "(422)" in browser.css("[role=alert]").text
    browser.css("[role=alert] button").click()
    assert browser.css("#text").get_property("value") == ("many words " * 2000).strip()
    assert browser.count("#turns > *") == 0
    browser.css("#text").clear()
    browser.send("Hi")
    browser.wait_idle()
    assert bodies(browser.requests())[-1]["text"] == "Hi", "what was refused is no part of the conversation"

    browser.open(f"{server_url}/demos/playground")
    browser.set_number("[name=sampling_topp]", 0)
    browser.css("#run").click()
    browser.wait(lambda: browser.count("[role=alert]"))
    assert browser.css("[role=alert]").text == "sampling_topp: Input should be greater than 0 (422)"


def test_the_documentation_shows_every_route_and_tries_one_out(server_url: str, browser: Browser) -> None:
    spec = requests.get(f"{server_url}/openapi.json", timeout=LIMIT_S).json()
    routes = {(method.upper(), path) for path, methods in spec["paths"].items() for method in methods}
    assert ("POST", "/generate") in routes
    browser.open(f"{server_url}/docs")
    browser.wait(lambda: browser.count(".opblock"))
    blocks = browser.driver.find_elements(By.CSS_SELECTOR, ".opblock-summary")
    assert {tuple(block.text.split()[:2]) for block in blocks} == routes

    browser.css(".opblock:has([data-path='/generate']) .opblock-summary-control").click()
    browser.wait(lambda: browser.count(".try-out__btn"))
    browser.css(".try-out__btn").click()
    body = {"text": "The capital of France is", "generate_max_length": 8}
    field = browser.css("textarea.body-param__text")
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys(json.dumps(body))
    browser.css(".execute").click()
    browser.wait(lambda: browser.count(".live-responses-table .response"))
    assert browser.css(".live-responses-table .response .response-col_status").text == "200"
    shown = json.loads(browser.text(".live-responses-table .highlight-code code"))
    assert shown == {"status": "success", "message": message_of(server_url, body)}
    assert browser.complaints() == []
    sent = [each["url"] for each in browser.requests()]
    assert [url for url in sent if not url.startswith((f"{server_url}/", "data:"))] == []


ONE_AT_A_TIME = (*SMALL, "--max-requests", "1", "--threads", "1")


def test_pages_work_with_a_key_and_say_when_the_server_is_full(smollm2_path: Path, browser: Browser) -> None:
    with serving("--model", str(smollm2_path), *ONE_AT_A_TIME, "--api-key", KEY) as server:
        url = server.wait_ready()
        with_key = url.replace("http://", f"http://any:{KEY}@")
        challenges = requests.get(url, timeout=LIMIT_S).raw.headers.getlist("www-authenticate")
        assert any(line.startswith("Basic ") for line in challenges), "a browser reads one from each line"
        for path in PAGES:
            browser.open(with_key + path)
            assert browser.css("#state").get_attribute("class") == "state ready"
            if path == "/docs":
                browser.wait(lambda: browser.count(".opblock"))
            assert browser.complaints() == []

        browser.open(f"{with_key}/demos/chat")
        make_greedy(browser, 12)
        browser.send("Why is the sky blue?")
        browser.wait_idle()
        (body,) = bodies(browser.requests())
        assert browser.text(".turn.assistant") == message_of(with_key, body)
        assert browser.complaints() == []

        long = {"prompt": STORY, "max_tokens": 480, "ignore_eos": True, "stream": True}
        with requests.post(f"{with_key}/v1/completions", json=long, stream=True, timeout=LIMIT_S) as stream:
            assert stream.status_code == 200, stream.text
            browser.send("And at night?")
            browser.wait(lambda: browser.count("[role=alert]"))
            refusal = browser.css("[role=alert] span").text
        assert re.fullmatch(r"1 requests are open, the limit is 1 \(429, try again in \d+ s\)", refusal), (
            refusal
        )


def test_a_stream_that_breaks_off_is_not_taken_for_whole(smollm2_path: Path, browser: Browser) -> None:
    with serving("--model", str(smollm2_path), *ONE_AT_A_TIME) as server:
        browser.open(f"{server.wait_ready()}/demos/chat")
        browser.send(STORY)
        browser.wait(lambda: browser.text(".turn.assistant"))
        server.process.kill()
        browser.wait(lambda: browser.count("[role=alert]"))
    assert browser.css("[role=alert] span").text == "The stream broke off: this text is not whole."
    assert browser.text(".turn.assistant") != "", "what came stays"
    assert browser.css("#run").is_displayed()
    browser.css("[role=alert] button").click()
    assert browser.css("#text").get_property("value") == STORY
    browser.send("")
    browser.wait(lambda: browser.count("[role=alert]"))
    assert browser.css("[role=alert] span").text == "The server can't be reached."
    browser.wait(lambda: browser.css("#state").text == "not reachable")
