"""Numbers of a JSON schema, as a grammar of digits can keep them for whoever parses with doubles.

Up to 2^53 - 1 every integer is a double of its own (RFC 8259, section 6: what interoperates). Bounds are
drawn in to there, and an exclusive bound becomes an inclusive one a little further in: a text like
0.10000000000000000001 is above 0.1, but no double tells the two apart. What is made may thus allow
less than the schema, never more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

MAX_EXACT = 2**53 - 1
MAX_MULTIPLE = 65_535  # llguidance multiplies two in 32 bits where schemas meet
_MAX_FRACTION_BITS = 4  # of `multipleOf`: 1/16
# What a double keeps of a decimal, and what llguidance reads of one without rounding: it divides a whole
# number by a power of ten, and both are exact up to here.
MAX_DIGITS = 15
MAX_PLACES = 22

NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_INT32 = (-(2**31), 2**31 - 1)


def number_keywords(schema: Mapping[str, Any]) -> dict[str, int | float]:
    """`minimum`, `maximum` and `multipleOf` that say what the keywords of `schema` say.

    Raises:
        ValueError: one of them can't be enforced; the message begins with its name.
    """
    types = schema.get("type")
    types = [types] if isinstance(types, str) else types if isinstance(types, list) else ["number"]
    only_integers = "integer" in types and "number" not in types
    lows = [_bound(schema, name, only_integers) for name in ("minimum", "exclusiveMinimum")]
    highs = [_bound(schema, name, only_integers) for name in ("maximum", "exclusiveMaximum")]
    if schema.get("format") == "int32" and only_integers:
        lows.append(_INT32[0])
        highs.append(_INT32[1])
    multiple = _multiple(schema)
    if not (only_integers or multiple is not None or any(each is not None for each in lows + highs)):
        return {}
    low = max([-MAX_EXACT, *(each for each in lows if each is not None)])
    high = min([MAX_EXACT, *(each for each in highs if each is not None)])
    kept: dict[str, int | float] = {"minimum": low, "maximum": high}
    return kept if multiple is None else kept | {"multipleOf": multiple}


def check_multiples(multiples: Iterable[int | float]) -> None:
    """Raise ValueError when values of `multipleOf` may not meet: their common multiple needs over 32 bits."""
    exact = [Decimal(repr(each)) for each in set(multiples)]
    scale = max((-int(each.normalize().as_tuple().exponent) for each in exact), default=0)
    whole = [int(each.scaleb(max(scale, 0))) for each in exact]
    if whole and math.lcm(*whole) * max(whole) >= 2**32:
        raise ValueError('"multipleOf": values with so large a common multiple can\'t be enforced')


def check_constant(value: Any) -> None:
    """Raise ValueError for a value of `const` or `enum` that no text of the grammar would equal."""
    match value:
        case bool() | None:
            return
        case int() | float():
            if not abs(value) <= MAX_EXACT:
                raise ValueError(f"the number {value!s:.40}, beyond 2^53 - 1,")
            exact = Decimal(repr(value)).normalize()
            num_digits = len(exact.as_tuple().digits)
            num_places = num_digits - 1 - exact.adjusted()
            if isinstance(value, float) and (num_digits > MAX_DIGITS or num_places > MAX_PLACES):
                raise ValueError(f"the number {value}, of more than {MAX_DIGITS} digits,")
        case str():
            for char in value:
                if char < " " and char not in "\b\f\n\r\t":
                    raise ValueError(f"a text with the control character U+{ord(char):04X}")
        case list():
            for each in value:
                check_constant(each)
        case dict():
            for each in value.values():
                check_constant(each)


def _bound(schema: Mapping[str, Any], name: str, only_integers: bool) -> int | float | None:
    """The inclusive bound that keyword `name` of `schema` means; None: it has none."""
    if name not in schema:
        return None
    value = schema[name]
    is_endless = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or is_endless:
        raise ValueError(f'"{name}" is a number')
    is_low, is_exclusive = name.lower().endswith("minimum"), name.startswith("exclusive")
    if (value > MAX_EXACT) if is_low else (value < -MAX_EXACT):
        raise ValueError(f'"{name}" beyond 2^53 - 1 can\'t be enforced')
    if abs(value) > MAX_EXACT:
        return value
    if only_integers:
        inward = math.ceil(value) if is_low else math.floor(value)
        return inward + (1 if is_low else -1) if is_exclusive and inward == value else inward
    return _drawn_in(value, is_low=is_low, is_exclusive=is_exclusive)


def _drawn_in(value: int | float, *, is_low: bool, is_exclusive: bool) -> int | float:
    """`value`, or the next number behind it that has few enough digits."""
    if isinstance(value, int) and not is_exclusive:
        return value
    exact = Decimal(repr(value))
    step = Decimal(1).scaleb(max(exact.adjusted() - MAX_DIGITS + 1, -MAX_PLACES))
    drawn_in = exact.quantize(step, ROUND_CEILING if is_low else ROUND_FLOOR)
    if is_exclusive and drawn_in == exact:
        drawn_in += step if is_low else -step
    return float(drawn_in)


def _multiple(schema: Mapping[str, Any]) -> int | float | None:
    value = schema.get("multipleOf")
    if value is None and "multipleOf" not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError('"multipleOf" is a number above 0')
    if value > MAX_MULTIPLE:
        raise ValueError(f'"multipleOf" over {MAX_MULTIPLE:,} can\'t be enforced')
    if not float(value * 2**_MAX_FRACTION_BITS).is_integer():
        raise ValueError(f'"multipleOf" of {value} can\'t be enforced: no double is that fraction')
    return int(value) if float(value).is_integer() else value
