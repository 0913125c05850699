"""Deterministic mode is refused where the kernels can't keep it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.fake_kernels import FakeKernels
from tests.engine.real import RealEngine

from takeoff.engine.invariance import check_invariance
from takeoff.engine.llama.rows import Rows
from takeoff.errors import ModelError


class BatchRounds(FakeKernels):
    """From `size` rows on a call rounds otherwise."""

    size = 5

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        logits = super().forward(work, lora)
        return logits + np.float32(1e-3) if len(work) >= self.size else logits


class SliceRounds(FakeKernels):
    """A long slice rounds otherwise."""

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        logits = super().forward(work, lora)
        return logits + np.float32(1e-3) if len(work[0].token_ids) > 32 else logits


class AdapterRounds(FakeKernels):
    """Of two adapters one rounds otherwise in a batch."""

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        logits = super().forward(work, lora)
        return logits + np.float32(1e-3) if lora == "legal" and len(work) > 1 else logits


def test_invariant_kernels_pass_and_their_slots_are_left_empty() -> None:
    kernels = FakeKernels(n_slots=9)
    check_invariance(kernels)
    assert kernels.memory == [[]] * 9
    assert max(len(call) for call in kernels.calls) == 9


def test_kernels_that_round_otherwise_in_a_batch_are_refused() -> None:
    with pytest.raises(ModelError, match="beside 4 others than alone"):
        check_invariance(BatchRounds(n_slots=8))
    check_invariance(BatchRounds(n_slots=4))


def test_kernels_that_round_otherwise_in_slices_are_refused() -> None:
    with pytest.raises(ModelError, match="slices of 17 and the rest"):
        check_invariance(SliceRounds())


def test_on_a_gpu_the_processor_is_the_way_out() -> None:
    with pytest.raises(ModelError, match="with this model on this GPU: ") as caught:
        check_invariance(SliceRounds(), on_gpu=True)
    assert caught.value.hint == "--device cpu, or without --deterministic"


def test_an_adapter_that_rounds_otherwise_is_refused_by_name() -> None:
    check_invariance(AdapterRounds(), ["medical"])
    with pytest.raises(ModelError, match=r"with the adapter 'legal' on this processor: .* beside 1 others"):
        check_invariance(AdapterRounds(), ["medical", "legal"])


def test_the_default_model_can_be_served_deterministically(
    smollm2_path: Path,
) -> None:
    engine = RealEngine(smollm2_path, n_slots=32, n_ctx_slot=256, deterministic=True)
    try:
        check_invariance(engine.kernels)
    finally:
        engine.close()
