"""The manifest: `takeoff: {server_config: {...}, readers_config: {ID: {...}}}` in a YAML file.

Its shape and types are those of Titan Takeoff's config.yaml; on top, every setting of ours may stand in
it under its own name. In `server_config` a reader's setting is the default of every reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from takeoff.errors import SettingsError
from takeoff.settings.document import Node, place_of, read_document
from takeoff.settings.entries import Checked, Entry, KnownKeys, check_entries, unique
from takeoff.settings.fields import IDENTITY, RESULTS, ReaderSettings, Settings
from takeoff.settings.names import (
    READER_NAMES,
    READER_WITHOUT_EFFECT,
    SERVER_NAMES,
    SERVER_WITHOUT_EFFECT,
)

CONTAINER_MANIFEST = Path("/code/config.yaml")
ENTRY_KEYS = ("server_config", "readers_config")
READER_KEYS = KnownKeys(frozenset(ReaderSettings.model_fields), READER_NAMES, READER_WITHOUT_EFFECT)
SERVER_KEYS = KnownKeys(
    frozenset(Settings.model_fields) - IDENTITY - RESULTS - {"manifest", "loras", "mmproj"},
    {key: name for key, name in READER_NAMES.items() if name not in IDENTITY} | dict(SERVER_NAMES),
    SERVER_WITHOUT_EFFECT,
)
REQUIRED = (("model_name", "model"), ("device",), ("consumer_group",))

_READER_ID = re.compile(r"[^\x00-\x20\x7f/?#%]{1,128}")  # it stands in a URL's path


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file says, checked: values by field, and where each was written."""

    server: Mapping[str, Any] = field(default_factory=dict)
    readers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    without_effect: tuple[str, ...] = ()


def read_manifest(path: Path) -> Manifest:
    """Read and check a file.

    Raises:
        SettingsError: everything that is wrong with it, one line each with path, line and column.
    """
    return _Reading(path.name).read(read_document(path))


class _Reading:
    """Collects what is wrong with one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[str] = []

    def read(self, root: Node | None) -> Manifest:
        entries = root.children if root is not None else {}
        if entries is None or "takeoff" not in entries:
            raise SettingsError(f"No takeoff key found in manifest ({self._file})", param="manifest")
        for name, node in entries.items():
            self._check_shape(name, node)
        manifest = Manifest() if self._problems else self._takeoff(entries["takeoff"].children or {})
        if self._problems:
            raise SettingsError("\n".join(self._problems), param="manifest")
        others = tuple(name for name in entries if name != "takeoff")
        return Manifest(manifest.server, manifest.readers, unique(others + manifest.without_effect))

    def _check_shape(self, name: str, node: Node) -> None:
        """Every entry of the file is {server_config: mapping or null, readers_config: mappings or null}."""
        if node.children is None:
            self._add(name, node, f"Input should be a mapping of {' and '.join(ENTRY_KEYS)}")
            return
        for key in ENTRY_KEYS:
            child = node.children.get(key)
            if child is None:
                self._add(name, node, f"{key} is missing; it may be null")
            elif child.children is None and not _is_null(child):
                self._add(f"{name}.{key}", child, "Input should be a mapping or null")
        readers = node.children.get("readers_config")
        for reader_id, reader in ((readers and readers.children) or {}).items():
            if reader.children is None:
                self._add(f"{name}.readers_config.{reader_id}", reader, "Input should be a mapping")

    def _takeoff(self, entry: Mapping[str, Node]) -> Manifest:
        server = self._checked(Settings, "takeoff.server_config", entry["server_config"], SERVER_KEYS)
        without_effect = [*(key for key in entry if key not in ENTRY_KEYS), *server.without_effect]
        readers: dict[str, Mapping[str, Any]] = {}
        for reader_id, node in (entry["readers_config"].children or {}).items():
            path = f"takeoff.readers_config.{reader_id}"
            if not _READER_ID.fullmatch(reader_id) or reader_id in (".", ".."):
                text = "a reader's id is 1 to 128 characters without spaces, control characters, / ? # or %"
                self._add(path, node, text)
            self._check_required(path, node)
            reader = self._checked(ReaderSettings, path, node, READER_KEYS)
            readers[reader_id] = reader.values
            without_effect += reader.without_effect
        return Manifest(server.values, readers, tuple(without_effect))

    def _check_required(self, path: str, node: Node) -> None:
        """The keys must be there; only the model must say something, the others may be null."""
        given = node.children or {}
        for names in REQUIRED:
            found = [given[name] for name in names if name in given]
            if not found:
                self._add(path, node, f"{names[0]} is missing")
            elif names[0] == "model_name" and all(map(_is_null, found)):
                self._add(f"{path}.{names[0]}", found[0], "a reader needs a model")

    def _checked(self, model: type[ReaderSettings], path: str, node: Node, known: KnownKeys) -> Checked:
        nodes = node.children or {}
        entries = {key: Entry(child.value, child.text) for key, child in nodes.items()}
        checked = check_entries(model, entries, known)
        for key, text in checked.problems:
            self._add(f"{path}.{key}" if key else path, nodes.get(key, node), text)
        return checked

    def _add(self, path: str, node: Node, text: str) -> None:
        self._problems.append(f"{path}: {text} ({place_of(self._file, node.line, node.column)})")


def _is_null(node: Node) -> bool:
    return node.text is not None and node.scalar is None
