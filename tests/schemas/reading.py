"""The schemas of this folder: a file for each kind, a schema a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class NamedSchema(NamedTuple):
    """One of them."""

    kind: str  # the file's name
    name: str
    schema: Any


def read_schemas() -> list[NamedSchema]:
    """All of them, in the order of kinds and of lines."""
    return [
        NamedSchema(path.stem, each["name"], each["schema"])
        for path in sorted(Path(__file__).parent.glob("*.jsonl"))
        for each in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
