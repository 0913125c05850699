"""Kernels whose next token depends on every token before it, so that any mix-up changes the text.

A slot's memory is the list of its tokens, each marked with the adapter that it was computed with. The
favourite next token is a hash of the whole list.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import Load, SlotClass

N_VOCAB = 260
EOG = 259


def next_token(token_ids: Sequence[int]) -> int:
    """What the model says after `token_ids`; never the end of text."""
    digest = hashlib.sha256(np.array(token_ids, np.int32).tobytes()).digest()
    return 32 + digest[0] % 90


def marked(token_ids: Sequence[int], lora: str | None) -> list[int]:
    """What a slot remembers of tokens that were computed with an adapter."""
    mark = 0 if lora is None else 1 + zlib.crc32(lora.encode()) % 1_000_000
    return [token_id + mark * 1_000 for token_id in token_ids]


def expected_completion(prompt: Sequence[int], count: int, lora: str | None = None) -> list[int]:
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(next_token(marked(token_ids, lora)))
    return token_ids[len(prompt) :]


def load_for(kernels: FakeKernels, **named: Any) -> Load:
    """What an engine on these kernels is told; `named` are fields that a test cares for."""
    load = Load(
        model_path="",
        n_slots=kernels.n_slots,
        n_ctx_slot=kernels.n_ctx_slot,
        n_batch=512,
        n_ubatch=64,
        n_threads=1,
        n_threads_prefill=1,
        n_gpu_layers=0,
        flash_attention=True,
        deterministic=False,
        cache_bytes=0,
        itl_slo_ms=None,
        slot_classes=list(kernels.slot_classes),
    )
    return msgspec.structs.replace(load, **named)


class FakeKernels:
    def __init__(
        self,
        n_slots: int = 4,
        n_ctx_slot: int = 4096,
        *,
        slot_classes: Sequence[SlotClass] = (),
        can_trim: bool = True,
    ) -> None:
        self.slot_classes = tuple(slot_classes) or (SlotClass(n_slots, n_ctx_slot),)
        self.room = [slots.n_ctx for slots in self.slot_classes for _ in range(slots.n_slots)]  # by slot
        self.n_vocab, self.n_slots, self.n_ctx_slot = N_VOCAB, len(self.room), self.room[-1]
        self.can_trim = can_trim
        self.eog_token_ids = [EOG]
        self.memory: list[list[int]] = [[] for _ in self.room]
        self.calls: list[list[Rows]] = []
        self.loras: list[str | None] = []  # the adapter of each call

    @property
    def prefilled_tokens(self) -> int:
        return sum(len(rows.token_ids) for call in self.calls for rows in call if len(rows.token_ids) > 1)

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        assert [rows.slot for rows in work] == sorted({rows.slot for rows in work}), "slots must rise"
        assert len({self.room[rows.slot] for rows in work}) == 1, "a call is of one class"
        self.calls.append(list(work))
        self.loras.append(lora)
        logits = []
        for rows in work:
            memory = self.memory[rows.slot]
            assert rows.pos == len(memory), "a token was computed at the wrong position"
            memory += marked(rows.token_ids, lora)
            assert len(memory) <= self.room[rows.slot]
            logits += [
                self.logits_after(memory[: len(memory) - back]) for back in reversed(range(rows.num_outputs))
            ]
        return np.array(logits, np.float32).reshape(-1, self.n_vocab)

    def logits_after(self, token_ids: list[int]) -> NDArray[np.float32]:
        """[n_vocab]: what the model says after these."""
        row = np.zeros(self.n_vocab, np.float32)
        row[next_token(token_ids)] = 10.0
        return row

    def set_threads(self, n_threads: int) -> None:
        assert n_threads >= 1

    def clear(self, slot: int) -> None:
        self.memory[slot] = []

    def trim(self, slot: int, length: int) -> None:
        assert self.can_trim
        del self.memory[slot][length:]

    def snapshot_bytes(self, slot: int) -> int:
        return 4 * len(self.memory[slot])

    def save(self, slot: int, target: NDArray[np.uint8]) -> int:
        data = np.array(self.memory[slot], np.int32).view(np.uint8)
        target[: len(data)] = data
        return len(data)

    def restore(self, slot: int, source: NDArray[np.uint8]) -> None:
        memory = source.copy().view(np.int32).tolist()
        assert self.can_trim or len(memory) <= self.room[slot]
        self.memory[slot] = memory[: self.room[slot]]

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def close(self) -> None:
        pass
