"""Our kernels for products, beside the formula in 64-bit floats, and beside ggml's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.ggml_call import Q4_1, Q8_0, ProductCall
from tests.engine.real import RealEngine

from takeoff.engine.llama.backends import num_multiplied
from takeoff.engine.llama.rows import Rows
from takeoff.models.cpu_features import read_cpu_features

NEEDS = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
IS_HERE = read_cpu_features() >= NEEDS
Q6_K = 14


def arrays(rows: int, size: int, inputs: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(rows * size + inputs)
    weights, activations = random.normal(size=(rows, size)), random.normal(size=(inputs, size))
    activations *= random.lognormal(size=(inputs, 1))
    return weights.astype(np.float32), activations.astype(np.float32)


def product(kind: int, weights: NDArray[np.float32], inputs: NDArray[np.float32]) -> ProductCall:
    return ProductCall(weights, kind, inputs)


def computed(
    weights: NDArray[np.float32],
    kind: int,
    inputs: NDArray[np.float32],
    n_threads: int = 1,
    device: str = "Takeoff",
) -> NDArray[np.float32]:
    call = ProductCall(weights, kind, inputs)
    result = call.compute(n_threads=n_threads, device=device)
    call.close()
    assert result is not None
    return result


def rounded(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """To 8 bits, as ggml does it: each block of 32 with a scale in 16 bits."""
    blocks = inputs.reshape(len(inputs), -1, 32)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    values = np.rint(blocks * (np.float32(127) / most))
    scales = (most / np.float32(127)).astype(np.float16)
    return (values.astype(np.float64) * scales.astype(np.float64)).reshape(inputs.shape)


def are_alike(kind: int, parts: list[tuple[int, int]]) -> bool:
    """Whether those rows of a call have the same bits in calls of their own, and with more threads."""
    weights, activations = arrays(208, 576, 40)
    whole = computed(weights, kind, activations)
    threads = all(np.array_equal(computed(weights, kind, activations, n), whole) for n in (2, 3))
    alone = (
        np.array_equal(computed(weights, kind, activations[first:last]), whole[first:last])
        for first, last in parts
    )
    return threads and all(alone)


def test_it_is_taken_where_the_processor_can() -> None:
    for kind in (Q4_1, Q8_0):
        call = product(kind, *arrays(32, 64, 3))
        assert call.is_taken() == IS_HERE
        call.close()


@pytest.mark.skipif(not IS_HERE, reason="needs AVX-512 VNNI: ggml's own kernels compute")
class TestProducts:
    @pytest.mark.parametrize("kind", [Q4_1, Q8_0])
    @pytest.mark.parametrize(
        ("rows", "size", "inputs"),
        [
            (16, 32, 1),
            (576, 576, 1),
            (64, 2048, 1),
            (32, 1504, 1),
            (192, 576, 5),
            (48, 1536, 12),
            (64, 576, 13),
            (1536, 576, 32),
            (16, 96, 70),
        ],
    )
    def test_it_is_ggmls_result(self, kind: int, rows: int, size: int, inputs: int) -> None:
        weights, activations = arrays(rows, size, inputs)
        ours = computed(weights, kind, activations)
        theirs = computed(weights, kind, activations, device="CPU")
        assert np.abs(ours - theirs).max() < 2e-6 * np.abs(activations).max() * size

    def test_it_is_the_formula(self) -> None:
        """Weights that are multiples of a power of two lose nothing in 8 bits."""
        random = np.random.default_rng(5)
        weights = random.integers(-127, 128, (32, 256)).astype(np.float32) / 64
        weights[:, ::32] = 127 / 64
        activations = arrays(1, 256, 20)[1]
        wanted = rounded(activations) @ weights.astype(np.float64).T
        assert np.abs(computed(weights, Q8_0, activations) - wanted).max() < 1e-5 * np.abs(wanted).max()

    @pytest.mark.parametrize("kind", [Q4_1, Q8_0])
    def test_bits_depend_on_nothing_beside_a_row(self, kind: int) -> None:
        """Not on the rows of the same call, and not on the threads."""
        assert are_alike(kind, [(7, 9), (11, 24), (3, 40)])

    def test_a_row_with_q8_0_is_computed_in_another_way_alone_but_where_rows_are_to_be_alike(self) -> None:
        """In a process of its own: that can't be taken back."""
        code = (
            "from tests.engine.test_product import Q4_1, Q8_0, are_alike\n"
            "from takeoff.engine.llama.backends import keep_rows_alike\n"
            "print(are_alike(Q8_0, [(0, 1)])); keep_rows_alike(); print(are_alike(Q8_0, [(0, 1), (7, 8)]))\n"
            "print(are_alike(Q4_1, [(0, 1), (7, 8)]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "True", "True"]

    def test_a_call_without_inputs_has_no_results(self) -> None:
        """As the last product of a call that wants no logits."""
        weights, _ = arrays(32, 64, 1)
        assert computed(weights, Q4_1, np.empty((0, 64), np.float32)).shape == (0, 32)

    def test_what_is_nothing_stays_nothing(self) -> None:
        weights, activations = arrays(16, 64, 3)
        activations[1] = 0
        result = computed(weights, Q8_0, activations)
        assert not result[1].any()
        assert result[0].all()

    @pytest.mark.parametrize(("rows", "kind"), [(24, Q4_1), (32, Q6_K)])
    def test_other_shapes_and_types_are_left_to_ggml(self, rows: int, kind: int) -> None:
        call = product(kind, *arrays(rows, 256, 3))
        assert not call.is_taken()
        call.close()

    def test_every_matrix_of_the_default_model_is_multiplied_by_them(self, smollm2_path: Path) -> None:
        engine = RealEngine(smollm2_path, n_slots=2, n_ctx_slot=64)
        before = num_multiplied()
        engine.kernels.forward([Rows(0, 0, [1, 2, 3], False), Rows(1, 0, [1, 2, 3], True)])
        assert num_multiplied() - before >= 30 * 7
        engine.close()
