"""One operation by ggml's own functions: made of arrays, computed by our kernels or by ggml's."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.backends import load_backends

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
MEMORY_BYTES = 256 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's."""
    found = getattr(C._lib, name)
    found.restype, found.argtypes = result, arguments
    return found


class GgmlCall:
    """A node of a graph and the tensors that it is made of."""

    def __init__(self) -> None:
        load_backends()
        init = function("ggml_init", ctypes.c_void_p, _InitParams)
        self._context = init(_InitParams(MEMORY_BYTES, None, False))
        self._node = 0
        self._shape: tuple[int, ...] = ()

    def is_taken(self) -> bool:
        """Whether our kernels take it, or leave it to ggml's."""
        supports = function("ggml_backend_dev_supports_op", ctypes.c_bool, *[ctypes.c_void_p] * 2)
        return bool(supports(_device("Takeoff"), self._node))

    def compute(
        self, kernel: str | None = None, n_threads: int = 1, device: str = "Takeoff"
    ) -> NDArray[np.float32] | None:
        """What the node is; None where this processor can't run the `kernel` of that name."""
        make = function("ggml_backend_dev_init", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
        backend = make(_device(device), kernel.encode() if kernel else None)
        if backend is None:
            return None
        _set_threads(device, backend, n_threads)
        graph = function("ggml_new_graph", ctypes.c_void_p, ctypes.c_void_p)(self._context)
        function("ggml_build_forward_expand", None, *[ctypes.c_void_p] * 2)(graph, self._node)
        code = function("ggml_backend_graph_compute", ctypes.c_int, *[ctypes.c_void_p] * 2)(backend, graph)
        assert code == 0
        result = self._array(self._node, self._shape, np.float32).copy()
        function("ggml_backend_free", None, ctypes.c_void_p)(backend)
        return result

    def close(self) -> None:
        """Give the memory back."""
        function("ggml_free", None, ctypes.c_void_p)(self._context)

    def _tensor(self, array: NDArray[Any], kind: int | None = None) -> int:
        """A tensor that holds `array`, in another type if one is named."""
        new = function(
            "ggml_new_tensor_4d", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_int64] * 4
        )
        shape = (1,) * (4 - array.ndim) + array.shape
        if kind is None:
            tensor = int(new(self._context, F16 if array.dtype == np.float16 else F32, *reversed(shape)))
            self._array(tensor, array.shape, array.dtype)[...] = array
            return tensor
        tensor = int(new(self._context, kind, *reversed(shape)))
        quantise = function(
            "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 3, ctypes.c_void_p,
        )  # fmt: skip
        rows = np.ascontiguousarray(array, np.float32)
        quantise(kind, rows.ctypes.data, self._address(tensor), 0, rows.shape[0], rows.shape[1], None)
        return tensor

    def _array(self, tensor: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size == 0:
            return np.empty(shape, dtype)
        memory = (ctypes.c_uint8 * size).from_address(self._address(tensor))
        return np.frombuffer(memory, dtype).reshape(shape)

    def _address(self, tensor: int) -> int:
        return int(function("ggml_get_data", ctypes.c_void_p, ctypes.c_void_p)(tensor))


class AttentionCall(GgmlCall):
    """Queries [sequences, tokens, heads, size] look at keys and values [sequences, keys, kv heads, size].

    `mask` [sequences, tokens, keys] is added to their scores; None: all of them are seen. The result is
    [sequences, tokens, heads, size].
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
        super().__init__()
        self._shape = (*queries.shape[:3], values.shape[3])
        tensors = [self._tensor(array) for array in (queries, keys, values)]
        permute = function("ggml_permute", ctypes.c_void_p, *[ctypes.c_void_p] * 2, *[ctypes.c_int] * 4)
        q, k, v = (permute(self._context, tensor, 0, 2, 1, 3) for tensor in tensors)
        m = None if mask is None else self._tensor(mask[:, None])
        attend = function(
            "ggml_flash_attn_ext", ctypes.c_void_p, *[ctypes.c_void_p] * 5, *[ctypes.c_float] * 3
        )
        self._node = attend(self._context, q, k, v, m, queries.shape[3] ** -0.5, max_bias, soft_cap)


class ProductCall(GgmlCall):
    """`weights` [rows, size] in a type of ggml's with `inputs` [inputs, size]: [inputs, rows]."""

    def __init__(self, weights: NDArray[np.float32], kind: int, inputs: NDArray[np.float32]) -> None:
        super().__init__()
        self._shape = (len(inputs), len(weights))
        self._weights, self._kind = self._tensor(weights, kind), kind
        multiply = function("ggml_mul_mat", ctypes.c_void_p, *[ctypes.c_void_p] * 3)
        self._node = multiply(self._context, self._weights, self._tensor(inputs))


def _device(name: str) -> int:
    device = function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(name.encode())
    assert device is not None, "this llama.cpp was built without our kernels"
    return int(device)


def _set_threads(device: str, backend: int, n_threads: int) -> None:
    registry = function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(device.encode())
    find = function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_set_n_threads")
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(backend, n_threads)
