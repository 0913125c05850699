"""The real client packages, each called in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NO_NETWORK = {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
}
LIMIT_S = 120  # of a program, against hanging only


class Raised(Exception):
    """What a client raised on its user."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(f"{told['type']}: {told['message']}")
        self.type: str = told["type"]
        self.message: str = told["message"]
        self.status_code: int | None = told["status_code"]


class Environment:
    """An interpreter with one client package installed, running `call.py`."""

    def __init__(self, name: str, home: Path) -> None:
        """Set the environment up unless it is there; the test fails by the client's name if it can't be."""
        made = subprocess.run(
            [ROOT / "setup.sh", "client", name], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.fail(f"the client {name} could not be had: {made.stderr}", pytrace=False)
        programs = Path(made.stdout.strip()) / "bin"
        path = f"{programs}:{os.environ['PATH']}"
        self._variables = os.environ | NO_NETWORK | {"HOME": str(home), "PATH": path}
        self._process = subprocess.Popen(
            [programs / "python", "-I", ROOT / "tests" / "clients" / "call.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._variables,
        )

    def call(self, target: str, *args: object, **call: object) -> Any:
        """Call a function, or with `method=` an object's method; `settings`, `kwargs`: see call.py.

        Raises:
            Raised: the client raised.
        """
        return _answer_of(self._ask({"target": target, "args": args, **call}))

    def call_together(self, calls: list[dict[str, Any]]) -> list[Any]:
        """Several calls at the same time, each on a thread of its own; their answers in order."""
        return [_answer_of(told) for told in self._ask(calls)]

    def run(self, *command: str, folder: Path, **variables: str) -> str:
        """What a program of the package's prints, run in `folder`."""
        ran = subprocess.run(
            command,
            cwd=folder,
            env=self._variables | variables,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, asked: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _answer_of(told: dict[str, Any]) -> Any:
    if "raised" in told:
        raise Raised(told["raised"])
    return told["answer"]
