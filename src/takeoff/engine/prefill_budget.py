"""How many prompt tokens fit into what is left of a step, learnt from the steps before.

Mixing decode and prefill in one call saves nothing with llama.cpp (a ubatch holds the same number
of tokens of each sequence), so a step is two calls: one that decodes every running sequence, whose
tokens are delivered at once, and one that prefills for as long as the streams can bear.
"""

from __future__ import annotations

SMOOTHING = 0.2  # weight of the newest call in the running means
GAP_IN_DECODE_STEPS = 3.0  # default gap between two tokens of a stream, in steps without prefill
MAX_PREFILL_S = 0.1  # with nothing to decode: how long a cancellation may go unnoticed
MIN_PREFILL_TOKENS = 16  # smaller calls cost nearly as much; prefill always makes progress


class PrefillBudget:
    """Running means of what a decode step and a prefilled token cost, in seconds."""

    def __init__(self, *, itl_slo_s: float | None, token_s: float) -> None:
        """`itl_slo_s`: the longest gap wanted between tokens; `token_s`: first guess, from the warm-up."""
        self._itl_slo_s = itl_slo_s
        self._token_s = token_s
        self._decode_s: float | None = None

    def tokens(self, *, is_decoding: bool) -> int:
        """Tokens that the next prefill call may have, at least MIN_PREFILL_TOKENS."""
        return max(MIN_PREFILL_TOKENS, int(self._seconds(is_decoding) / self._token_s))

    def learn_decode(self, seconds: float) -> None:
        before = seconds if self._decode_s is None else self._decode_s
        self._decode_s = before + SMOOTHING * (seconds - before)

    def learn_prefill(self, num_tokens: int, seconds: float) -> None:
        weight = SMOOTHING * min(1.0, num_tokens / MIN_PREFILL_TOKENS)
        self._token_s += weight * (seconds / num_tokens - self._token_s)

    def _seconds(self, is_decoding: bool) -> float:
        if not is_decoding or self._decode_s is None:
            return MAX_PREFILL_S
        gap_s = GAP_IN_DECODE_STEPS * self._decode_s if self._itl_slo_s is None else self._itl_slo_s
        return max(gap_s - self._decode_s, 0.0)
