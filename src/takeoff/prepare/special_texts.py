"""Find the texts of control tokens inside a text, in time linear in the text.

Vocabularies have thousands of them, and the text is a stranger's: neither an alternation of all
of them nor a search for each would do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

_PREFIX_CHARACTERS = 4


class SpecialTexts:
    """The texts of a vocabulary's control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(text for text in texts if text)
        size = min((len(text) for text in self._texts), default=1)
        self._prefix_size = min(size, _PREFIX_CHARACTERS)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for text in self._texts:
            lengths[text[: self._prefix_size]].add(len(text))
        self._lengths = {prefix: sorted(found, reverse=True) for prefix, found in lengths.items()}
        self._prefixes = re.compile("|".join(map(re.escape, self._lengths)) or r"(?!)")

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each occurrence, from the left, the longest first, none overlapping."""
        pos = 0
        while (match := self._prefixes.search(text, pos)) is not None:
            start = match.start()
            pos = start + 1
            for length in self._lengths[match.group()]:
                if text[start : start + length] in self._texts:
                    pos = start + length
                    yield start, pos
                    break

    def spans_with_edges(self, text: str, cuts: Iterable[str] = ()) -> list[tuple[int, int]]:
        """`spans`, and what `text` begins or ends with that a neighbour can complete to one of the texts.

        So can what stands behind one of `cuts`, if that is taken out. Blanks around it don't count:
        templates take them away.
        """
        spans = self._spans_with_ends(text)
        inner = {span for cut in cuts for span in self._parts_before(text, cut)}
        if not inner:
            return spans
        merged: list[tuple[int, int]] = []
        for start, stop in sorted([*spans, *inner]):
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        return merged

    def _parts_before(self, text: str, cut: str) -> Iterator[tuple[int, int]]:
        """Where the beginning of one of the texts stands before `cut`."""
        begin = 0
        while (place := text.find(cut, begin)) >= 0:
            part = text[begin:place].rstrip()
            size = self._tail(part, len(part))
            if size:
                yield begin + len(part) - size, begin + len(part)
            begin = place + len(cut)

    def _tail(self, text: str, most: int) -> int:
        """How many of its last characters, of `most`, one of the texts begins with."""
        end = len(text)
        most = min(self._max_part, most)
        return _longest(most, lambda size: text[end - size :] in self._beginnings)

    def _spans_with_ends(self, text: str) -> list[tuple[int, int]]:
        spans = list(self.spans(text))
        first = len(text) - len(text.lstrip())
        most = min(self._max_part, (spans[0][0] if spans else len(text)) - first)
        head = _longest(most, lambda size: text[first : first + size] in self._ends)
        if head:
            spans.insert(0, (first, first + head))
        stripped = text.rstrip()
        last = len(stripped)
        tail = self._tail(stripped, last - (spans[-1][1] if spans else 0))
        if tail:
            spans.append((last - tail, last))
        return spans

    @cached_property
    def _max_part(self) -> int:
        return max(map(len, self._texts), default=1) - 1

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """What the texts begin with. Of one that begins with a letter nothing: most words would fit."""
        texts = (text for text in self._texts if not (text[0].isalnum() or text[0].isspace()))
        return frozenset(text[:size] for text in texts for size in range(1, len(text)))

    @cached_property
    def _ends(self) -> frozenset[str]:
        """As `_beginnings`, at the other end."""
        texts = (text for text in self._texts if not (text[-1].isalnum() or text[-1].isspace()))
        return frozenset(text[size:] for text in texts for size in range(1, len(text)))


def _longest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest size from 1 to `most` that fits; 0: none."""
    return next((size for size in range(most, 0, -1) if fits(size)), 0)
