"""Runs in a client's own interpreter and calls the client as it is told: a line of JSON in, a line out.

    {"target": "takeoff_client.TakeoffClient", "settings": {}, "method": "generate", "args": ["hi"]}

Streams are read to their end; an exception is told with its type, its text and its status code.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def call(asked: dict[str, Any]) -> dict[str, Any]:
    """Make the one call; `{"answer": ...}` or `{"raised": ...}`."""
    try:
        return {"answer": whole(_target(asked)(*asked.get("args", []), **asked.get("kwargs", {})))}
    except Exception as exc:
        status = getattr(exc, "status_code", None)
        return {"raised": {"type": type(exc).__name__, "message": str(exc), "status_code": status}}


def _target(asked: dict[str, Any]) -> Any:
    """The function, or the method of an object made with `settings`."""
    module, _, name = asked["target"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    if "method" not in asked:
        return target
    made = target(**asked.get("settings", {}))
    for path, value in asked.get("attributes", {}).items():  # what no constructor takes
        owner, _, attribute = path.rpartition(".")
        setattr(getattr(made, owner) if owner else made, attribute, value)
    return getattr(made, asked["method"])


def whole(result: Any) -> Any:
    """What a call came to: awaited, or collected from its stream."""
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    if inspect.isasyncgen(result):
        return asyncio.run(_collected(result))
    if inspect.isgenerator(result):
        return list(result)
    return result


async def _collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


def main() -> None:
    """Answer lines until there are no more; a list of calls is made at once, each on a thread."""
    sys.path.append(str(Path(__file__).parent))  # where the calls are that need more than a line
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print is not an answer
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, list):
            with ThreadPoolExecutor(len(asked)) as pool:
                answer: Any = list(pool.map(call, asked))
        else:
            answer = call(asked)
        answers.write(json.dumps(answer, default=vars) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
