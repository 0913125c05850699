"""Images to vectors: llama.cpp's mtmd beside a loaded language model.

The only owner of mtmd's pointers. Has buffers of its own, so another thread than the one that steps may
call it; that thread's calls are not held up but by the cores that both use.

Source: tools/mtmd/mtmd.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import llama_cpp.mtmd_cpp as M  # noqa: N812
import numpy as np

from takeoff.engine.llama.library import log_callback
from takeoff.engine.llama.rows import ImageTokens, Piece
from takeoff.errors import EngineFailed, InvalidRequest, ModelError
from takeoff.ipc.messages import Image


class MtmdProjector:
    """One projector file. One thread calls it; `close` is idempotent."""

    def __init__(
        self, path: str, model: C.llama_model_p, *, n_threads: int, use_gpu: bool, max_whole: int
    ) -> None:
        """Load the weights. `max_whole`: tokens of an image that can be computed in one call.

        Raises:
            ModelError: llama.cpp refused the file, or it needs what we have not.
        """
        self._max_whole = max_whole
        self._n_embd: int = C.llama_model_n_embd_inp(model)
        M.mtmd_log_set(log_callback, None)
        params = M.mtmd_context_params_default()
        params.use_gpu = use_gpu
        params.print_timings = False
        params.n_threads = n_threads
        self._mtmd = M.mtmd_init_from_file(path.encode(), model, params)
        if not self._mtmd:
            raise ModelError(
                f"llama.cpp can't load the projector {path}", hint="its log (--log-level debug) says why"
            )
        if M.mtmd_decode_use_mrope(self._mtmd):
            self.close()
            raise ModelError(
                f"the projector {path} is of a model with two-dimensional positions (M-RoPE), "
                "which are not supported for images",
                hint="serve the model without --mmproj, or a model of another family",
            )

    def read(self, image: Image) -> list[Piece]:
        """The image in the model's words: tokens that begin and end it, vectors between.

        Raises:
            InvalidRequest: the model can't take this image.
            EngineFailed: llama.cpp failed.
        """
        pixels = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
        bitmap = M.mtmd_bitmap_init(image.width, image.height, pixels)
        chunks = M.mtmd_input_chunks_init()
        try:
            part = M.mtmd_input_part(text=None, bitmap=bitmap)
            parts = (ctypes.POINTER(M.mtmd_input_part) * 1)(ctypes.pointer(part))
            code = M.mtmd_tokenize_from_parts(self._mtmd, chunks, parts, 1, False)
            if code != 0:
                raise InvalidRequest(
                    f"the model can't take an image of {image.width} x {image.height} pixels",
                    param="image_data",
                )
            count = M.mtmd_input_chunks_size(chunks)
            return [self._piece(M.mtmd_input_chunks_get(chunks, index)) for index in range(count)]
        finally:
            M.mtmd_input_chunks_free(chunks)
            M.mtmd_bitmap_free(bitmap)

    def _piece(self, chunk: M.mtmd_input_chunk_p) -> Piece:
        if M.mtmd_input_chunk_get_type(chunk) == M.MTMD_INPUT_CHUNK_TYPE_TEXT:
            size = ctypes.c_size_t()
            tokens = M.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
            return list(tokens[: size.value])
        num_tokens: int = M.mtmd_input_chunk_get_n_tokens(chunk)
        sees_itself = bool(M.mtmd_decode_use_non_causal(self._mtmd, chunk))
        if sees_itself and num_tokens > self._max_whole:
            raise InvalidRequest(
                f"the image has {num_tokens} tokens, and {self._max_whole} can be computed at once",
                param="image_data",
                hint="serve with a larger --ubatch",
            )
        code = M.mtmd_encode_chunk(self._mtmd, chunk)
        if code != 0:
            raise EngineFailed(f"mtmd_encode_chunk returned {code} for {num_tokens} tokens")
        vectors = np.ctypeslib.as_array(M.mtmd_get_output_embd(self._mtmd), (num_tokens, self._n_embd))
        return ImageTokens(vectors.copy(), sees_itself)

    def close(self) -> None:
        if self._mtmd:
            M.mtmd_free(self._mtmd)
            self._mtmd = None
