"""A YAML file as nodes that know their line and column.

One document, no tags, no merge keys; aliases are counted in full, so that a few lines can't stand for
a billion nodes. A plain scalar is what YAML 1.2 says: `no`, `off` and 1_000 are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from takeoff.errors import SettingsError

MAX_BYTES = 262_144
MAX_NODES = 20_000
MAX_DEPTH = 20

_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file."""

    line: int  # from 1, as is column
    column: int
    text: str | None = None  # of a scalar, as it is written
    scalar: bool | int | float | str | None = None
    items: tuple[Node, ...] | None = None
    children: dict[str, Node] | None = None
    num_nodes: int = 1

    @property
    def value(self) -> Any:
        """The node and what is in it as plain data."""
        if self.items is not None:
            return [item.value for item in self.items]
        if self.children is not None:
            return {key: child.value for key, child in self.children.items()}
        return self.scalar


def read_document(path: Path) -> Node | None:
    """The tree of a file, None if it is empty.

    Raises:
        SettingsError: it can't be read, or `parse_document` refuses it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise SettingsError(f"there is no file {path}", param="manifest") from exc
    except OSError as exc:
        raise SettingsError(f"can't read {path}: {exc.strerror}", param="manifest") from exc
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{path} has more than {MAX_BYTES} bytes", param="manifest")
    try:
        return parse_document(content.decode("utf-8-sig"), path.name)
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not UTF-8 at byte {exc.start}", param="manifest") from exc


def parse_document(text: str, file: str) -> Node | None:
    """The tree of a text, None if there is nothing in it; `file` is its name in errors.

    Raises:
        SettingsError: not YAML, or more of YAML than a manifest needs.
    """
    try:
        return _Builder(file).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = place_of(file, mark.line + 1, mark.column + 1) if mark else file
        raise SettingsError(f"not YAML: {exc.problem or exc.context} ({place})", param="manifest") from exc
    except yaml.YAMLError as exc:
        raise SettingsError(f"not YAML: {str(exc).splitlines()[0]} ({file})", param="manifest") from exc
    except (ValueError, OverflowError) as exc:  # of an escape that stands for no character
        raise SettingsError(f"not YAML: {exc} ({file})", param="manifest") from exc


def place_of(file: str, line: int, column: int) -> str:
    return f"{file}, line {line}, column {column}"


class _Builder:
    """Makes the tree from the parser's events."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._num_nodes = 0

    def build(self, events: Iterator[yaml.Event]) -> Node | None:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                if root is not None:
                    self._refuse(event, "a second document")
                root = self._node(event, events, 1)
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
        if depth > MAX_DEPTH:
            self._refuse(event, f"more than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._refuse(event, f"no anchor is called {event.anchor!r} before this alias")
            node = self._anchors[event.anchor]
            self._count(event, node.num_nodes)
            return node
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            self._refuse(event, f"a tag ({event.tag}), which no setting needs")
        self._count(event, 1)
        before = self._num_nodes
        line, column = _start(event)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(line, column, event.value, _scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            items = tuple(self._node(item, events, depth + 1) for item in _until_end(events))
            node = Node(line, column, items=items, num_nodes=1 + self._num_nodes - before)
        else:
            children = self._children(events, depth)
            node = Node(line, column, children=children, num_nodes=1 + self._num_nodes - before)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _children(self, events: Iterator[yaml.Event], depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        for event in _until_end(events):
            key = self._node(event, events, depth + 1)
            if key.text is None:
                self._refuse(event, "a key that is not a single word")
            if key.text in children:
                self._refuse(event, f"the key {key.text!r} a second time")
            if key.text == "<<":
                self._refuse(event, "a merge key (<<); write the keys out, or use an alias for all of them")
            children[key.text] = self._node(next(events), events, depth + 1)
        return children

    def _count(self, event: yaml.Event, num_nodes: int) -> None:
        self._num_nodes += num_nodes
        if self._num_nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} nodes, aliases counted in full")

    def _refuse(self, event: yaml.Event, what: str) -> NoReturn:
        raise SettingsError(f"{what} ({place_of(self._file, *_start(event))})", param="manifest")


def _start(event: yaml.Event) -> tuple[int, int]:
    """Line and column, from 1."""
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _until_end(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """The events that begin a child each; whoever takes one reads the child's own events too."""
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event


def _scalar(event: yaml.ScalarEvent) -> bool | int | float | str | None:
    text: str = event.value
    if not event.implicit[0]:  # it is quoted, or a block
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
