"""A `takeoff serve` for the scripts that need one, with what it says when it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TextIO

from takeoff.bench.target import Target

ONE_DOOR = [f"--{door}-port=off" for door in ("takeoff", "management", "openai")]  # the first only


def target_at(url: str) -> Target:
    """Of the group `primary` of a server of ours."""
    host, port = url.removeprefix("http://").split(":")
    return Target("server", host, int(port), "primary")


class Server:
    """A server that has just said that it is ready. Stop it."""

    def __init__(self, *flags: str) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "serve", "--port", "0"]
        environ = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True, env=environ)
        self.said = ""
        self.url = self.read_until("ready at ").split()[2]
        self.seconds = time.perf_counter() - started

    def read_until(self, text: str) -> str:
        """The next line in which `text` stands."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if text in line:
                return line
        raise SystemExit(self.said)

    def copy_to(self, target: TextIO) -> None:
        """Let somebody read what it says from now on: nobody else can, and it never waits for a reader."""
        assert self.process.stderr is not None
        copying = (self.process.stderr, target)
        threading.Thread(target=shutil.copyfileobj, args=copying, daemon=True).start()

    def stop(self) -> None:
        """After `copy_to`, too."""
        self.process.terminate()
        self.process.wait()
