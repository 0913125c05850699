"""llama.cpp's kernels where they are files of their own, one for each kind of processor.

A build for any processor (GGML_BACKEND_DL, GGML_CPU_ALL_VARIANTS) brings a library for each kind and
uses none until it is told to choose; an ordinary build has its kernels linked in.

Source: include/ggml-backend.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)


def load_backends() -> None:
    """Choose the kernels that suit this processor best, unless some are there already."""
    # By way of libllama's handle: libggml's own file may be another copy of it, with an empty list.
    count = C._lib.ggml_backend_reg_count
    count.restype = ctypes.c_size_t
    if count() == 0:
        C._lib.ggml_backend_load_all_from_path(str(C._base_path).encode())
