"""The pages in a real headless Chromium at both doors that have them: each speaks its own door's API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import threading
from collections.abc import Iterator

import pytest
from tests.e2e.test_pages import Browser, bodies
from tests.http.door import FakeService, ask, make_door

from takeoff.http.server import DoorServer, listen
from takeoff.settings import Settings

PIECES = ("Hel", "lo", " w\u00f6rld", "\n\n", "- a", " ", " b: x", "\n", "\U0001f642", "data: y")
LENGTH_FIELD = {"front": "generate_max_length", "takeoff": "max_new_tokens"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@contextlib.contextmanager
def served(service: FakeService, door: str) -> Iterator[str]:
    """The address of the real server over `service`, in a thread of its own."""
    server = DoorServer(make_door(service, door), Settings(), listen("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        server.cut()
        thread.join()


@pytest.mark.parametrize("door", LENGTH_FIELD)
def test_a_page_asks_and_shows_what_its_door_answers(browser: Browser, door: str) -> None:
    service = FakeService(PIECES)
    with served(service, door) as url:
        browser.open(f"{url}/demos/playground")
        assert browser.text("#state") == "smollm2"
        browser.set_number("[name=generate_max_length]", 6)
        browser.css("#run").click()
        browser.wait_idle()
        assert browser.text("#output") == "".join(PIECES)
        (body,) = bodies(browser.requests())
        assert body[LENGTH_FIELD[door]] == 6
        assert LENGTH_FIELD.values() & body.keys() == {LENGTH_FIELD[door]}
        assert json.loads(shlex.split(browser.text("#curl"))[-1]) == body
        assert browser.complaints() == []
    assert service.requests[0].sampling.max_new_tokens == 6


@pytest.mark.parametrize("door", LENGTH_FIELD)
def test_the_start_page_tells_only_of_routes_that_its_door_has(browser: Browser, door: str) -> None:
    with served(FakeService(), door) as url:
        browser.open(url)
        assert browser.css("a[href='/metrics']").is_displayed() is (door == "front")
        assert browser.complaints() == []


def test_a_door_without_pages_has_none() -> None:
    for door in ("management", "openai"):
        for path in ("/", "/docs", "/demos/chat", "/web/style.css"):
            assert ask(make_door(door=door), "GET", path).status == 404
