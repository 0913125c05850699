"""The KV cache of some slots, and computing in them: a context of llama.cpp as the engine uses it.

One KV stream per slot (`kv_unified = false`), all of one size; every return code becomes an error or a
result here, nothing of ctypes leaves this module.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.model import LlamaModel
from takeoff.engine.llama.rows import Rows
from takeoff.engine.llama.snapshots import fitting
from takeoff.errors import EngineFailed, ModelError
from takeoff.ipc.messages import Load, SlotClass
from takeoff.models.gguf_types import TENSOR_TYPES

_GGML_TYPES = {name.lower(): number for number, (name, _, _) in TENSOR_TYPES.items()}


class LlamaContext:
    """Slots `first_slot` ... `first_slot + n_slots - 1` of an engine, of `n_ctx` tokens each.

    Not thread-safe: one thread calls it. `close` is idempotent, and comes before the model's.
    """

    def __init__(self, model: LlamaModel, load: Load, slots: SlotClass, first_slot: int) -> None:
        """Reserve every buffer.

        Raises:
            ModelError: memory for the context was not to be had.
        """
        assert model.pointer is not None, "closed"
        self._model = model
        self._context: C.llama_context_p | None = _make_context(model.pointer, load, slots)
        self._memory = C.llama_get_memory(self._context)
        self._lora: str | None = None
        self.first_slot = first_slot
        self.n_slots = slots.n_slots
        self.n_ctx: int = C.llama_n_ctx_seq(self._context)
        self._batch = _Batch(load.n_batch, first_slot)

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        """Compute `work` with one adapter or none, in one call; the GIL is released for the whole of it.

        Slots must be rising in `work`: llama.cpp cuts a call wherever slot ids are not consecutive.
        Rows of an image must be alone.

        Returns:
            [outputs of all work items, n_vocab] float32, in the order of `work`;
            llama.cpp's own memory: may be modified, valid until the next call of this context.

        Raises:
            EngineFailed: any non-zero code. Part of `work` may be in the cache: drop its slots.

        Source: comment on llama_decode, include/llama.h.
        """
        assert self._context is not None, "closed"
        if lora != self._lora:
            self._model.adapters.apply(self._context, lora)
            self._lora = lora
        num_outputs = self._batch.fill(work)
        image = work[0].image
        if image is not None and image.sees_itself:
            C.llama_set_causal_attn(self._context, False)
        code = C.llama_decode(self._context, self._batch.struct)
        if image is not None and image.sees_itself:
            C.llama_set_causal_attn(self._context, True)
        if code != 0:
            raise EngineFailed(f"llama_decode returned {code} for {self._batch.struct.n_tokens} tokens")
        if num_outputs == 0:
            C.llama_synchronize(self._context)
            return np.empty((0, self._model.n_vocab), np.float32)
        logits = C.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(num_outputs, self._model.n_vocab))

    def set_threads(self, n_threads: int) -> None:
        """Threads of the next calls, whatever their size."""
        C.llama_set_n_threads(self._context, n_threads, n_threads)

    def clear(self, slot: int) -> None:
        """Forget everything in `slot`."""
        C.llama_memory_seq_rm(self._memory, slot - self.first_slot, -1, -1)

    def trim(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens of `slot`.

        Raises:
            EngineFailed: this model's cache can't be trimmed there; the slot must be cleared.
        """
        if not C.llama_memory_seq_rm(self._memory, slot - self.first_slot, length, -1):
            raise EngineFailed(f"slot {slot} can't be trimmed to {length} tokens")

    def snapshot_bytes(self, slot: int) -> int:
        """Size of the snapshot that `save` would write now."""
        return int(C.llama_state_seq_get_size(self._context, slot - self.first_slot))

    def save(self, slot: int, target: NDArray[np.uint8]) -> int:
        """Copy the state of `slot` into `target`; returns the bytes written.

        Raises:
            EngineFailed: `target` is too small.
        """
        stream = slot - self.first_slot
        written = C.llama_state_seq_get_data(self._context, _bytes_pointer(target), target.nbytes, stream)
        if written == 0:
            raise EngineFailed(f"no snapshot of slot {slot} in {target.nbytes} bytes")
        return int(written)

    def restore(self, slot: int, source: NDArray[np.uint8]) -> None:
        """Make `slot` what `source` was when it was saved; what was in it is gone.

        `source` may be of a context of other slots. Of tokens that don't fit the first are restored.

        Raises:
            EngineFailed: not a snapshot of this model; the slot must be cleared.
        """
        data = fitting(source, n_streams=self.n_slots, max_cells=self.n_ctx)
        stream = slot - self.first_slot
        if C.llama_state_seq_set_data(self._context, _bytes_pointer(data), data.nbytes, stream) == 0:
            raise EngineFailed(f"a snapshot of {source.nbytes} bytes could not be restored into slot {slot}")

    def close(self) -> None:
        if self._context is not None:
            C.llama_free(self._context)
            self._context = None


class _Batch:
    """A llama_batch over numpy arrays, so that filling it costs no Python per token."""

    def __init__(self, capacity: int, first_slot: int) -> None:
        self._first_slot = first_slot
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._num_slots = np.ones(capacity, np.int32)
        self._slots = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        addresses = self._slots.ctypes.data + np.arange(capacity, dtype=np.uint64) * self._slots.itemsize
        self._slot_pointers = addresses.astype(np.uint64)
        self.struct = C.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, C.llama_token),
            embd=None,
            pos=_pointer(self._positions, C.llama_pos),
            n_seq_id=_pointer(self._num_slots, ctypes.c_int32),
            seq_id=ctypes.cast(
                self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))
            ),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def fill(self, work: Sequence[Rows]) -> int:
        """Write `work` as consecutive rows; returns how many rows want logits."""
        image = work[0].image
        if image is None:
            self.struct.token, self.struct.embd = _pointer(self._tokens, C.llama_token), _null(ctypes.c_float)
        else:
            self._vectors = np.ascontiguousarray(image.vectors)  # kept alive for the call
            self.struct.token, self.struct.embd = (
                _null(C.llama_token),
                _pointer(self._vectors, ctypes.c_float),
            )
        start = num_outputs = 0
        for rows in work:
            end = start + len(rows.token_ids)
            if image is None:
                self._tokens[start:end] = rows.token_ids
            self._positions[start:end] = np.arange(rows.pos, rows.pos + end - start)
            self._slots[start:end] = rows.slot - self._first_slot
            self._wanted[start:end] = 0
            self._wanted[end - rows.num_outputs : end] = 1
            num_outputs += rows.num_outputs
            start = end
        self.struct.n_tokens = start
        return num_outputs


def _make_context(model: C.llama_model_p, load: Load, slots: SlotClass) -> C.llama_context_p:
    params = C.llama_context_default_params()
    params.n_ctx = slots.n_slots * slots.n_ctx
    params.n_seq_max = slots.n_slots
    params.n_batch, params.n_ubatch = load.n_batch, load.n_ubatch
    params.n_outputs_max = load.num_outputs
    params.n_threads = params.n_threads_batch = load.n_threads
    params.flash_attn_type = int(load.flash_attention)  # 1: enabled, 0: disabled
    params.type_k = params.type_v = _GGML_TYPES[load.kv_type]
    params.kv_unified = False
    params.swa_full = False
    params.no_perf = True
    context: C.llama_context_p | None = C.llama_init_from_model(model, params)
    if not context:
        raise ModelError(
            f"no context of {slots.n_slots} slots of {slots.n_ctx} tokens could be made",
            hint="lower --max-slots or --context",
        )
    return context


def _pointer(
    array: NDArray[np.int32] | NDArray[np.int8] | NDArray[np.float32],
    ctype: type[ctypes._SimpleCData[int]] | type[ctypes._SimpleCData[float]],
) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctype))


def _null(ctype: type[ctypes._SimpleCData[int]] | type[ctypes._SimpleCData[float]]) -> Any:
    return ctypes.POINTER(ctype)()


def _bytes_pointer(array: NDArray[np.uint8]) -> object:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
