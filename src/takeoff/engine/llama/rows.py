"""What one call to the kernels computes. Importing this does not load llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from takeoff.ipc.messages import Image, SlotClass


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """A part of an image as the model takes it."""

    vectors: NDArray[np.float32]  # [n, n_embd]
    sees_itself: bool  # its tokens attend to each other: computed in one call, without the causal mask


Piece = list[int] | ImageTokens  # the model's own tokens around an image, and the image


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive tokens of one slot, as one call computes them.

    `pos` is the position of the first token; only the last token's logits are wanted, if any, unless
    `wants_all`: then those of every token; of all rows of a call at most `Load.n_outputs`. Of an
    image `image` has the vectors, one for each of `token_ids`: it is computed in a call of its own.
    """

    slot: int
    pos: int
    token_ids: Sequence[int]
    wants_logits: bool
    image: ImageTokens | None = None
    wants_all: bool = False

    @property
    def num_outputs(self) -> int:
        """Rows of logits that come of it."""
        return len(self.token_ids) if self.wants_all else int(self.wants_logits)


class Projector(Protocol):
    """Documented at `MtmdProjector`."""

    def read(self, image: Image) -> list[Piece]: ...


class Kernels(Protocol):
    """The one seam below the scheduler: `LlamaKernels`, or a fake in tests of policy.

    The methods are documented at `LlamaKernels`.
    """

    n_vocab: int
    n_slots: int
    n_ctx_slot: int  # of the longest slots
    slot_classes: tuple[SlotClass, ...]  # the shortest first; slots are numbered in this order
    can_trim: bool
    eog_token_ids: list[int]

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]: ...
    def set_threads(self, n_threads: int) -> None: ...
    def clear(self, slot: int) -> None: ...
    def trim(self, slot: int, length: int) -> None: ...
    def snapshot_bytes(self, slot: int) -> int: ...
    def save(self, slot: int, target: NDArray[np.uint8]) -> int: ...
    def restore(self, slot: int, source: NDArray[np.uint8]) -> None: ...
    def piece(self, token_id: int) -> bytes: ...
    def constraint_tokenizer(self) -> LLTokenizer: ...
    def open_projector(self, path: str, *, n_threads: int) -> Projector: ...
    def close(self) -> None: ...
