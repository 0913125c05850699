"""A model that embeds: llama.cpp computes a text's tokens and pools them, as the file's header says.

A context either generates or embeds; this one keeps nothing between calls.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.library import load_model
from takeoff.engine.llama.vocabulary import tokenize
from takeoff.errors import EngineFailed, ModelError

_POOLINGS = (C.LLAMA_POOLING_TYPE_MEAN, C.LLAMA_POOLING_TYPE_CLS, C.LLAMA_POOLING_TYPE_LAST)
_PARSED_ONLY_AS_SPECIAL = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN


class PoolingContext:
    """A model, its vocabulary and room for one text. One thread calls it; it lives as its process."""

    def __init__(self, model_path: str, *, n_threads: int, max_tokens: int) -> None:
        """Map the weights and reserve every buffer.

        Raises:
            ModelError: llama.cpp refused the file, or it pools in a way we don't run.
        """
        self._model = load_model(model_path, n_gpu_layers=0)
        self._vocab = C.llama_model_get_vocab(self._model)
        self.n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self._context = self._make_context(n_threads, max_tokens)
        if C.llama_pooling_type(self._context) not in _POOLINGS:
            raise ModelError(f"{model_path} does not pool by mean, first or last token")
        self._memory = C.llama_get_memory(self._context)
        self.num_dimensions: int = C.llama_model_n_embd_out(self._model)
        self._ids: dict[str, int] | None = None  # made when first asked for
        self._begins_words = C.llama_vocab_type(self._vocab) == C.LLAMA_VOCAB_TYPE_WPM  # with a space each

    def _make_context(self, n_threads: int, max_tokens: int) -> C.llama_context_p:
        params = C.llama_context_default_params()
        params.embeddings = True
        params.n_seq_max = 1
        # Each token of a text sees all the others, so a text must not be cut over micro-batches.
        params.n_ctx = params.n_batch = params.n_ubatch = max_tokens
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        context: C.llama_context_p | None = C.llama_init_from_model(self._model, params)
        if not context:
            raise ModelError(f"no context of {max_tokens} tokens could be made", hint="lower --context")
        return context

    def embed(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """[num_dimensions] the pooled vector of one text, of any length; the GIL is released.

        Raises:
            EngineFailed: llama.cpp could not compute the text; nothing of it is left.
        """
        if self._memory:
            C.llama_memory_clear(self._memory, False)
        tokens = (C.llama_token * len(token_ids))(*token_ids)
        batch = C.llama_batch_get_one(tokens, len(token_ids))
        batch.logits = (ctypes.c_int8 * len(token_ids))(*[1] * len(token_ids))  # every token is pooled
        code = C.llama_decode(self._context, batch)
        if code != 0:
            raise EngineFailed(f"llama_decode returned {code} for {len(token_ids)} tokens")
        vector = C.llama_get_embeddings_seq(self._context, 0)
        if not vector:
            raise EngineFailed(f"llama.cpp pooled nothing of {len(token_ids)} tokens")
        return np.ctypeslib.as_array(vector, shape=(self.num_dimensions,)).copy()

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the special tokens that the vocabulary asks for; no text becomes one."""
        return tokenize(self._vocab, text.encode(), add_special=True)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for."""
        tokens = (C.llama_token * len(ids))(*ids)
        room = 16 * len(ids) + 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = C.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, False, True)
            if count >= 0:
                text = buffer.raw[:count].decode("utf-8", "replace")
                return text.removeprefix(" ") if self._begins_words else text
            room = -count

    def token_text(self, token_id: int) -> str:
        """One token as the vocabulary writes it."""
        raw: bytes = C.llama_vocab_get_text(self._vocab, token_id)
        return raw.decode("utf-8", "replace")

    def find(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes as `text`."""
        if self._ids is None:
            self._ids = {self.token_text(token_id): token_id for token_id in range(self.n_vocab)}
        return self._ids.get(text)

    def is_control(self, token_id: int) -> bool:
        """Whether the token stands for no text of its own."""
        return bool(C.llama_vocab_get_attr(self._vocab, token_id) & _PARSED_ONLY_AS_SPECIAL)
