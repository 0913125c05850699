"""The LoRA adapters of a loaded model, and which of them a context computes with.

Source: comments on llama_adapter_lora_init and llama_set_adapters_lora, include/llama.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)

from takeoff.errors import ModelError
from takeoff.ipc.messages import Lora


class Adapters:
    """Adapters in memory, found by name. They are freed with their model."""

    def __init__(self, model: C.llama_model_p, loras: Sequence[Lora]) -> None:
        """Load the adapters; before a context is made, whose graphs must have room for them.

        Raises:
            ModelError: llama.cpp refused a file.
        """
        self._loaded = {lora.name: (_load(model, lora), lora.scale) for lora in loras}

    def apply(self, context: C.llama_context_p, name: str | None) -> None:
        """Compute with this adapter, or with none, from the next call of `context` on.

        A change costs that call a new reservation of its graphs: milliseconds.
        """
        if name is None:
            C.llama_set_adapters_lora(context, None, 0, None)
            return
        adapter, scale = self._loaded[name]
        adapters = (C.llama_adapter_lora_p_ctypes * 1)(adapter)
        C.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(scale))


def _load(model: C.llama_model_p, lora: Lora) -> Any:
    adapter: Any = C.llama_adapter_lora_init(model, lora.path.encode())
    if not adapter:
        raise ModelError(
            f"llama.cpp can't load the adapter {lora.path}", hint="its log (--log-level debug) says why"
        )
    return adapter
