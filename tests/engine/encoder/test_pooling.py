"""Pooling and scores against arithmetic by hand; what stands in the padding never counts."""

from __future__ import annotations

import numpy as np
import pytest

from takeoff.engine.encoder.pooling import pool, score, unit_length
from takeoff.models.encoder import Pooling, Scores

HIDDEN = np.array([[[1, -8], [3, -2], [999, 999]], [[5, 5], [np.nan, np.nan], [np.nan, np.nan]]], np.float32)
MASK = np.array([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("pooling", "first"),
    [
        (Pooling.MEAN, [2, -5]),
        (Pooling.CLS, [1, -8]),
        (Pooling.LAST, [3, -2]),
        (Pooling.MAX, [3, -2]),
    ],
)
def test_padding_does_not_count(pooling: Pooling, first: list[float]) -> None:
    assert pool(HIDDEN, MASK, pooling).tolist() == [first, [5, 5]]


def test_vectors_are_scaled_to_length_one_and_zeros_stay() -> None:
    rows = unit_length(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_scores_of_large_logits_are_finite() -> None:
    logits = np.array([[1000, 0], [-1000, 0]], np.float32)
    assert score(logits, Scores.SOFTMAX).tolist() == [[1, 0], [0, 1]]
    assert score(logits, Scores.SIGMOID).tolist() == [[1, 0.5], [0, 0.5]]
    assert score(logits, Scores.LOGITS) is logits
