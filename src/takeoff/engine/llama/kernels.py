"""The kernels of an engine: one loaded model, and a context for each class of its slots.

llama.cpp gives every sequence of a context as many cells as every other. So slots of two sizes are two
contexts, over the same weights: a sequence of 8,000 tokens does not make sixteen of a hundred pay for as
many. Slots are numbered through, those of the first class first.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from takeoff.engine.llama.backends import keep_rows_alike, num_attended
from takeoff.engine.llama.context import LlamaContext
from takeoff.engine.llama.model import LlamaModel
from takeoff.engine.llama.projector import MtmdProjector
from takeoff.engine.llama.rows import Rows
from takeoff.errors import EngineFailed, ModelError
from takeoff.ipc.messages import Load, SlotClass


def make_kernels(load: Load, model: LlamaModel) -> tuple[Load, LlamaKernels]:
    """The kernels of an engine, and `load` as they really are: deterministic ones may have to go without
    fused attention. They close the model.

    Raises:
        ModelError: as `LlamaKernels` does.
    """
    kernels = LlamaKernels(load, model)
    if load.deterministic and load.flash_attention and not kernels.attends_exactly():
        kernels.close_contexts()
        load = msgspec.structs.replace(load, flash_attention=False)
        kernels = LlamaKernels(load, model)
    return load, kernels


class LlamaKernels:
    """Methods that name a slot are documented at `LlamaContext`, the others at `LlamaModel`.

    Not thread-safe: one thread calls it. `close` is idempotent.
    """

    def __init__(self, load: Load, model: LlamaModel) -> None:
        """Reserve every buffer; `model` is ours from now on.

        Raises:
            ModelError: memory for a context was not to be had, or the model's state can't move between
                slots of two sizes.
        """
        self._contexts: list[LlamaContext] = []
        self._context_of: list[LlamaContext] = []  # by slot
        self._model = model
        if load.deterministic:
            keep_rows_alike()
        try:
            for slots in load.classes:
                context = LlamaContext(self._model, load, slots, first_slot=len(self._context_of))
                self._contexts.append(context)
                self._context_of += [context] * slots.n_slots
            if len(self._contexts) > 1:
                self._check_moves()
        except BaseException:
            self.close()
            raise
        self.slot_classes = tuple(SlotClass(each.n_slots, each.n_ctx) for each in self._contexts)
        self.n_slots = len(self._context_of)
        self.n_ctx_slot = self.slot_classes[-1].n_ctx
        self.n_vocab = self._model.n_vocab
        self.can_trim = self._model.can_trim
        self.eog_token_ids = self._model.eog_token_ids

    def attends_exactly(self) -> bool:
        """Whether a row's attention has the same bits whatever is computed beside it: ours has.

        llama.cpp's own fused kernel goes one way or another, by the number of rows and of keys.
        """
        before = num_attended()
        self.forward([Rows(0, 0, [0], False)])
        self.clear(0)
        return num_attended() > before

    def _check_moves(self) -> None:
        """Take a token from the first class to each other: what a model remembers may be of another kind."""
        first, *others = self._contexts
        first.forward([Rows(first.first_slot, 0, [0], False)])
        state = np.empty(first.snapshot_bytes(first.first_slot), np.uint8)
        first.save(first.first_slot, state)
        try:
            for context in others:
                context.restore(context.first_slot, state)
                context.forward([Rows(context.first_slot, 1, [0], False)])
        except EngineFailed as exc:
            raise ModelError(
                f"the state of this model can't move between slots of two sizes: {exc}", hint="--long-slots 0"
            ) from None
        for context in self._contexts:
            context.clear(context.first_slot)

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        """Compute `work`, whose slots are of one class."""
        return self._context_of[work[0].slot].forward(work, lora)

    def set_threads(self, n_threads: int) -> None:
        for context in self._contexts:
            context.set_threads(n_threads)

    def clear(self, slot: int) -> None:
        self._context_of[slot].clear(slot)

    def trim(self, slot: int, length: int) -> None:
        self._context_of[slot].trim(slot, length)

    def snapshot_bytes(self, slot: int) -> int:
        return self._context_of[slot].snapshot_bytes(slot)

    def save(self, slot: int, target: NDArray[np.uint8]) -> int:
        return self._context_of[slot].save(slot, target)

    def restore(self, slot: int, source: NDArray[np.uint8]) -> None:
        self._context_of[slot].restore(slot, source)

    def piece(self, token_id: int) -> bytes:
        return self._model.piece(token_id)

    def tokenize(self, text: str) -> list[int]:
        return self._model.tokenize(text)

    def constraint_tokenizer(self) -> LLTokenizer:
        return self._model.constraint_tokenizer()

    def open_projector(self, path: str, *, n_threads: int) -> MtmdProjector:
        return self._model.open_projector(path, n_threads=n_threads)

    def close_contexts(self) -> None:
        """All but the model."""
        for context in self._contexts:
            context.close()

    def close(self) -> None:
        self.close_contexts()
        self._model.close()
