"""A private LLM server, and the same engine from Python: `takeoff.LLM` and `takeoff.AsyncLLM`.

Importing this package is cheap: the two classes, and what they need, are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from takeoff.errors import TakeoffError

if TYPE_CHECKING:
    from takeoff.python import LLM, AsyncLLM

__all__ = ["LLM", "AsyncLLM", "TakeoffError"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from takeoff import python

        return getattr(python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
