"""How long to wait before a process is started again: not at all, unless it keeps dying without any use."""

from __future__ import annotations

STORM_S = 30.0  # a process that lived longer was well: the next death is a first one again
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


class Backoff:
    """Waits between restarts: 0, 0.5, 1, 2, ... seconds, while useless deaths follow each other closely."""

    def __init__(self) -> None:
        self._deaths = 0

    def after(self, lived_s: float, *, was_useful: bool = False) -> float:
        """Seconds to wait after a process that lived for `lived_s` seconds; of use: its work got on."""
        self._deaths = 1 if was_useful or lived_s > STORM_S else self._deaths + 1
        if self._deaths == 1:
            return 0.0
        return float(min(FIRST_WAIT_S * 2 ** min(self._deaths - 2, 16), LONGEST_WAIT_S))
