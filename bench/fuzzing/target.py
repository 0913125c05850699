"""What is fuzzed: something that makes cases of chance and takes them one at a time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from bench.fuzzing.watch import Watcher

MAX_CASE_BYTES = 6 << 20


class Found(Exception):
    """A promise is broken. `sign` is what it has in common with others of its kind, to count them."""

    def __init__(self, sign: str, message: str) -> None:
        super().__init__(message)
        self.sign = sign


class Target(Protocol):
    """One of them, in a process of its own."""

    limit_s: float  # for one case
    may_be_late: bool  # the product ends what is late by design, and says so: it is no finding then
    memory_bytes: int | None  # that a case may add; None: not bounded here
    watches_caller: bool  # whether what is watched is done in the thread that calls `run`

    def make(self, chance: random.Random) -> bytes:
        """A case; the same chance gives the same."""
        ...

    def run(self, case: bytes) -> bool:
        """Whether it was accepted; False: refused in the way that is promised.

        Raises:
            Found: a promise is broken; any other exception means the same.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """What a target works with."""

    folder: Path  # its own, to write into
    model: Path  # a real model file
    watcher: Watcher


def opened(spec: str, place: Place) -> contextlib.AbstractContextManager[Target]:
    """The target that `spec` names, `module:function`, while it is used."""
    module, _, name = spec.partition(":")
    made: Any = getattr(import_module(module), name)(place)
    return made if isinstance(made, contextlib.AbstractContextManager) else _kept(made)


@contextlib.contextmanager
def _kept(target: Target) -> Iterator[Target]:
    yield target
