"""A case made smaller while it finds the same: halves, quarters and so on are left out (Zeller's ddmin)."""

from __future__ import annotations

from collections.abc import Callable


def smallest(case: bytes, is_same: Callable[[bytes], bool], has_time: Callable[[], bool]) -> bytes:
    """The smallest that was found in the time; `case` itself if it does not find the same again."""
    if not has_time() or not is_same(case):
        return case
    num_parts = 2
    while len(case) > 1 and has_time():
        size = -(-len(case) // num_parts)
        for start in range(0, len(case), size):
            if not has_time():
                return case
            shorter = case[:start] + case[start + size :]
            if is_same(shorter):
                case, num_parts = shorter, max(2, num_parts - 1)
                break
        else:
            if size == 1:
                break
            num_parts = min(len(case), 2 * num_parts)
    return case
