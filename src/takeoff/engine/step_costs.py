"""What a call costs that computes several tokens of each sequence, measured against a decode call.

Kernels compute rows of tokens in groups of four, whoever's they are: the cost depends on the rows of a call,
and hardly on whose they are. How steeply it rises depends on the machine and on the weights' format.
"""

from __future__ import annotations

from collections import defaultdict

SMOOTHING = 0.3  # weight of the newest call in the running means
MAX_SURPRISE = 2.0  # a call that takes longer than so many times the mean was held up by others
FORGETTING = 0.01  # of what was measured, at every decode call: a machine changes

# Seconds of a call of so many rows, the first row's being 1. SmolLM2-135M in Q8_0 on 2 cores (AVX2); in
# Q4_1 16 rows take 7.8.
_ROWS = (
    (1, 1.0),
    (2, 1.9),
    (3, 2.3),
    (4, 2.4),
    (6, 3.2),
    (8, 3.5),
    (12, 4.8),
    (16, 5.6),
    (32, 9.9),
    (64, 18.0),
)


class StepCosts:
    """Running means. Costs are in decode calls of as many sequences: those rise and fall with the machine."""

    def __init__(self) -> None:
        self._decode_s: dict[int, float] = {}  # by number of sequences
        self._ratios: defaultdict[int, dict[int, float]] = defaultdict(dict)  # and by tokens of each
        self._steepness = 1.0  # of this machine's costs beyond a decode call, against the table's

    def decode_s(self, num_seqs: int) -> float | None:
        """Seconds of a decode call; None: none was seen."""
        return self._decode_s.get(num_seqs)

    def ratio(self, num_seqs: int, num_tokens: int) -> float:
        """What computing `num_tokens` of each of `num_seqs` costs, in decode calls."""
        return self._ratios[num_seqs].get(num_tokens) or self._guess(num_seqs, num_tokens)

    def learn_decode(self, num_seqs: int, seconds: float) -> None:
        before = self._decode_s.get(num_seqs, seconds)
        self._decode_s[num_seqs] = before + SMOOTHING * (seconds - before)
        self._steepness += FORGETTING * (1.0 - self._steepness)
        for num_tokens, ratio in self._ratios[num_seqs].items():
            guess = self._guess(num_seqs, num_tokens)
            self._ratios[num_seqs][num_tokens] = ratio + FORGETTING * (guess - ratio)

    def learn(self, num_seqs: int, num_tokens: int, seconds: float) -> float:
        """Note a call of several tokens of each; returns seconds of a decode call, which was seen before."""
        before = self.ratio(num_seqs, num_tokens)
        ratio = min(seconds / self._decode_s[num_seqs], MAX_SURPRISE * before)
        self._ratios[num_seqs][num_tokens] = before + SMOOTHING * (ratio - before)
        expected = _shape(num_seqs * num_tokens) / _shape(num_seqs) - 1.0
        self._steepness += SMOOTHING * (max(ratio - 1.0, 0.0) / expected - self._steepness)
        return self._decode_s[num_seqs]

    def _guess(self, num_seqs: int, num_tokens: int) -> float:
        return 1.0 + self._steepness * (_shape(num_seqs * num_tokens) / _shape(num_seqs) - 1.0)


def _shape(num_rows: int) -> float:
    """The table, with straight lines between its points and beyond its last."""
    above = next((place for place, (rows, _) in enumerate(_ROWS) if rows >= num_rows), len(_ROWS) - 1)
    (low, least), (high, most) = _ROWS[max(above - 1, 0)], _ROWS[max(above, 1)]
    return least + (most - least) * (num_rows - low) / (high - low)
