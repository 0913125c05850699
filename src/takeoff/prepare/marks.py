"""Send a stranger's strings through a template, and know them again in what it wrote.

A template may trim or rearrange what it is given, so positions don't survive it. Marks do: what must
stay plain text goes through the template as a mark that nobody can guess.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Protocol

from takeoff.prepare.special_texts import SpecialTexts


class Cutter(Protocol):
    """What marks need of a tokenizer."""

    special_texts: SpecialTexts

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...


class Marks:
    """The marks of one rendering, and what each of them stands for.

    Digits and tildes: JSON, HTML and a change of case leave them as they are.
    """

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._nonce = secrets.randbelow(10**18)
        self._held: list[str | None] = []  # None: a cut

    def cut(self) -> str:
        """A mark at which the token ids are cut, and no text is."""
        return self._hold(None)

    def plain(self, text: str) -> str:
        """`text` with marks for what could be read as a control token in it, or together with a neighbour."""
        parts: list[str] = []
        end = 0
        for start, stop in self._cutter.special_texts.spans_with_edges(text):
            parts += (text[end:start], self._hold(text[start:stop]))
            end = stop
        return "".join([*parts, text[end:]])

    def plain_all(self, value: Any) -> Any:
        """JSON whose strings, names of members included, went through `plain`."""
        match value:
            case str():
                return self.plain(value)
            case dict():
                return {self.plain(name): self.plain_all(each) for name, each in value.items()}
            case list():
                return [self.plain_all(each) for each in value]
        return value

    def tokenize(self, rendered: str) -> list[list[int]]:
        """Token ids of what a template made of marked strings, cut at the cuts.

        They are llama.cpp's own of the text with its control tokens parsed, but of what `plain` marked.
        """
        if not self._held:
            return [self._cutter.tokenize(rendered, parse_special=True)]
        pieces = re.split(f"~{self._nonce}\\.([0-9]+)~", rendered)
        parts: list[list[int]] = [[]]
        plain: list[str] = []

        def flush() -> None:
            parts[-1] += self._cutter.tokenize("".join(plain), parse_special=False)
            plain.clear()

        # Cut at the template's own control tokens, as llama.cpp does, and nowhere else: a stranger's text
        # gets the ids that it has as plain text.
        for i, piece in enumerate(pieces):  # the template's text, index of a mark, the template's text, ...
            if i % 2:
                held = self._held[int(piece)]
                if held is not None:
                    plain.append(held)
                else:
                    flush()
                    parts.append([])
                continue
            end = 0
            for start, stop in self._cutter.special_texts.spans(piece):
                plain.append(piece[end:start])
                flush()
                parts[-1] += self._cutter.tokenize(piece[start:stop], parse_special=True)
                end = stop
            plain.append(piece[end:])
        flush()
        return parts

    def _hold(self, what: str | None) -> str:
        self._held.append(what)
        return f"~{self._nonce}.{len(self._held) - 1}~"
