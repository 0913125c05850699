"""How many slots there are, and how long: the ways to lay them out, the best first.

A sequence of llama.cpp's has as many cells as every other of its context, so slots that all hold the
longest text cost the most. Where a text may be long, most slots are short and a few are long; who
outgrows a short one moves to a long one. Half of the cells are in each; with memory to spare, the short ones
hold as much as each would if all were alike, and the long ones come beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

DEFAULT_SLOTS = 16
DEFAULT_CELLS = (4_096, 2_048)  # of KV cache for each slot, where nobody said how long a text may be
SHORT_SLOTS = (2_048, 1_024, 512)  # tokens of the short ones; in none of these would most texts have to move
CONTEXT_STEP = 256  # llama.cpp pads the context of a sequence to this (llama-context.cpp, GGML_PAD)


class Slots(NamedTuple):
    """Slots of one length."""

    num_slots: int
    context: int  # tokens that each of them holds


Layout = tuple[Slots, ...]  # the shortest first


class Wish(NamedTuple):
    """What a layout must keep to: None where the user has not said."""

    slots: int | None
    context: int | None
    long_slots: int | None
    most: int  # tokens that the model can hold


def layouts(wish: Wish) -> Iterator[Layout]:
    """Layouts that keep to `wish`; each takes less memory than those before it, or nearly as much."""
    count = wish.slots or DEFAULT_SLOTS
    while True:
        if wish.context is not None or wish.long_slots:
            yield from _of_length(count, padded(wish.context or wish.most), wish)
        else:
            cells = DEFAULT_CELLS if count == (wish.slots or DEFAULT_SLOTS) else DEFAULT_CELLS[-1:]
            yield from (_within(count, each, wish) for each in cells)
        if wish.slots is not None or count == 1:
            return
        count //= 2


def roomy_layout(wish: Wish) -> Layout | None:
    """The layout with half as many cells again; None: all slots hold the longest text, or the user has said.

    As many texts of DEFAULT_CELLS are computed together as if there were no longer ones.
    """
    if wish.context is not None or wish.long_slots is not None:
        return None
    short, *long = _within(wish.slots or DEFAULT_SLOTS, DEFAULT_CELLS[0], wish)
    return (Slots(short.num_slots, DEFAULT_CELLS[0]), *long) if long else None


def _of_length(count: int, context: int, wish: Wish) -> Iterator[Layout]:
    """Layouts whose longest slots hold `context` tokens."""
    if not wish.long_slots:
        yield (Slots(count, context),)
    if wish.long_slots == 0:
        return
    shorter = [short for short in SHORT_SLOTS if 2 * short <= context]
    for short in shorter:
        yield Slots(count, short), Slots(wish.long_slots or max(1, count * short // context), context)
    if shorter and wish.long_slots is None:
        yield Slots(count, shorter[-1]), Slots(1, context)


def _within(count: int, cells: int, wish: Wish) -> Layout:
    """The layout of `count` slots with `cells` cells for each that takes the longest texts."""
    alike = (Slots(count, padded(min(cells, wish.most))),)
    short = cells // 2
    if wish.long_slots == 0:
        return alike
    context = min(padded(wish.most), count * short // CONTEXT_STEP * CONTEXT_STEP)
    return (Slots(count, short), Slots(count * short // context, context)) if context > cells else alike


def padded(tokens: int) -> int:
    """`tokens`, or as many more as llama.cpp adds."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP


def told(layout: Layout) -> str:
    """For a line of a plan."""
    first, *others = layout
    return ", ".join(
        [f"{first.num_slots} slots of {first.context} tokens", *(f"{n} of {size}" for n, size in others)]
    )
