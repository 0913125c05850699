"""Token ids to text as it may be sent: whole characters, stop strings held back and cut."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class TextStream:
    """The text of one sequence.

    Bytes that end inside a character wait for the rest of it; bytes that can't be UTF-8 become
    U+FFFD; what is incomplete when the completion ends is dropped.
    """

    def __init__(
        self,
        piece: Callable[[int], bytes],
        stop: tuple[str, ...],
        stop_tokens: tuple[str, ...],
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        """`accepts` says of a whole text whether the completion may end with it."""
        self.stop_string: str | None = None  # that the completion stopped at
        self._piece = piece
        self._stop = sorted(stop, key=len)
        self._accepts = accepts
        self._said = ""  # kept only where `accepts` will be asked
        self._stop_tokens = frozenset(text.encode() for text in stop_tokens)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token_id: int, *, may_stop: bool) -> tuple[str, bool]:
        """Add a token.

        A stop string counts when it ends in a token that `may_stop`, and where `accepts` is given, when
        that takes the text before it; of several the one that begins first counts, and of those the
        shortest. A stop token is one whose whole text is a stop token's.

        Returns:
            The text to send now, and whether the completion stops here: then this is the last text.
        """
        text, stopped = self._push(self._piece(token_id), may_stop=may_stop)
        if self._accepts is not None:
            self._said += text
        return text, stopped

    def _push(self, piece: bytes, *, may_stop: bool) -> tuple[str, bool]:
        if may_stop and piece in self._stop_tokens and self._may_end(self._held):
            return self.flush(), True
        before = len(self._held)
        text = self._held + self._decoder.decode(piece)
        found = self._find_stop(text, before) if may_stop else None
        if found is not None:
            start, self.stop_string = found
            self._held = ""
            return text[:start], True
        keep = self._partial_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back, at the end of the completion."""
        text, self._held = self._held, ""
        return text

    def _find_stop(self, text: str, before: int) -> tuple[int, str] | None:
        """Where a stop string begins that ends after the first `before` characters, and may end the text.

        The first such place, with the string; places that may not are passed over.
        """
        starts: dict[int, str] = {}
        for stop in self._stop:
            start = text.find(stop, max(0, before - len(stop) + 1))
            while start >= 0:
                starts.setdefault(start, stop)
                start = text.find(stop, start + 1) if self._accepts is not None else -1
        return next((found for found in sorted(starts.items()) if self._may_end(text[: found[0]])), None)

    def _may_end(self, text: str) -> bool:
        return self._accepts is None or self._accepts(self._said + text)

    def _partial_stop(self, text: str) -> int:
        """Length of the longest end of `text` that may begin a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
