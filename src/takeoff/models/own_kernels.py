"""Our own kernels, made of the folder `native`: where their file is, and what they are for. Loads nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from takeoff.models.cpu_features import find_build

FILE = "libggml-takeoff.so"

# Weights that they multiply with, and what the processor needs for it: native/product.cpp.
_PRODUCT_TYPES = frozenset({"Q4_1", "Q8_0"})
_PRODUCT_FEATURES = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})


def find_own_kernels() -> Path | None:
    """Their file beside the installed llama.cpp; None: it was built without them."""
    build = find_build()
    path = build / "lib" / FILE if build is not None else None
    return path if path is not None and path.is_file() else None


def own_types(features: frozenset[str]) -> frozenset[str]:
    """Types of weights that they compute on a processor with these features."""
    is_here = features >= _PRODUCT_FEATURES and find_own_kernels() is not None
    return _PRODUCT_TYPES if is_here else frozenset()


def own_build() -> str | None:
    """What tells one build of them from another; None where there is none."""
    path = find_own_kernels()
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:12]
