"""Snapshots of a slot in llama.cpp's own format, made to fit a context of other slots.

The format names the number of its context's streams, and a context restores no other; and a snapshot
must not have more cells than a slot. Neither matters to the keys and values in it.

Source: llama_kv_cache::state_write and state_write_data, src/llama-kv-cache.cpp of the llama.cpp that
llama-cpp-python 0.3.36 builds: a head, then of each cache (models with sliding windows have two)
its number of streams, and of each stream its number of cells; behind that of the only one that is not
empty come the positions, the keys of each layer and the values of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from takeoff.errors import EngineFailed

_HEAD_BYTES = 8  # magic number, sequence
_POSITION_BYTES = 12  # position, number of sequences (1), sequence

Bytes = NDArray[np.uint8]


def fitting(snapshot: Bytes, *, n_streams: int, max_cells: int) -> Bytes:
    """`snapshot` [n] for a context of `n_streams` slots of `max_cells` cells each.

    Returns:
        `snapshot` itself where it fits as it is. Else a copy, of the first `max_cells` tokens at most.

    Raises:
        EngineFailed: it is of a format that is not known here.
    """
    source = _Reader(snapshot)
    source.take(_HEAD_BYTES)
    if source.peek_number() == n_streams and source.peek_cells() <= max_cells:
        return snapshot
    parts = [snapshot[:_HEAD_BYTES]]
    while not source.is_at_end:
        parts += _cache(source, n_streams, max_cells)
    return np.concatenate(parts)


class _Reader:
    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def is_at_end(self) -> bool:
        return self._pos == len(self._data)

    def take(self, num_bytes: int) -> Bytes:
        end = self._pos + num_bytes
        if end > len(self._data):
            raise EngineFailed(f"a snapshot of {len(self._data)} bytes has an unknown format")
        taken = self._data[self._pos : end]
        self._pos = end
        return taken

    def number(self) -> int:
        return int(self.take(4).view(np.uint32)[0])

    def peek_number(self) -> int:
        before = self._pos
        number = self.number()
        self._pos = before
        return number

    def peek_cells(self) -> int:
        """The cells of the next cache."""
        before = self._pos
        streams = self.number()
        cells = next((count for _ in range(streams) if (count := self.number())), 0)
        self._pos = before
        return cells


def _cache(source: _Reader, n_streams: int, max_cells: int) -> Iterator[Bytes]:
    """The next cache, its cells in the first of `n_streams` streams."""
    yield _numbers(n_streams)
    num_empty = n_streams
    for _ in range(source.number()):
        count = source.number()
        if count:
            kept = min(count, max_cells)
            yield _numbers(kept)
            yield from _cells(source, count, kept)
            num_empty = n_streams - 1
    yield _numbers(*[0] * num_empty)


def _cells(source: _Reader, count: int, kept: int) -> Iterator[Bytes]:
    """Of the `count` cells that come next the first `kept`."""
    positions = source.take(count * _POSITION_BYTES)[: kept * _POSITION_BYTES]
    if kept < count and int(positions.view(np.int32)[-3]) != kept - 1:
        raise EngineFailed("the cells of a snapshot are not in order of their positions")
    yield positions
    layout = source.take(8)
    yield layout
    is_transposed, num_layers = (int(number) for number in layout.view(np.uint32))
    for _ in range(num_layers):
        yield from _rows(source, count, kept)
    for _ in range(num_layers):
        yield from _columns(source, count, kept) if is_transposed else _rows(source, count, kept)


def _rows(source: _Reader, count: int, kept: int) -> Iterator[Bytes]:
    """Type, bytes of a cell, cells."""
    head = source.take(12)
    yield head
    cell_bytes = int(head[4:].view(np.uint32)[0])
    yield source.take(count * cell_bytes)[: kept * cell_bytes]


def _columns(source: _Reader, count: int, kept: int) -> Iterator[Bytes]:
    """Type, bytes of an element, elements of a cell; then of each element those of all cells."""
    head = source.take(12)
    yield head
    element_bytes, num_elements = (int(number) for number in head[4:].view(np.uint32))
    values = source.take(num_elements * count * element_bytes).reshape(num_elements, count * element_bytes)
    yield values[:, : kept * element_bytes].reshape(-1)


def _numbers(*numbers: int) -> Bytes:
    return np.array(numbers, np.uint32).view(np.uint8)
