"""Find the texts of control tokens inside a text, in time linear in the text.

Vocabularies have thousands of them, and the text is a stranger's: neither an alternation of all
of them nor a search for each would do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

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
