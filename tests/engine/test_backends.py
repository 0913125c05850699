"""Kernels are chosen where there are none yet; an ordinary build has its own."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import pytest

from takeoff.engine.llama.backends import load_backends
from takeoff.engine.llama.library import load_model
from takeoff.errors import ModelError


def test_a_build_with_kernels_of_its_own_gets_no_second_set() -> None:
    C._lib.ggml_backend_reg_count.restype = ctypes.c_size_t
    before = C._lib.ggml_backend_reg_count()
    load_backends()
    load_backends()
    assert C._lib.ggml_backend_reg_count() == before >= 1


def test_layers_for_a_gpu_that_the_driver_does_not_give_are_not_computed_here(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(C, "llama_supports_gpu_offload", lambda: False)
    with pytest.raises(ModelError, match=r"31 layers are to be on the GPU, and llama\.cpp finds none"):
        load_model(str(smollm2_path), n_gpu_layers=31)
