"""From the network's output to one row for each text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from takeoff.models.encoder import Pooling, Scores

Floats = NDArray[np.float32]


def pool(hidden: Floats, mask: NDArray[np.int64], pooling: Pooling) -> Floats:
    """One vector for each text.

    Args:
        hidden: [texts, tokens, dimensions] float32, a vector for each token; padding on the right.
        mask: [texts, tokens], 1 for tokens, 0 for padding; each text has a token.

    Source: sentence_transformers/models/Pooling.py.
    """
    match pooling:
        case Pooling.CLS:
            return np.asarray(hidden[:, 0])
        case Pooling.LAST:
            return np.asarray(hidden[np.arange(len(hidden)), mask.sum(axis=1) - 1])
        case Pooling.MAX:
            return np.asarray(np.max(np.where(mask[:, :, None] == 1, hidden, np.float32(-np.inf)), axis=1))
        case Pooling.MEAN:
            # A matrix product adds in another order where the padding is longer; this one does not.
            sums = np.where(mask[:, :, None] == 1, hidden, np.float32(0)).sum(axis=1)
            return np.asarray(sums / mask.sum(axis=1, keepdims=True).astype(np.float32))


def unit_length(vectors: Floats) -> Floats:
    """[texts, dimensions] vectors scaled to length 1; one of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12)))


def score(logits: Floats, scores: Scores) -> Floats:
    """[texts, classes] scores; of SOFTMAX they sum to 1, of SIGMOID each is between 0 and 1."""
    match scores:
        case Scores.LOGITS:
            return logits
        case Scores.SIGMOID:
            return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)))
        case Scores.SOFTMAX:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
