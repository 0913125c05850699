"""llama.cpp's kernels where they are files of their own, and ours for attention and for products.

A build for any processor (GGML_BACKEND_DL, GGML_CPU_ALL_VARIANTS) brings a library for each kind and
uses none until it is told to choose; an ordinary build has its kernels linked in. Our own, made of the
folder `native`, lie beside either; a llama.cpp from elsewhere comes without them and computes with its own.

Source: include/ggml-backend.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)

from takeoff.models.own_kernels import FILE

logger = logging.getLogger(__name__)


def load_backends() -> None:
    """Choose the kernels that suit this processor best, unless some are there already; then add ours."""
    # By way of libllama's handle: libggml's own file may be another copy of it, with an empty list.
    count = C._lib.ggml_backend_reg_count
    count.restype = ctypes.c_size_t
    if count() == 0:
        C._lib.ggml_backend_load_all_from_path(str(C._base_path).encode())
    load_ours()


def load_ours() -> None:
    """Add our kernels, once; contexts made afterwards compute with them."""
    path = Path(C._base_path) / FILE
    if not path.is_file() or has_ours():
        return
    load = C._lib.ggml_backend_load
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    if not load(str(path).encode()):
        logger.warning("%s was made for another llama.cpp and is not used; run make setup", path)


def has_ours() -> bool:
    """Whether our kernels are in use."""
    return _registry() is not None


def num_attended() -> int:
    """How many times our kernels have computed a layer's attention in this process."""
    return _count(b"takeoff_num_attended")


def num_multiplied() -> int:
    """How many times they have multiplied a matrix of weights."""
    return _count(b"takeoff_num_multiplied")


def keep_rows_alike() -> None:
    """Let our kernels give a row the same bits alone as beside others, though alone it could be faster."""
    _call(b"takeoff_keep_rows_alike", None)


def _count(name: bytes) -> int:
    return int(_call(name, ctypes.c_uint64) or 0)


def _call(name: bytes, result: type[ctypes.c_uint64] | None) -> int | None:
    """Call a function of ours without arguments; None where our kernels are not in use."""
    registry = _registry()
    if registry is None:
        return None
    find = C._lib.ggml_backend_reg_get_proc_address
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    value: int | None = ctypes.CFUNCTYPE(result)(find(registry, name))()
    return value


def _registry() -> int | None:
    by_name = C._lib.ggml_backend_reg_by_name
    by_name.restype, by_name.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    registry: int | None = by_name(b"Takeoff")
    return registry
