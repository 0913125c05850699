"""One loaded model: its weights, vocabulary and adapters, which all of its contexts share.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
from llguidance import LLTokenizer

from takeoff.engine.llama.adapters import Adapters
from takeoff.engine.llama.library import load_model
from takeoff.engine.llama.projector import MtmdProjector
from takeoff.engine.llama.vocabulary import token_to_piece, tokenize
from takeoff.ipc.messages import Load
from takeoff.models.guidance import guidance_tokenizer


class LlamaModel:
    """Weights in memory. `close` is idempotent, and comes after that of its contexts."""

    def __init__(self, load: Load, on_progress: Callable[[float], None] = lambda _share: None) -> None:
        """Map the weights; `on_progress` is told the share that is done.

        Raises:
            ModelError: llama.cpp refused a file.
        """
        self._projector: MtmdProjector | None = None
        self._uses_gpu, self._n_ubatch = load.n_gpu_layers > 0, load.n_ubatch
        self.pointer: C.llama_model_p | None = load_model(
            load.model_path, n_gpu_layers=load.n_gpu_layers, on_progress=on_progress
        )
        self.adapters = Adapters(self.pointer, load.loras)
        self._vocab = C.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self.can_trim = not (
            C.llama_model_n_swa(self.pointer) > 0
            or C.llama_model_is_recurrent(self.pointer)
            or C.llama_model_is_hybrid(self.pointer)
        )
        self.eog_token_ids = [t for t in range(self.n_vocab) if C.llama_vocab_is_eog(self._vocab, t)]
        self._pieces: dict[int, bytes] = {}
        self._constraint_tokenizer: LLTokenizer | None = None

    def piece(self, token_id: int) -> bytes:
        """The bytes that one token stands for; control tokens stand for none."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = token_to_piece(self._vocab, token_id)
        return piece

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text as a prompt begins with it."""
        return tokenize(self._vocab, text.encode(), add_special=True)

    def constraint_tokenizer(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it; the first time it takes up to a second with the GIL."""
        if self._constraint_tokenizer is None:
            pieces = [token_to_piece(self._vocab, token_id) for token_id in range(self.n_vocab)]
            plain = partial(tokenize, self._vocab, add_special=False)
            self._constraint_tokenizer = guidance_tokenizer(pieces, self.eog_token_ids, plain)
        return self._constraint_tokenizer

    def open_projector(self, path: str, *, n_threads: int) -> MtmdProjector:
        """The projector that makes vectors of images for this model; closed with it.

        Raises:
            ModelError: see `MtmdProjector`.
        """
        assert self.pointer is not None, "closed"
        self._projector = MtmdProjector(
            path, self.pointer, n_threads=n_threads, use_gpu=self._uses_gpu, max_whole=self._n_ubatch
        )
        return self._projector

    def close(self) -> None:
        if self._projector is not None:
            self._projector.close()
        if self.pointer is not None:
            C.llama_model_free(self.pointer)
            self.pointer = None
