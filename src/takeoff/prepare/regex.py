"""A client's regular expression, read as Python's `re` reads it, written as llguidance (Rust) reads it.

The dialect is Python's: what is made matches `re.fullmatch`. Constructs that no automaton can follow
(lookaround, backreferences, possessive repeats, word boundaries) are refused by name. Where dialects
differ, what is made stays within all of them: `\\d`, `\\w` and `\\s` are ASCII, as in ECMA 262, and
`[^\\w]` excludes every letter of Unicode, as in Python. It may thus match less than it could, never more.

The parse tree is that of `re` itself, so that there can be no second opinion on what a text means.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from takeoff.errors import InvalidRequest

MAX_CHARACTERS = 8_192

Item = tuple[Any, Any]  # an operation of `re` and its argument

_LINE_ENDS = r"\n\r\x{2028}\x{2029}"  # no dialect's `.` matches one of these
_SPACES = r"\p{Z}\x09-\x0d\x1c-\x1f\x{85}\x{180e}\x{feff}"  # some dialect's \s matches these
_WORDS = r"\p{L}\p{M}\p{N}\p{Pc}"  # and these, letters; in a schema's pattern llguidance's own \w is ASCII
_FOLDED = r"\x{130}\x{131}\x{17f}\x{212a}"  # characters that some dialect takes for i, s or k

# class: what every dialect agrees on, and what some dialect thinks
_SURE: dict[Any, str] = {
    _constants.CATEGORY_DIGIT: "0-9",
    _constants.CATEGORY_WORD: "0-9A-Za-z_",
    _constants.CATEGORY_SPACE: r"\x20\t\n\r\f\v",
    _constants.CATEGORY_NOT_DIGIT: r"[^\p{Nd}]",
    _constants.CATEGORY_NOT_WORD: f"[^{_WORDS}]",
    _constants.CATEGORY_NOT_SPACE: f"[^{_SPACES}]",
}
_POSSIBLE: dict[Any, str] = {
    _constants.CATEGORY_DIGIT: r"\p{Nd}",
    _constants.CATEGORY_WORD: _WORDS,
    _constants.CATEGORY_SPACE: _SPACES,
    _constants.CATEGORY_NOT_DIGIT: "[^0-9]",
    _constants.CATEGORY_NOT_WORD: "[^0-9A-Za-z_]",
    _constants.CATEGORY_NOT_SPACE: r"[^\x20\t\n\r\f\v]",
}
_REFUSED: dict[Any, str] = {
    _constants.ASSERT: "lookahead and lookbehind",
    _constants.ASSERT_NOT: "negative lookahead and lookbehind",
    _constants.GROUPREF: "a backreference",
    _constants.GROUPREF_EXISTS: "a conditional group",
    _constants.ATOMIC_GROUP: "an atomic group",
    _constants.POSSESSIVE_REPEAT: "a possessive repeat",
}
_STARTS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_ENDS = (_constants.AT_END, _constants.AT_END_STRING)


def whole_match(pattern: str, param: str) -> str:
    """A Rust regex, without anchors, of texts that `re.fullmatch(pattern, text)` matches.

    Raises:
        InvalidRequest: `pattern` is no regular expression, or can't be enforced; names `param`.
    """
    return _translate(pattern, param, padding="")[0]


def search(pattern: str, param: str) -> tuple[str, bool]:
    """A Rust regex, anchored, of texts in which `re.search(pattern, text)` finds something.

    Returns:
        It, and whether it matches all that any dialect would find something in.

    Raises:
        InvalidRequest: as `whole_match`.
    """
    written, is_exact = _translate(pattern, param, padding="(?s:.*)")
    return f"^(?:{written})$", is_exact


def _translate(pattern: str, param: str, *, padding: str) -> tuple[str, bool]:
    if len(pattern) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"a regular expression has at most {MAX_CHARACTERS:,} characters, got {len(pattern):,}",
            param=param,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is ambiguous to a reader is not so in the tree
            tree = _parser.parse(pattern)
        writer = _Writer(param, padding)
        return writer.whole(tree.data, tree.state.flags), writer.is_exact
    except re.error as exc:
        raise InvalidRequest(f"not a regular expression: {exc}", param=param) from exc
    except (RecursionError, OverflowError) as exc:
        raise InvalidRequest(
            "the regular expression is nested too deeply or repeats too often", param=param
        ) from exc


class _Writer:
    """Writes a parse tree. `padding` stands where an alternative is not anchored."""

    def __init__(self, param: str, padding: str) -> None:
        self._param = param
        self._padding = padding
        self.is_exact = True  # no dialect matches more than what was written so far

    def whole(self, items: Sequence[Item], flags: int) -> str:
        """The alternatives at the top, where `^` and `$` mean the ends of the text."""
        if len(items) == 1 and items[0][0] is _constants.BRANCH:
            return "|".join(self.whole(branch.data, flags) for branch in items[0][1][1])
        if len(items) == 1 and items[0][0] is _constants.SUBPATTERN:
            _group, added, removed, inner = items[0][1]
            return f"(?:{self.whole(inner.data, (flags | added) & ~removed)})"
        starts = bool(items) and _is_at(items[0], _STARTS)
        ends = len(items) > starts and _is_at(items[-1], _ENDS)
        if ends and items[-1][1] is _constants.AT_END:
            self.is_exact = False  # Python's `$` also stands before a line feed at the end
        if (starts or ends) and flags & re.MULTILINE:
            raise self._refusal("the flag m")
        before, after = "" if starts else self._padding, "" if ends else self._padding
        items = items[int(starts) : len(items) - int(ends)]
        if starts and len(items) == 1 and items[0][0] is _constants.BRANCH:  # `^a|^b$` is read as `^(?:a|b$)`
            return "|".join(self._branch(branch.data, flags, after) for branch in items[0][1][1])
        return before + self._sequence(items, flags) + after

    def _branch(self, items: Sequence[Item], flags: int, after: str) -> str:
        if items and _is_at(items[-1], _ENDS):
            self.is_exact = False
            return self._sequence(items[:-1], flags)
        return self._sequence(items, flags) + after

    def _sequence(self, items: Sequence[Item], flags: int) -> str:
        return "".join(self._item(operation, argument, flags) for operation, argument in items)

    def _item(self, operation: Any, argument: Any, flags: int) -> str:
        if operation in _REFUSED:
            raise self._refusal(_REFUSED[operation])
        match operation:
            case _constants.LITERAL:
                return self._class([(operation, argument)], flags)
            case _constants.NOT_LITERAL:
                return self._class([(_constants.NEGATE, None), (_constants.LITERAL, argument)], flags)
            case _constants.IN:
                return self._class(argument, flags)
            case _constants.ANY if flags & re.DOTALL:
                return "(?s:.)"
            case _constants.ANY:
                self.is_exact = False
                return f"[^{_LINE_ENDS}]"
            case _constants.BRANCH:
                return f"(?:{'|'.join(self._sequence(branch.data, flags) for branch in argument[1])})"
            case _constants.SUBPATTERN:
                _group, added, removed, inner = argument
                return f"(?:{self._sequence(inner.data, (flags | added) & ~removed)})"
            case _constants.MAX_REPEAT | _constants.MIN_REPEAT:  # a lazy repeat matches the same whole texts
                least, most, inner = argument
                upper = "" if most is _constants.MAXREPEAT else most
                return f"(?:{self._sequence(inner.data, flags)}){{{least},{upper}}}"
            case _constants.AT if argument in (*_STARTS, *_ENDS):
                raise self._refusal("^ or $ elsewhere than at the beginning or the end")
            case _constants.AT:
                raise self._refusal("a word boundary")
            case _:
                raise self._refusal(str(operation).lower())

    def _class(self, members: Sequence[Item], flags: int) -> str:
        """One character out of `members`, or none of them where the first one is NEGATE."""
        negated = members[0][0] is _constants.NEGATE
        categories = _POSSIBLE if negated else _SURE
        ignores_case = bool(flags & re.IGNORECASE)
        if ignores_case or any(operation is _constants.CATEGORY for operation, _ in members):
            self.is_exact = False
        parts = []
        for operation, argument in members[int(negated) :]:
            match operation:
                case _constants.LITERAL:
                    parts.append(self._range(argument, argument, ignores_case, negated))
                case _constants.RANGE:
                    low, high = argument
                    parts.append(self._range(low, high, ignores_case, negated))
                case _constants.CATEGORY:
                    parts.append(categories[argument])
        if negated and ignores_case:
            parts.append(_FOLDED)
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _range(self, low: int, high: int, ignores_case: bool, negated: bool) -> str:
        if any(0xD800 <= edge <= 0xDFFF for edge in (low, high)):
            raise self._refusal("a surrogate, which is not a character,")
        text = _edges(low, high)
        if not ignores_case:
            return text
        if negated and high > 0x7F:
            raise self._refusal("a negated class of characters beyond ASCII under the flag i")
        for first, last, shift in ((0x41, 0x5A, 32), (0x61, 0x7A, -32)):  # A-Z, a-z
            start, end = max(low, first), min(high, last)
            if start <= end:
                text += _edges(start + shift, end + shift)
        return text

    def _refusal(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"{what} in a regular expression can't be enforced", param=self._param)


def _is_at(item: Item, places: tuple[Any, ...]) -> bool:
    return item[0] is _constants.AT and item[1] in places


def _edges(low: int, high: int) -> str:
    return _char(low) if low == high else f"{_char(low)}-{_char(high)}"


def _char(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"
