"""Kernels are chosen where there are none yet; an ordinary build has its own."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)

from takeoff.engine.llama.backends import load_backends


def test_a_build_with_kernels_of_its_own_gets_no_second_set() -> None:
    C._lib.ggml_backend_reg_count.restype = ctypes.c_size_t
    before = C._lib.ggml_backend_reg_count()
    load_backends()
    load_backends()
    assert C._lib.ggml_backend_reg_count() == before >= 1
