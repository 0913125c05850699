"""One call of attention, by ggml's own functions: made of arrays, computed by a named kernel of ours."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.backends import load_backends

F32, F16 = 0, 1
MEMORY_BYTES = 256 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(C._lib, name)
    function.restype, function.argtypes = result, arguments
    return function


class AttentionCall:
    """Queries [sequences, tokens, heads, size] look at keys and values [sequences, keys, kv heads, size].

    `mask` [sequences, tokens, keys] is added to their scores; None: all of them are seen.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        keys: NDArray[np.float16],
        values: NDArray[np.float16],
        mask: NDArray[np.float16] | None,
        *,
        max_bias: float = 0.0,
        soft_cap: float = 0.0,
    ) -> None:
        load_backends()
        init = _function("ggml_init", ctypes.c_void_p, _InitParams)
        self._context = init(_InitParams(MEMORY_BYTES, None, False))
        self._shape = (*queries.shape[:3], values.shape[3])
        tensors = [self._tensor(array) for array in (queries, keys, values)]
        permute = _function("ggml_permute", ctypes.c_void_p, *[ctypes.c_void_p] * 2, *[ctypes.c_int] * 4)
        q, k, v = (permute(self._context, tensor, 0, 2, 1, 3) for tensor in tensors)
        m = None if mask is None else self._tensor(mask[:, None])
        attend = _function(
            "ggml_flash_attn_ext", ctypes.c_void_p, *[ctypes.c_void_p] * 5, *[ctypes.c_float] * 3
        )
        self._node = attend(self._context, q, k, v, m, queries.shape[3] ** -0.5, max_bias, soft_cap)

    def is_taken(self) -> bool:
        """Whether our kernels take it, or leave it to ggml's."""
        supports = _function("ggml_backend_dev_supports_op", ctypes.c_bool, *[ctypes.c_void_p] * 2)
        return bool(supports(self._device(), self._node))

    def compute(self, kernel: str, n_threads: int = 1) -> NDArray[np.float32] | None:
        """[sequences, tokens, heads, size]; None where this processor can't run that kernel."""
        make = _function("ggml_backend_dev_init", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        backend = make(self._device(), kernel.encode())
        if backend is None:
            return None
        self._set_threads(backend, n_threads)
        graph = _function("ggml_new_graph", ctypes.c_void_p, ctypes.c_void_p)(self._context)
        _function("ggml_build_forward_expand", None, *[ctypes.c_void_p] * 2)(graph, self._node)
        code = _function("ggml_backend_graph_compute", ctypes.c_int, *[ctypes.c_void_p] * 2)(backend, graph)
        assert code == 0
        result = self._array(self._node, self._shape, np.float32).copy()
        _function("ggml_backend_free", None, ctypes.c_void_p)(backend)
        return result

    def close(self) -> None:
        """Give the memory back."""
        _function("ggml_free", None, ctypes.c_void_p)(self._context)

    def _device(self) -> int:
        device = _function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"Takeoff")
        assert device is not None, "this llama.cpp was built without our kernels"
        return int(device)

    def _set_threads(self, backend: int, n_threads: int) -> None:
        registry = _function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"Takeoff")
        find = _function(
            "ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p
        )
        address = find(registry, b"ggml_backend_set_n_threads")
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(backend, n_threads)

    def _tensor(self, array: NDArray[Any]) -> int:
        new = _function(
            "ggml_new_tensor_4d", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_int64] * 4
        )
        kind = F16 if array.dtype == np.float16 else F32
        tensor = int(new(self._context, kind, *reversed(array.shape)))
        self._array(tensor, array.shape, array.dtype)[...] = array
        return tensor

    def _array(self, tensor: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        address = _function("ggml_get_data", ctypes.c_void_p, ctypes.c_void_p)(tensor)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)
