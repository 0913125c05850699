"""A GGUF model that embeds, run by llama.cpp's own pooling.

The header names the pooling; it has no word on length, so vectors are scaled to length 1. The texts of
a batch are computed one after the other: in one call llama.cpp's kernels round otherwise beside other
texts (1e-4 measured on MiniLM in float32), and each token's attention runs over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.encoder.model import Tokens
from takeoff.engine.encoder.pooling import unit_length
from takeoff.engine.llama.pooling import PoolingContext
from takeoff.errors import InvalidRequest, ModelError
from takeoff.ipc.messages import LoadEncoder
from takeoff.models.gguf import GgufFile
from takeoff.request import Task, Text


class GgufModel:
    """See `takeoff.engine.encoder.model.Model`."""

    labels: tuple[str, ...] = ()

    def __init__(self, model: GgufFile, load: LoadEncoder) -> None:
        """Load the network.

        Raises:
            ModelError: llama.cpp refused it, or it is not of a kind we can run.
        """
        if load.task is not Task.EMBED:
            raise ModelError(
                f"{model.path.name} scores pairs of texts, which we run in ONNX only",
                hint="export the model to ONNX",
            )
        self.max_tokens = load.max_tokens or model.context_length
        if self.max_tokens > model.context_length:
            raise ModelError(
                f"texts of {self.max_tokens} tokens were asked for, "
                f"and this model has {model.context_length} positions"
            )
        self._context = PoolingContext(
            load.model_path,
            n_threads=load.n_threads,
            max_tokens=self.max_tokens,
        )
        self.num_dimensions = self._context.num_dimensions

    def tokenize(self, text: Text) -> Tokens:
        """See `Model`."""
        ids = self._ids(text)
        return Tokens(ids, [0] * len(ids))

    def compute(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """See `Model`."""
        return unit_length(np.stack([self._context.embed(tokens.ids) for tokens in batch]))

    def spell(self, text: Text, *, skip_special_tokens: bool) -> tuple[list[int], list[str]]:
        """See `Model`."""
        ids = self._visible(self._ids(text), skip_special_tokens)
        return ids, [self._context.token_text(token_id) for token_id in ids]

    def detokenize(self, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """See `Model`."""
        ids = [self._token_id(token) for token in tokens]
        return self._context.detokenize(self._visible(ids, skip_special_tokens))

    def _ids(self, text: Text) -> list[int]:
        if not isinstance(text, str):
            raise InvalidRequest("a pair of texts can be classified, not embedded", param="text")
        return self._context.tokenize(text)

    def _visible(self, ids: list[int], skip_special_tokens: bool) -> list[int]:
        if not skip_special_tokens:
            return ids
        return [token_id for token_id in ids if not self._context.is_control(token_id)]

    def _token_id(self, token: int | str) -> int:
        found = self._context.find(token) if isinstance(token, str) else token
        if found is None or not 0 <= found < self._context.n_vocab:
            raise InvalidRequest(f"the vocabulary has no token {token!r}", param="tokens")
        return found
