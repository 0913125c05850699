"""Which of many token sequences begins like a given one, and how much each of them saves.

A radix tree for each scope: sequences that begin alike share the nodes of their common tokens, so a
lookup compares a few arrays however many sequences there are.

What an item is worth, in tokens: every token counts one for each time that somebody wanted it, halved
with every half-life since, by the clock of whoever keeps the tree; a node keeps the sum of its tokens. An
item is worth the nodes that no other item could give in its place. All tokens of a model take about as
long to compute, so tokens stand for seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item", bound=Hashable)


def common_length(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many leading tokens `a` [n] and `b` [m] share."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


@dataclass(eq=False, slots=True)
class _Node(Generic[Item]):
    """Tokens that follow those of the parent. A root has none, and no parent."""

    token_ids: NDArray[np.int32]
    end: int  # tokens from the root to the end of this node
    parent: _Node[Item] | None
    scope: Hashable
    demand: float = 0.0  # sum over its tokens of how often each was wanted, as it was at `demand_at`
    demand_at: float = 0.0
    item: Item | None = None  # whose tokens end here
    children: dict[int, _Node[Item]] = field(default_factory=dict)  # by their first token

    @property
    def start(self) -> int:
        return self.end - len(self.token_ids)


class PrefixTree(Generic[Item]):
    """Items by their tokens. `can_trim`: an item can be cut to any of its first tokens."""

    def __init__(
        self, *, can_trim: bool, half_life: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._can_trim = can_trim
        self._half_life = half_life
        self._clock = clock
        self._roots: dict[Hashable, _Node[Item]] = {}
        self._nodes: dict[Item, _Node[Item]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._nodes)

    def __contains__(self, item: Item) -> bool:
        return item in self._nodes

    def find(self, scope: Hashable, token_ids: NDArray[np.int32]) -> tuple[Item, int] | None:
        """The item that gives most of the first tokens of `token_ids` [n], and how many."""
        root = self._roots.get(scope)
        if root is None:
            return None
        node, length = _walk(root, token_ids)
        if self._can_trim:
            return (_any_below(node), length) if length else None
        while node.item is None or node.end > length:
            if node.parent is None:
                return None
            node = node.parent
        return node.item, node.end

    def longest_common(self, scope: Hashable, token_ids: NDArray[np.int32]) -> int:
        """How many first tokens of `token_ids` [n] some item has, whether it can be cut there or not."""
        root = self._roots.get(scope)
        return 0 if root is None else _walk(root, token_ids)[1]

    def covered_by(self, scope: Hashable, token_ids: NDArray[np.int32]) -> list[Item]:
        """The items for which one of `token_ids` [n] can stand in."""
        root = self._roots.get(scope)
        if root is None:
            return []
        node, length = _walk(root, token_ids)
        if not self._can_trim:
            is_same = node.item is not None and node.end == length == len(token_ids)
            return [node.item] if is_same and node.item is not None else []
        return [each.item for each in _upwards(node) if each.item is not None and each.end <= length]

    def add(self, scope: Hashable, token_ids: NDArray[np.int32], item: Item, *, age: float = 0.0) -> None:
        """Add an item whose tokens, `token_ids` [n >= 1], were wanted once, `age` ago.

        Those that it covers are removed.
        """
        for covered in self.covered_by(scope, token_ids):
            self.remove(covered)
        root = self._roots.setdefault(scope, _Node(np.empty(0, np.int32), 0, None, scope))
        node, length = _walk(root, token_ids)
        if length < node.end:
            node = _split(node, length)
        if length < len(token_ids):
            rest = token_ids[length:]
            leaf = _Node(rest, len(token_ids), node, scope, float(len(rest)), self._clock() - age)
            node.children[int(rest[0])] = leaf
            node = leaf
        node.item = item
        self._nodes[item] = node

    def remove(self, item: Item) -> None:
        node = self._nodes.pop(item)
        node.item = None
        self._tidy(node)

    def use(self, item: Item, length: int) -> None:
        """Note that the first `length` tokens of an item were wanted, and of no other item."""
        now = self._clock()
        for node in _upwards(self._nodes[item]):
            if node.start < length:
                node.demand = self._demand(node, now) + min(node.end, length) - node.start
                node.demand_at = now
            if self._is_given_above(node):
                return

    def worth(self, item: Item) -> float:
        """Tokens that it is expected to save, on the scale of one for each token wanted just now."""
        now = self._clock()
        worth = 0.0
        for node in _upwards(self._nodes[item]):
            worth += self._demand(node, now)
            if self._can_trim or self._is_given_above(node):  # a node above has other items below it
                break
        return worth

    def _is_given_above(self, node: _Node[Item]) -> bool:
        return node.parent is None or node.parent.item is not None

    def _demand(self, node: _Node[Item], now: float) -> float:
        return float(node.demand * 0.5 ** ((now - node.demand_at) / self._half_life))

    def _tidy(self, node: _Node[Item]) -> None:
        """Take out a node that neither ends an item nor parts two; then perhaps the one above."""
        if node.item is not None or len(node.children) > 1:
            return
        if node.parent is None:
            if not node.children:
                del self._roots[node.scope]
            return
        first = int(node.token_ids[0])
        if not node.children:
            del node.parent.children[first]
            self._tidy(node.parent)
            return
        (child,) = node.children.values()
        now = self._clock()
        child.demand = self._demand(child, now) + self._demand(node, now)
        child.demand_at = now
        child.token_ids = np.concatenate([node.token_ids, child.token_ids])
        child.parent = node.parent
        node.parent.children[first] = child


def _walk(root: _Node[Item], token_ids: NDArray[np.int32]) -> tuple[_Node[Item], int]:
    """The last node that `token_ids` [n] reaches, perhaps not to its end, and the tokens in common."""
    node, length = root, 0
    while length < len(token_ids):
        child = node.children.get(int(token_ids[length]))
        if child is None:
            break
        node = child
        length += common_length(child.token_ids, token_ids[length:])
        if length < child.end:
            break
    return node, length


def _upwards(node: _Node[Item]) -> Iterator[_Node[Item]]:
    """A node and those above it, without the root."""
    while node.parent is not None:
        yield node
        node = node.parent


def _any_below(node: _Node[Item]) -> Item:
    while node.item is None:
        node = next(iter(node.children.values()))
    return node.item


def _split(node: _Node[Item], length: int) -> _Node[Item]:
    """Cut a node so that one ends at `length`; returns that one, the upper."""
    assert node.parent is not None, "a root has no tokens"
    size = length - node.start
    share = node.demand * size / len(node.token_ids)
    upper = _Node(node.token_ids[:size], length, node.parent, node.scope, share, node.demand_at)
    node.parent.children[int(node.token_ids[0])] = upper
    node.token_ids = node.token_ids[size:]
    node.demand -= share
    node.parent = upper
    upper.children[int(node.token_ids[0])] = node
    return upper
