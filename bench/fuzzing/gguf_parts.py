"""The head of a GGUF file taken apart, so that a change can be made where it means something.

Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.fuzzing.nasty import FLOATS, INTEGERS, TEXTS

STRING, ARRAY, UINT32, FLOAT32, FLOAT64 = 8, 9, 4, 6, 12
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_KINDS = (*range(14), 255, 2**31, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One of the metadata, its value as the bytes behind its kind."""

    key: bytes
    kind: int
    value: bytes

    def written(self) -> bytes:
        return text(self.key) + struct.pack("<I", self.kind) + self.value


@dataclass(frozen=True, slots=True)
class Tensor:
    name: bytes
    shape: tuple[int, ...]
    kind: int
    offset: int
    num_dimensions: int | None = None  # that it says; None: those it has

    def written(self) -> bytes:
        count = len(self.shape) if self.num_dimensions is None else self.num_dimensions
        sizes = b"".join(_unsigned(each, 8) for each in self.shape)
        return (
            text(self.name)
            + _unsigned(count, 4)
            + sizes
            + _unsigned(self.kind, 4)
            + _unsigned(self.offset, 8)
        )


@dataclass(frozen=True, slots=True)
class Head:
    """All before the weights; counts that are None are the true ones."""

    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    file_bytes: int  # of the whole file
    magic: bytes = b"GGUF"
    version: int = 3
    num_entries: int | None = None
    num_tensors: int | None = None

    def written(self) -> bytes:
        tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        entries = len(self.entries) if self.num_entries is None else self.num_entries
        counts = _unsigned(self.version, 4) + _unsigned(tensors, 8) + _unsigned(entries, 8)
        parts = (each.written() for each in (*self.entries, *self.tensors))
        return self.magic + counts + b"".join(parts)


def text(data: bytes, length: int | None = None) -> bytes:
    return _unsigned(len(data) if length is None else length, 8) + data


def array(kind: int, elements: list[bytes], count: int | None = None) -> bytes:
    return _unsigned(kind, 4) + _unsigned(len(elements) if count is None else count, 8) + b"".join(elements)


def read_head(data: bytes, *, most_elements: int) -> Head:
    """The head of a file that is right, its arrays cut to `most_elements`; `file_bytes` is 0."""
    return _Reading(data, most_elements).head()


@dataclass
class _Reading:
    data: bytes
    most_elements: int
    at: int = field(default=4)

    def head(self) -> Head:
        version, num_tensors, num_entries = self._number(4), self._number(8), self._number(8)
        entries = tuple(self._entry() for _ in range(num_entries))
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        return Head(entries, tensors, 0, version=version)

    def _entry(self) -> Entry:
        key, kind = self._text(), self._number(4)
        return Entry(key, kind, self._value(kind))

    def _value(self, kind: int) -> bytes:
        if kind == STRING:
            return text(self._text())
        if kind != ARRAY:
            return self._bytes(SIZES[kind])
        inner, count = self._number(4), self._number(8)
        elements = [self._value(inner) for _ in range(count)]
        return array(inner, elements[: self.most_elements])

    def _tensor(self) -> Tensor:
        name, num_dimensions = self._text(), self._number(4)
        shape = tuple(self._number(8) for _ in range(num_dimensions))
        return Tensor(name, shape, self._number(4), self._number(8))

    def _text(self) -> bytes:
        return self._bytes(self._number(8))

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), "little")

    def _bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]


def changed(head: Head, chance: random.Random) -> Head:
    """`head` with one place in it changed to what it should not be, or may not."""
    return chance.choice(_CHANGES)(head, chance)


def _count(head: Head, chance: random.Random) -> Head:
    name = chance.choice(("num_entries", "num_tensors"))
    real = len(head.entries) if name == "num_entries" else len(head.tensors)
    return replace(head, **{name: chance.choice((real + 1, real - 1, *INTEGERS))})  # type: ignore[arg-type]


def _beginning(head: Head, chance: random.Random) -> Head:
    if chance.random() < 0.5:
        return replace(head, version=chance.choice((0, 1, 2, 2, 2, 4, 2**24 * 3, 2**32 - 1)))
    return replace(head, magic=chance.choice((b"GGUF", b"ggjt", b"PK\x03\x04", b"\x80\x02}q", b"", b"GGU")))


def _length(head: Head, chance: random.Random) -> Head:
    some = chance.choice(
        (0, 1, 23, 24, 4_096, head.file_bytes - 1, head.file_bytes // 2, head.file_bytes + 4_096)
    )
    return replace(head, file_bytes=some)


def _entry(head: Head, chance: random.Random) -> Head:
    if not head.entries:
        return head
    place = chance.randrange(len(head.entries))
    old = head.entries[place]
    pick = chance.random()
    if pick < 0.1:
        new: tuple[Entry, ...] = ()
    elif pick < 0.2:
        new = (old, old)
    elif pick < 0.3:
        new = (replace(old, key=chance.choice(TEXTS).encode("utf-8", "surrogatepass")),)
    elif pick < 0.4:
        new = (replace(old, kind=chance.choice(_KINDS)),)
    else:
        kind, value = any_value(chance)
        new = (replace(old, kind=kind, value=value),)
    return replace(head, entries=head.entries[:place] + new + head.entries[place + 1 :])


def any_value(chance: random.Random, depth: int = 0) -> tuple[int, bytes]:
    """A kind and a value of it that is odd, or that is no value of it."""
    pick = chance.random()
    if pick < 0.5:
        kind = chance.choice(tuple(SIZES))
        if kind in (FLOAT32, FLOAT64):
            return kind, _float(kind, chance)
        return kind, _unsigned(chance.choice(INTEGERS), SIZES[kind])
    if pick < 0.65:
        said = chance.choice(TEXTS).encode("utf-8", "surrogatepass")
        length = chance.choice((None, None, 2**40, 2**63, 2**64 - 1, len(said) + 1))
        return STRING, text(said, length)
    if pick < 0.7:
        return ARRAY, _unsigned(ARRAY, 4) * chance.choice((1, 2, 3, 1_000)) + _unsigned(1, 8)
    inner, elements = chance.choice((STRING, ARRAY, *SIZES)), []
    if depth < 3:
        elements = [any_of(inner, chance, depth + 1) for _ in range(chance.choice((0, 1, 3, 32)))]
    count = chance.choice((None, None, None, 4_097, 2**32, 2**61, 2**63, 2**64 - 1))
    return ARRAY, array(inner, elements, count)


def any_of(kind: int, chance: random.Random, depth: int) -> bytes:
    """A value of this kind."""
    if kind == STRING:
        return text(chance.choice(TEXTS).encode("utf-8", "surrogatepass"))
    if kind == ARRAY:
        return any_value(chance, depth + 1)[1]
    if kind in (FLOAT32, FLOAT64):
        return _float(kind, chance)
    return _unsigned(chance.choice(INTEGERS), SIZES[kind])


def _float(kind: int, chance: random.Random) -> bytes:
    if kind == FLOAT32:
        return struct.pack(
            "<I", chance.choice((0x7FC00000, 0x7F800000, 0xFF800000, 1, 0x80000000, 0x3F000000))
        )
    return struct.pack("<d", chance.choice(FLOATS))


def _alignment(head: Head, chance: random.Random) -> Head:
    number = chance.choice((0, 1, 3, 8, 16, 33, 64, 65_536, 2**31, 2**32 - 1))
    kind, value = (UINT32, _unsigned(number, 4)) if chance.random() < 0.7 else any_value(chance)
    entries = tuple(each for each in head.entries if each.key != b"general.alignment")
    return replace(head, entries=(*entries, Entry(b"general.alignment", kind, value)))


def _tensor(head: Head, chance: random.Random) -> Head:
    if not head.tensors:
        return head
    place = chance.randrange(len(head.tensors))
    old = head.tensors[place]
    sizes = list(old.shape)
    if sizes:
        sizes[chance.randrange(len(sizes))] = chance.choice(INTEGERS)
    other = chance.choice(head.tensors)
    new: tuple[Tensor, ...] = chance.choice(
        (
            (),
            (old, old),
            (replace(old, shape=tuple(sizes)),),
            (replace(old, shape=(2**32, 2**32, 2**32, 2**32)),),
            (replace(old, shape=old.shape[::-1]),),
            (replace(old, shape=other.shape),),
            (replace(old, num_dimensions=chance.choice((0, 1, 5, 2**31, 2**32 - 1))),),
            (replace(old, kind=chance.choice((*range(42), 255, 2**31))),),
            (replace(old, offset=chance.choice((other.offset, old.offset + 1, *INTEGERS))),),
            (replace(old, name=chance.choice((other.name, b"", b"\0", b"\xff", b"x" * 200, b"../a"))),),
        )
    )
    return replace(head, tensors=head.tensors[:place] + new + head.tensors[place + 1 :])


def _order(head: Head, chance: random.Random) -> Head:
    tensors = list(head.tensors)
    chance.shuffle(tensors)
    kept = chance.choice((0, 1, len(tensors), len(tensors)))
    return replace(head, tensors=tuple(tensors[:kept]))


_CHANGES: tuple[Callable[[Head, random.Random], Head], ...] = (
    *(_count, _beginning, _length, _alignment, _order),
    *(_entry,) * 8,
    *(_tensor,) * 6,
)


def _unsigned(number: int, size: int) -> bytes:
    return (number % 256**size).to_bytes(size, "little")
