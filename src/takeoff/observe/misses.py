"""The reasons for which a prompt is not found in the prefix cache, by their names in the metrics."""

from __future__ import annotations

from enum import StrEnum

DIVERGED_BELOW = (16, 64, 256, 1_024, 4_096, 16_384)  # bounds of the places at which prompts part


class MissReason(StrEnum):
    WINDOW = "window"  # the cache has it, but not cut back to here: a sliding window, or a recurrent state
    EVICTED = "evicted"  # the cache had it
    OTHER_TENANT = "other_tenant"  # the cache has it for another tenant
    SHORT = "short"  # fewer tokens than are worth looking for
    DIVERGED = "diverged"  # the prompt goes on as nothing does that was kept


def diverged_below(place: int) -> str:
    """The name of the bucket for prompts that part from all others at `place`."""
    return next((str(bound) for bound in DIVERGED_BELOW if place < bound), "inf")
