"""The HTML report in a real headless Chromium: it plots what was measured and fetches nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from takeoff.bench.client import Trace
from takeoff.bench.comparison import Measured
from takeoff.bench.measures import Reading
from takeoff.bench.plot import ticks
from takeoff.bench.prompts import Prompts
from takeoff.bench.report_html import as_html
from takeoff.bench.runs import LoadPoint, Outcome
from takeoff.bench.scenarios import Figure, Scenario
from takeoff.bench.target import Target

TARGETS = [Target("ours", "127.0.0.1", 1, "m"), Target("<b>theirs</b>", "127.0.0.1", 2, "m")]
POINTS = """
return [...document.querySelectorAll('svg')].map(svg => [svg.getAttribute('aria-label'),
  [...svg.querySelectorAll('circle')].map(c => [c.dataset.line, +c.dataset.x, +c.dataset.y])])
"""
PLACES = """
return [...document.querySelectorAll('svg:first-of-type circle')].map(c => {
  const svg = c.ownerSVGElement.getBoundingClientRect(), box = c.getBoundingClientRect();
  return box.width > 0 && box.left >= svg.left && box.right <= svg.right && box.top >= svg.top
    && box.bottom <= svg.bottom })
"""


async def never(target: Target, prompts: Prompts) -> Outcome:
    raise AssertionError


def level(num_streams: int, times: float) -> Measured:
    """Everything is `times` slower on the second server."""

    def outcome(slower: float) -> Outcome:
        figures = {
            "rate": Reading(20.0 * num_streams / slower, 100),
            "tpot_p50": Reading(0.04 * slower),
            "ttft_p50": Reading(0.1 * num_streams * slower),
            "ttft_p95": Reading(0.2 * num_streams * slower),
        }
        gaps = Trace(10.0, [11.0, 11.0 + 0.06 * slower, 13.05], ended_at=14.0)
        return Outcome(figures, [gaps])

    figures = (Figure("rate", "tokens/s"),)
    scenario = Scenario(f"s{num_streams}", f"{num_streams} streams", figures, never, num_streams)
    outcomes = {target.name: [outcome(slower)] for target, slower in zip(TARGETS, (1, times), strict=True)}
    return Measured(scenario, outcomes)


def rates() -> Measured:
    def outcome() -> Outcome:
        tried = [(2.0, 0.3), (1.0, 0.125)]
        readings = [
            (rate, {"ttft_p50": Reading(ttft), "ttft_p95": Reading(2 * ttft)}) for rate, ttft in tried
        ]
        return Outcome({}, [], [LoadPoint(rate, each, rate < 2) for rate, each in readings])

    return Measured(Scenario("goodput", "rates", (), never), {t.name: [outcome()] for t in TARGETS})


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def fetched(browser: webdriver.Chrome) -> list[str]:
    events: list[dict[str, Any]] = [
        json.loads(e["message"])["message"] for e in browser.get_log("performance")
    ]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_the_page_shows_the_plots_and_the_tables(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    measured = [level(8, 2.0), level(1, 2.0), rates()]
    sentences = ["ours carries 8 & <i>more</i>.", "theirs carries 1."]
    page.write_text(as_html(measured, TARGETS, {"flags": ["--rounds", "1"]}, sentences), encoding="utf-8")
    browser.get(page.as_uri())
    plots = {title: [tuple(point) for point in points] for title, points in browser.execute_script(POINTS)}
    theirs = "<b>theirs</b>"
    assert plots == {
        "A user's speed against all users' (number: streams)": [
            ("ours", 20, 25),
            ("ours", 160, 25),
            (theirs, 10, 12.5),
            (theirs, 80, 12.5),
        ],
        "Time to the first token against load": [
            *(("ours, p50", 1, 0.1), ("ours, p50", 8, 0.8), ("ours, p95", 1, 0.2), ("ours, p95", 8, 1.6)),
            *((f"{theirs}, p50", 1, 0.2), (f"{theirs}, p50", 8, 1.6)),
            *((f"{theirs}, p95", 1, 0.4), (f"{theirs}, p95", 8, 3.2)),
        ],
        "Inter-token latency over time, 8 streams": [
            *(("ours, p50", 1.05, 60), ("ours, p50", 3.05, 1990)),
            *(("ours, p99", 1.05, 60), ("ours, p99", 3.05, 1990)),
            *((f"{theirs}, p50", 1.15, 120), (f"{theirs}, p50", 3.05, 1930)),
            *((f"{theirs}, p99", 1.15, 120), (f"{theirs}, p99", 3.05, 1930)),
        ],
        "Time to the first token against arrivals": [
            *(("ours, p50", 1, 0.125), ("ours, p50", 2, 0.3), ("ours, p95", 1, 0.25), ("ours, p95", 2, 0.6)),
            *((f"{theirs}, p50", 1, 0.125), (f"{theirs}, p50", 2, 0.3)),
            *((f"{theirs}, p95", 1, 0.25), (f"{theirs}, p95", 2, 0.6)),
        ],
    }
    assert browser.execute_script(PLACES) == [True] * 4, "every point is inside of its drawing"
    text = browser.execute_script("return document.body.innerText")
    assert sentences[0] in text
    assert "8 streams\trate, tokens/s\t100\t160\t80\t2" in text
    assert '"--rounds"' in text
    assert browser.get_log("browser") == []
    assert [url for url in fetched(browser) if url.startswith("http")] == []


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (160, [0, 50, 100, 150, 200]),
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.034, [0, 0.01, 0.02, 0.03, 0.04]),
    ],
)
def test_axes_are_cut_at_round_numbers(highest: float, expected: list[float]) -> None:
    assert ticks(highest) == pytest.approx(expected)
    assert ticks(0.0) == [0.0, 1.0]
