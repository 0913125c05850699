"""What an encoder needs of a model: one seam for ONNX files, GGUF files and the tests' fakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from takeoff.request import Text


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, or a pair, as the network takes it."""

    ids: list[int]
    type_ids: list[int]  # 0: of the first text, 1: of the second

    def __len__(self) -> int:
        return len(self.ids)


class Model(Protocol):
    """A loaded model. One thread uses it."""

    @property
    def num_dimensions(self) -> int:
        """Of a vector, or the number of classes."""

    @property
    def max_tokens(self) -> int:
        """Of one text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none where vectors come out."""

    def tokenize(self, text: Text) -> Tokens:
        """With the special tokens that the model wants.

        Raises:
            InvalidRequest: the model takes no such text.
        """

    def compute(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """[len(batch), num_dimensions] vectors or scores, in the order of `batch`; nothing is modified.

        Raises:
            EngineFailed: the network could not be run on these.
        """

    def spell(self, text: Text, *, skip_special_tokens: bool) -> tuple[list[int], list[str]]:
        """Ids of a text's tokens, and the tokens as the vocabulary writes them. Raises as `tokenize`."""

    def detokenize(self, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """The text that tokens stand for.

        Raises:
            InvalidRequest: the vocabulary has no such token.
        """
