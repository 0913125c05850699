"""Which files are given a faster format without being asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from takeoff.models.gguf import GgufFile, Tensor, read_gguf
from takeoff.models.gguf_types import TENSOR_TYPES
from takeoff.models.optimize.automatic import fast_types, faster_format
from takeoff.models.variants import Recipe

AVX2 = fast_types(frozenset({"avx", "avx2", "fma"}), "x86_64")
NEON = fast_types(frozenset({"asimddp"}), "aarch64")


def file_of(**types: str) -> GgufFile:
    """Matrices of one size and the given types; `token_embd` first."""
    sizes = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
    tensors = [
        Tensor(f"{name}.weight", kind, (1024, 1024), 0, 2**20 // sizes[kind][0] * sizes[kind][1])
        for name, kind in types.items()
    ]
    norm = Tensor("output_norm.weight", "F32", (1024,), 0, 4096)
    return GgufFile(Path("m.gguf"), 0, {}, {}, (*tensors, norm))


def test_the_default_model_becomes_q8_0_where_none_of_ours_is_for_it(smollm2_path: Path) -> None:
    model = read_gguf(smollm2_path)
    own = fast_types(frozenset({"avx", "avx2", "fma"}), "x86_64", frozenset({"Q4_1", "Q8_0"}))
    assert faster_format(model, own) is None
    recipe = faster_format(model, AVX2)
    assert recipe == Recipe("Q8_0", "Q8_0", ((r"^token_embd\.weight$", "Q8_0"),))


def test_only_slow_matrices_are_changed() -> None:
    recipe = faster_format(file_of(token_embd="Q6_K", up="Q4_K", down="Q4_K"), AVX2)
    assert recipe == Recipe("Q8_0", "Q8_0", ((r"^up\.weight$", "Q4_K"), (r"^down\.weight$", "Q4_K")))


@pytest.mark.parametrize(
    ("types", "fast"),
    [
        ({"token_embd": "Q8_0", "up": "Q8_0"}, AVX2),  # fast already
        ({"token_embd": "F16", "up": "F16"}, AVX2),  # Q8_0 would lose bits
        ({"token_embd": "Q4_K", "up": "Q4_K", "down": "Q4_K", "gate": "Q6_K"}, NEON),  # fast there
        ({"token_embd": "Q8_0", "up": "Q4_0", "down": "Q4_0", "gate": "Q4_1"}, AVX2),  # too little to gain
        ({"token_embd": "Q4_1", "up": "Q4_1"}, fast_types(frozenset({"avx"}), "x86_64")),  # not known
        ({"token_embd": "Q4_1", "up": "Q4_1"}, fast_types(frozenset(), "riscv64")),
    ],
)
def test_files_that_stay_as_they_are(types: dict[str, str], fast: frozenset[str]) -> None:
    assert faster_format(file_of(**types), fast) is None
