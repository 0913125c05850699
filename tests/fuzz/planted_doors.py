"""Doors with a bug each."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.fuzzing.doors import Doors, Served
from bench.fuzzing.target import Place
from fastapi import FastAPI

from takeoff.settings import Settings


@contextlib.contextmanager
def a_500(_place: Place) -> Iterator[Doors]:
    """Doors with a route more, which fails."""
    with _doors(lambda: 1 // 0) as doors:
        yield doors


@contextlib.contextmanager
def a_read_of_a_door(_place: Place) -> Iterator[Doors]:
    """Doors with a route more, which reads what it must not."""
    with _doors(lambda: Path("/etc/hostname").read_bytes()) as doors:
        yield doors


def _doors(bug: Callable[[], object]) -> contextlib.AbstractContextManager[Doors]:
    class Broken(Served):
        def add_to(self, app: FastAPI) -> None:
            app.add_api_route("/planted", lambda: bug() and {})

    @contextlib.contextmanager
    def opened() -> Iterator[Doors]:
        with Broken(Settings(header_timeout_s=0.1, body_timeout_s=0.1), ("a",)) as served:
            yield Doors(served, _asked, is_kept_open=True)

    return opened()


def _asked(chance: random.Random) -> bytes:
    path = b"/planted" if chance.random() < 0.5 else b"/healthz"
    return b"front\nGET " + path + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"
