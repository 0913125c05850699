"""A real server with real weights: the same requests, now through the preparer and the engine.

The front process is watched as the others are, and so is whether its engine is the one that it began with.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import requests
from bench.fuzzing.doors import form
from bench.fuzzing.exchange import Line, check, has_body
from bench.fuzzing.requests import Route, request_to, routes_of
from bench.fuzzing.target import Found, Place

FLAGS = (
    "--port=0",
    "--takeoff-port=0",
    "--management-port=0",
    "--openai-port=0",
    "--max-slots=4",
    "--context=256",
)
TITLES = {"takeoff": "Takeoff API ", "management": "management ", "openai": "OpenAI API "}
ENGINE = "takeoff.engine.process"
# They would change what is served, for all cases that follow.
NOT_ASKED = {("management", "POST", "/reader"), ("management", "DELETE", "/reader/{reader_id}")}
BY_DESIGN = (
    b'"preparer_failed"',
    b"took longer than",
)  # a preparer that was late was ended, and this says so


class RealServer:
    """A `takeoff serve`, and a way to ask what it was seen to do."""

    def __init__(self, place: Place) -> None:
        command = [sys.executable, "-m", "bench.fuzzing.watched_server", str(place.folder), "serve"]
        flags = [*FLAGS, "--model", "smollm2", "--request-log", "off", "--prepare-timeout-s", "3"]
        self.process = subprocess.Popen(
            [*command, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = self._said_until("curl")
        self.ports = {"front": int(re.findall(r"ready at \S+:(\d+)", said)[0])}
        for name, title in TITLES.items():
            self.ports[name] = int(re.findall(re.escape(title) + r"\S+:(\d+)", said)[0])
        assert self.process.stderr is not None
        copying = (self.process.stderr, sys.stderr)
        threading.Thread(target=shutil.copyfileobj, args=copying, daemon=True).start()
        self.engine = self._engine()

    def routes(self) -> list[Route]:
        """Those of all doors, as they describe themselves."""
        found = []
        for name, port in self.ports.items():
            described = requests.get(f"http://127.0.0.1:{port}/openapi.json", timeout=30).json()
            found += [
                each for each in routes_of(name, described) if (name, each.method, each.path) not in NOT_ASKED
            ]
        return found

    def ask(self, line: str) -> list[str]:
        """`arm` or `tell`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))

    def check(self) -> None:
        """Raises Found: it is dead, it did what it must not, or its engine is another one."""
        if self.process.poll() is not None:
            raise Found("the front process died", f"with {self.process.returncode}")
        if seen := self.ask("tell"):
            raise Found(f"forbidden: {' '.join(seen[0].split()[:1])}", "; ".join(seen[:5]))
        if self._engine() != self.engine:
            before, self.engine = self.engine, self._engine()
            raise Found("the engine died", f"{before}, now {self.engine}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _engine(self) -> int | None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if ENGINE in child.cmdline() and child.status() not in ("zombie", "dead"):
                    return child.pid
        return None

    def _said_until(self, text: str) -> str:
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if text in line:
                return said
        raise SystemExit(said)


class ServedDoors:
    """Requests to a real server."""

    limit_s = 60.0
    may_be_late = False
    memory_bytes: int | None = None
    watches_caller = False  # it is the client; the server has a watcher of its own

    def __init__(self, server: RealServer) -> None:
        self._server = server
        self._lines = {name: Line(port) for name, port in server.ports.items()}
        self._routes = server.routes()

    def make(self, chance: random.Random) -> bytes:
        if chance.random() < 0.05:
            return form(chance)
        route = chance.choice(
            [each for each in self._routes if each.body is not None or chance.random() < 0.2]
        )
        request = request_to(route, chance)
        head, _, rest = request.partition(b"\r\n")
        return f"{route.door}\n".encode() + head + b"\r\nx-request-timeout: 30\r\n" + rest

    def run(self, case: bytes) -> bool:
        name, _, request = case.partition(b"\n")
        line = self._lines.get(name.decode("latin-1"), self._lines["front"])
        answer = line.ask(request, has_body=has_body(request))
        self._server.check()
        if answer.status == 503 and all(each in answer.body for each in BY_DESIGN):
            return False
        target = request.split(b" ", 2)[1:2] or [b""]
        return check(answer, target[0].decode("latin-1"))


@contextlib.contextmanager
def served(place: Place) -> Iterator[ServedDoors]:
    server = RealServer(place)
    try:
        target = ServedDoors(server)
        server.ask("arm")
        yield target
    finally:
        server.stop()
