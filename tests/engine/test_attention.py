"""Our kernels for attention, beside the formula in 64-bit floats, and beside themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.ggml_call import AttentionCall
from tests.engine.real import RealEngine

from takeoff.engine.llama.rows import Rows
from takeoff.models.cpu_features import read_cpu_features

KERNELS = {"avx512": {"avx512f"}, "avx2": {"avx2", "fma", "f16c"}}
HERE = [name for name, needs in KERNELS.items() if needs <= read_cpu_features()]


def inputs(
    *, sequences: int = 1, tokens: int = 1, heads: int = 9, kv_heads: int = 3, size: int = 64, keys: int = 300
) -> tuple[NDArray[np.float32], NDArray[np.float16], NDArray[np.float16]]:
    random = np.random.default_rng(7)
    return (
        random.normal(size=(sequences, tokens, heads, size)).astype(np.float32) * 2,
        random.normal(size=(sequences, keys, kv_heads, size)).astype(np.float16),
        random.normal(size=(sequences, keys, kv_heads, size)).astype(np.float16),
    )


def causal(sequences: int, tokens: int, keys: int, behind: list[int]) -> NDArray[np.float16]:
    """Token `t` of a sequence sees the keys of the tokens before it: `behind` of them, and `t` more."""
    last = np.array(behind)[:, None, None] + np.arange(tokens)[None, :, None]
    return np.where(np.arange(keys) <= last, 0, -np.inf).astype(np.float16).reshape(sequences, tokens, keys)


def formula(
    queries: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], mask: NDArray[Any] | None
) -> NDArray[np.float64]:
    group = queries.shape[2] // keys.shape[2]
    wide_keys = keys.astype(np.float64).repeat(group, axis=2)
    wide_values = values.astype(np.float64).repeat(group, axis=2)
    scores = np.einsum("stha,skha->shtk", queries.astype(np.float64), wide_keys) * queries.shape[3] ** -0.5
    scores += 0 if mask is None else mask.astype(np.float64)[:, None]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = np.einsum("shtk,skha->stha", weights, wide_values)
    return result / weights.sum(axis=-1).transpose(0, 2, 1)[..., None]


def computed(kernel: str, *arguments: Any, n_threads: int = 1) -> NDArray[np.float32]:
    call = AttentionCall(*arguments)
    assert call.is_taken()
    result = call.compute(kernel, n_threads)
    call.close()
    assert result is not None
    return result


@pytest.mark.parametrize("kernel", HERE)
@pytest.mark.parametrize(
    "shape",
    [
        {},  # a token of SmolLM2
        {"sequences": 5, "keys": 256},
        {"tokens": 70, "keys": 320},
        {"heads": 4, "kv_heads": 1, "size": 256, "keys": 1000},  # as in gemma
        {"heads": 14, "kv_heads": 2, "size": 128, "tokens": 3, "keys": 70},
        {"heads": 5, "kv_heads": 5, "size": 80, "keys": 33},  # no group, and a size that is no power of two
        {"heads": 6, "kv_heads": 1, "size": 48, "tokens": 2, "keys": 513},
        {"keys": 1},
    ],
    ids=str,
)
def test_it_is_the_formula(kernel: str, shape: dict[str, int]) -> None:
    queries, keys, values = inputs(**shape)
    mask = causal(
        len(queries), queries.shape[1], keys.shape[1], [keys.shape[1] - queries.shape[1]] * len(queries)
    )
    for seen in (mask, None):
        wanted = formula(queries, keys, values, seen)
        result = computed(kernel, queries, keys, values, seen)
        assert np.abs(result - wanted).max() < 2e-6


@pytest.mark.parametrize("kernel", HERE)
def test_a_sequence_sees_its_own_keys_only(kernel: str) -> None:
    """Each has another length, as in a cache whose slots are of one size; what lies behind is never read."""
    lengths = [0, 1, 63, 64, 200, 255, 256, 299]
    queries, keys, values = inputs(sequences=len(lengths))
    mask = causal(len(lengths), 1, 300, lengths)
    wanted = formula(queries, keys, values, mask)
    for number, length in enumerate(lengths):
        keys[number, length + 1 :] = np.nan
        values[number, length + 1 :] = np.nan
    result = computed(kernel, queries, keys, values, mask)
    assert np.abs(result - wanted).max() < 2e-6


@pytest.mark.parametrize("kernel", HERE)
def test_large_scores_do_not_overflow(kernel: str) -> None:
    queries, keys, values = inputs(keys=100)
    queries *= 200
    result = computed(kernel, queries, keys, values, None)
    assert np.abs(result - formula(queries, keys, values, None)).max() < 1e-3


@pytest.mark.parametrize("kernel", HERE)
def test_who_sees_nothing_gets_nothing(kernel: str) -> None:
    queries, keys, values = inputs(sequences=2)
    mask = causal(2, 1, 300, [-1, 40])
    result = computed(kernel, queries, keys, values, mask)
    assert not result[0].any()
    assert np.abs(result[1] - formula(queries[1:], keys[1:], values[1:], mask[1:])[0]).max() < 2e-6


@pytest.mark.parametrize("kernel", HERE)
def test_bits_depend_on_nothing_beside_a_row(kernel: str) -> None:
    """Not on the rows of the same call, the sequences beside it, the room behind its keys, or the threads."""
    queries, keys, values = inputs(sequences=3, tokens=40, keys=700)
    mask = causal(3, 40, 700, [100, 600, 290])
    whole = computed(kernel, queries, keys, values, mask)
    for n_threads in (2, 3):
        assert np.array_equal(computed(kernel, queries, keys, values, mask, n_threads=n_threads), whole)
    for token in (0, 1, 20, 39):
        alone = computed(
            kernel, queries[1:2, token : token + 1], keys[1:2], values[1:2], mask[1:2, token : token + 1],
            n_threads=2,
        )  # fmt: skip
        assert np.array_equal(alone[0, 0], whole[1, token])
    narrow = computed(kernel, queries[:1], keys[:1, :256], values[:1, :256], mask[:1, :, :256])
    assert np.array_equal(narrow[0], whole[0])


@pytest.mark.parametrize("change", [{"max_bias": 8.0}, {"soft_cap": 30.0}])
def test_what_it_does_not_know_is_left_to_ggml(change: dict[str, float]) -> None:
    call = AttentionCall(*inputs(), causal(1, 1, 300, [299]), **change)
    assert not call.is_taken()
    call.close()


@pytest.mark.parametrize("other", ["keys in 32 bits", "a size of 40"])
def test_other_shapes_and_types_are_left_to_ggml(other: str) -> None:
    queries, keys, values = inputs(size=40) if other == "a size of 40" else inputs()
    if other == "keys in 32 bits":
        keys = keys.astype(np.float32)  # type: ignore[assignment]
    call = AttentionCall(queries, keys, values, None)
    assert not call.is_taken()
    call.close()


def test_a_model_computes_with_them_and_knows_the_same(smollm2_path: Path) -> None:
    """Beside attention that is not fused, which is llama.cpp's; its own two ways differ by 0.005, too."""
    logits = []
    for is_fused in (True, False):
        real = RealEngine(smollm2_path, n_slots=1, flash_attention=is_fused)
        try:
            assert real.kernels.attends_exactly() is is_fused
            tokens = [(place * 131) % 40_000 + 256 for place in range(364)]
            real.kernels.forward([Rows(0, 0, tokens[:300], False)])
            rows = [
                real.kernels.forward([Rows(0, place, [tokens[place]], True)])[0].copy()
                for place in range(300, 364)
            ]
            logits.append(np.array(rows, np.float64))
        finally:
            real.close()
    ours, plain = (np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True) for rows in logits)
    assert (plain * np.log(plain / ours)).sum(axis=1).mean() < 0.01
