"""Send a stranger's strings through a template, and know them again in what it wrote.

A template may trim or rearrange what it is given, so positions don't survive it. Marks do: what must
stay plain text goes through the template as a mark that nobody can guess.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any, Protocol

from takeoff.prepare.special_texts import SpecialTexts

_BLANKS = " \t\n\v\f\r"  # what control tokens of some vocabularies take away beside them
_Piece = tuple[str, bool]  # text, and whether it is a stranger's, which was marked


class Cutter(Protocol):
    """What marks need of a tokenizer."""

    special_texts: SpecialTexts

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...

    def strips(self, text: str) -> tuple[bool, bool]: ...


class Marks:
    """The marks of one rendering, and what each of them stands for.

    Digits and tildes: JSON, HTML and a change of case leave them as they are.
    """

    def __init__(self, cutter: Cutter, cuts: Iterable[str] = ()) -> None:
        """`cuts`: texts which the template may take out of a string, with more that follows."""
        self._cutter = cutter
        self._cuts = tuple(cuts)
        self._nonce = secrets.randbelow(10**18)
        self._held: list[str | None] = []  # None: a cut

    def cut(self) -> str:
        """A mark at which the token ids are cut, and no text is."""
        return self._hold(None)

    def plain(self, text: str) -> str:
        """`text` with marks for what could be read as a control token in it, or together with a neighbour.

        A neighbour is also what comes to stand beside it when something between is taken out.
        """
        parts: list[str] = []
        end = 0
        for start, stop in self._cutter.special_texts.spans_with_edges(text, self._cuts):
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
        parts: list[list[_Piece]] = [[(pieces[0], False)]]
        for mark, text in zip(pieces[1::2], pieces[2::2], strict=True):
            held = self._held[int(mark)]
            if held is None:
                parts.append([])
            else:
                parts[-1].append((held, True))
            parts[-1].append((text, False))
        return [self._tokenize(part) for part in parts]

    def _tokenize(self, pieces: list[_Piece]) -> list[int]:
        tokenize, spans = self._cutter.tokenize, self._cutter.special_texts.spans
        text = "".join(piece for piece, _ in pieces)
        own: list[tuple[int, int]] = []  # where control tokens stand that the template wrote
        pos = 0
        for piece, is_held in pieces:
            own += [] if is_held else [(pos + start, pos + stop) for start, stop in spans(piece)]
            pos += len(piece)
        if list(spans(text)) == own:  # nobody forges anything
            return tokenize(text, parse_special=True)
        # Cut at the template's own control tokens, as llama.cpp does, and nowhere else: a stranger's text
        # gets the ids that it has as plain text.
        ids: list[int] = []
        end, strips_right = 0, False
        for start, stop in own:
            strips_left, strips_next = self._cutter.strips(text[start:stop])
            between = _stripped(text[end:start], left=strips_right, right=strips_left)
            ids += tokenize(between, parse_special=False)
            ids += tokenize(text[start:stop], parse_special=True)
            end, strips_right = stop, strips_next
        return ids + tokenize(_stripped(text[end:], left=strips_right, right=False), parse_special=False)

    def _hold(self, what: str | None) -> str:
        self._held.append(what)
        return f"~{self._nonce}.{len(self._held) - 1}~"


def _stripped(text: str, *, left: bool, right: bool) -> str:
    text = text.lstrip(_BLANKS) if left else text
    return text.rstrip(_BLANKS) if right else text
