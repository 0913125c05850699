"""Files that the front process takes, loaded by a real preparer in its sandbox: llama.cpp's turn.

The preparer may die of a hostile vocabulary or be late with a hostile template: then whoever asked is told.
The front process, here the worker, must not.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

from bench.fuzzing.gguf_parts import STRING, changed, text
from bench.fuzzing.model_files import SIZE, cut_head
from bench.fuzzing.target import Found, Place
from bench.fuzzing.texts import Templates

from takeoff.errors import ModelError, PreparerFailed, TakeoffError
from takeoff.ipc.messages import Prepare, Prepared
from takeoff.models.gguf import read_gguf
from takeoff.service.engines import Commands
from takeoff.service.preparer import Preparer

NUM_TOKENS = 600  # of the real vocabulary that are kept: its bytes are among the first
ANSWER_S = 2.0


class Vocabularies:
    """A preparer for each case: the file's vocabulary, its template, and a prompt."""

    limit_s = 30.0
    may_be_late = False
    memory_bytes = None
    watches_caller = True

    def __init__(self, place: Place) -> None:
        self._head = cut_head(place.model, most_elements=NUM_TOKENS)
        self._path = place.folder / "model.gguf"
        self._templates = Templates()

    def make(self, chance: random.Random) -> bytes:
        head = self._head
        if chance.random() < 0.5:
            template = text(self._templates.make(chance))
            entries = (
                replace(each, kind=STRING, value=template) if each.key.endswith(b"chat_template") else each
                for each in head.entries
            )
            head = replace(head, entries=tuple(entries))
        else:
            head = changed(head, chance)
        return SIZE.pack(max(0, head.file_bytes)) + head.written()

    def run(self, case: bytes) -> bool:
        with self._path.open("wb") as file:
            file.write(case[SIZE.size :])
            file.truncate(max(file.tell(), min(int.from_bytes(case[: SIZE.size], "little"), 1 << 40)))
        try:
            read_gguf(self._path)
        except ModelError:
            return False
        return asyncio.run(self._prepared(self._path))

    async def _prepared(self, path: Path) -> bool:
        preparer = Preparer(
            Commands().preparer, str(path), timeout_s=ANSWER_S, environ={}, on_restart=lambda: None
        )
        try:
            answer = await preparer.ask(Prepare(1, "Hello <|im_end|> wörld", "on", 10_000, None, []))
        except TakeoffError as exc:
            if exc.status >= 500 and not isinstance(exc, PreparerFailed):
                raise Found(f"refused as {exc.code}", exc.told) from exc
            return False
        finally:
            await preparer.stop()
        assert isinstance(answer, Prepared)
        return True


def vocabulary(place: Place) -> Vocabularies:
    return Vocabularies(place)
