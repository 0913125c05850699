"""What breaks parsers: numbers at edges, texts that are none, nesting without end, and bytes gone wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 4_097, 65_535, 65_536, 100_001),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**40, 2**53 + 1),
    *(2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**40),
)
FLOATS = (0.5, -0.0, 1e-320, 1e308, 3.0e38, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    *("", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "é" * 200, "\U0010ffff"),
    *("../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/", "//x", "C:\\x"),
    *("%00", "%ff%fe", "%2e%2e%2f", "{{7*7}}", "{% include '/etc/passwd' %}", "$(id)", "'; --", "<script>"),
    *(
        "null",
        "true",
        "NaN",
        "-0",
        "1e999",
        "0x10",
        "1_000",
        "٣",
        "x" * 9_000,
        "\r\nx-injected: 1",
        "a" * 129,
    ),
    *("<|im_start|>system\n", "<|im_end|>", "</s>", "<think>", "<tool_call>{", "[TOOL_CALLS]", "<image>"),
)
NOT_UTF8 = (b"\xff", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\x80")
DEPTHS = (20, 200, 1_100, 10_000)


@dataclass(frozen=True, slots=True)
class Raw:
    """What stands in a JSON text as it is, right or wrong."""

    text: bytes


RAWS = tuple(
    map(
        Raw,
        (
            *(
                b"NaN",
                b"Infinity",
                b"-Infinity",
                b"1e400",
                b"-1e400",
                b"-0",
                b"-0.0",
                b"1E+9999999",
                b"01",
                b"1.",
            ),
            *(
                b"9" * 400,
                b"9" * 5_000,
                b"0." + b"0" * 5_000 + b"1",
                b'"\\ud800"',
                b'"\\udc00\\ud800"',
                b'"\\u0000"',
            ),
            *(
                b'{"a":1,"a":2}',
                b"[1,]",
                b"{,}",
                b"'a'",
                b"//",
                b"\x00",
                b"undefined",
                b'"',
                b"{",
                b"]",
                b"tru",
            ),
            *(b'"' + each + b'"' for each in NOT_UTF8),
        ),
    )
)


def nested(chance: random.Random) -> Raw:
    """JSON within JSON within JSON."""
    depth = chance.choice(DEPTHS)
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"type":', b"}]")))
    middle = chance.choice((b"1", b"", b"null"))
    return Raw(opening * depth + middle + (closing * depth if chance.random() < 0.8 else b""))


def value(chance: random.Random) -> Any:
    """Any JSON value, most of them odd; a `Raw` where it is none."""
    pick = chance.random()
    if pick < 0.2:
        return chance.choice(INTEGERS)
    if pick < 0.25:
        return chance.choice((True, False, None, 0.5, -1.5, 1e308))
    if pick < 0.5:
        return chance.choice(TEXTS)
    if pick < 0.7:
        return chance.choice(RAWS)
    if pick < 0.74:
        return nested(chance)
    if pick < 0.87:
        return [value(chance) for _ in range(chance.randint(0, 3))]
    if pick < 0.88:
        return [chance.choice(INTEGERS)] * chance.choice((100, 3_000))
    return {chance.choice(TEXTS): value(chance) for _ in range(chance.randint(0, 3))}


def changed(tree: Any, chance: random.Random) -> Any:
    """A JSON tree with one place in it changed: another value, one more, one less, or one twice."""
    if isinstance(tree, dict) and tree and chance.random() < 0.85:
        key = chance.choice(list(tree))
        pick = chance.random()
        if pick < 0.1:
            return {name: each for name, each in tree.items() if name != key}
        if pick < 0.2:
            return {**tree, chance.choice(TEXTS): value(chance)}
        return {**tree, key: changed(tree[key], chance)}
    if isinstance(tree, list) and tree and chance.random() < 0.85:
        place = chance.randrange(len(tree))
        pick = chance.random()
        if pick < 0.1:
            return tree[:place] + tree[place + 1 :]
        if pick < 0.2:
            return [*tree[:place], *[tree[place]] * chance.choice((2, 2, 2, 300)), *tree[place:]]
        return [*tree[:place], changed(tree[place], chance), *tree[place + 1 :]]
    return value(chance)


def json_text(tree: Any) -> bytes:
    """A tree as JSON, its `Raw`s as they are."""
    match tree:
        case Raw(text=text):
            return text
        case dict():
            members = (json.dumps(name).encode() + b":" + json_text(each) for name, each in tree.items())
            return b"{" + b",".join(members) + b"}"
        case list():
            return b"[" + b",".join(map(json_text, tree)) + b"]"
        case _:
            return json.dumps(tree).encode()


def _flipped(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _replaced(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.choice((0, 1, 9, 10, 13, 32, 34, 58, 127, 128, 255))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _without(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 16)]


def _doubled(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randint(1, 64)]
    data[start:start] = piece * chance.choice((1, 1, 2, 50))


def _moved(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randint(1, 32)]
    place = chance.randrange(len(data))
    data[place:place] = piece


def _inserted(data: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(data))
    text = chance.choice(TEXTS).encode("utf-8", "surrogatepass")[:64]
    data[place:place] = chance.choice((text, chance.choice(NOT_UTF8), str(chance.choice(INTEGERS)).encode()))


def _numbered(data: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    place = chance.randrange(len(data))
    number = chance.choice(INTEGERS) % 256**size
    data[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))


_CHANGES: Sequence[Callable[[bytearray, random.Random], None]] = (
    *(
        _flipped,
        _flipped,
        _replaced,
        _replaced,
        _cut,
        _without,
        _without,
        _doubled,
        _moved,
        _inserted,
        _numbered,
    ),
)


def damaged(data: bytes, chance: random.Random, most: int = 4) -> bytes:
    """`data` with one to `most` changes at any place, whatever it means."""
    changing = bytearray(data)
    for _ in range(chance.randint(1, most)):
        if changing:
            chance.choice(_CHANGES)(changing, chance)
    return bytes(changing)
