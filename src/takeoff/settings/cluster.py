"""How a manifest's readers are spread over a cluster: its `takeoff.cluster_config`.

cluster_config:
  doors: 2
  readers:
    chat: {replicas: 1-4, queued_tokens: 4000}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_serializer

from takeoff.errors import SettingsError
from takeoff.settings.document import Node, place_of, read_document
from takeoff.settings.entries import shown

SECTION = "cluster_config"
MOST_REPLICAS = 1_000

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_TEXTS = {  # of pydantic's kinds of errors
    "extra_forbidden": "there is no such setting",
    "model_type": "Input should be a mapping",
    "dict_type": "Input should be a mapping",
}


def _as_range(value: Any) -> Any:
    """`2` or `0-4`: the fewest and the most."""
    is_told = isinstance(value, int | str) and not isinstance(value, bool)
    match = _RANGE.fullmatch(str(value)) if is_told else None
    if match is None:
        raise ValueError(f"a number of replicas is written 2 or 1-4, got {shown(value)}")
    fewest = int(match[1])
    most = fewest if match[2] is None else int(match[2])
    if not max(fewest, 1) <= most <= MOST_REPLICAS:
        raise ValueError(f"replicas are 1 to {MOST_REPLICAS}, and the second number is not the smaller one")
    return fewest, most


class ReplicaSettings(BaseModel):
    """How often a reader is there, and what of a machine each of them takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    replicas: Annotated[tuple[int, int], BeforeValidator(_as_range)] = Field(
        default=(1, 1),
        description="How many: `2`, or from and to: `0-4`; with 0 the first request waits for a start",
    )
    queued_tokens: int = Field(
        default=4_000,
        ge=1,
        le=100_000_000,
        description="Tokens that may wait for each replica, of prompts and the completions that they want; "
        "beyond, one is added",
    )
    idle_s: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="A replica that has not been needed for so long is taken away",
    )
    cpus: float = Field(default=1.0, ge=0, le=1_024, description="CPUs that Ray reserves for each replica")
    gpus: float = Field(
        default=0.0, ge=0, le=64, description="GPUs that Ray reserves for each replica, and shows to it"
    )

    @field_serializer("replicas")
    def _written(self, replicas: tuple[int, int]) -> str:
        """As it is read."""
        return f"{replicas[0]}-{replicas[1]}"

    @property
    def is_fixed(self) -> bool:
        return self.replicas[0] == self.replicas[1]


class ClusterSettings(BaseModel):
    """What a cluster is told beside the settings of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    doors: int = Field(
        default=1, ge=1, le=64, description="Front processes; those on one machine share its ports"
    )
    readers: dict[str, ReplicaSettings] = Field(
        default={}, description="By reader id; others have one replica"
    )

    def of(self, reader_id: str) -> ReplicaSettings:
        return self.readers.get(reader_id, ReplicaSettings())


def read_cluster(manifest: Path | None, reader_ids: Mapping[str, Any]) -> ClusterSettings:
    """The section of a manifest that `load_settings` has found to be right; without one the defaults.

    Raises:
        SettingsError: what is wrong with it, a line each; also a reader that `reader_ids` has not.
    """
    if manifest is None:
        return ClusterSettings()
    path = manifest.expanduser()
    root = read_document(path)
    node = _below(root, "takeoff", SECTION)
    if node is None or node.value is None:
        return ClusterSettings()
    where = f"takeoff.{SECTION}"
    problems = []
    try:
        cluster = ClusterSettings.model_validate(node.value)
    except ValidationError as exc:
        for error in exc.errors():
            keys = [str(key) for key in error["loc"]]
            problems.append((keys, _TEXTS.get(error["type"], error["msg"].removeprefix("Value error, "))))
    else:
        known = ", ".join(reader_ids) or "none"
        problems = [
            (["readers", name], f"there is no such reader, only {known}")
            for name in cluster.readers
            if name not in reader_ids
        ]
    if problems:
        lines = []
        for keys, text in problems:
            at = _below(node, *keys) or node
            lines.append(f"{'.'.join([where, *keys])}: {text} ({place_of(path.name, at.line, at.column)})")
        raise SettingsError("\n".join(lines), param="manifest")
    return cluster


def _below(node: Node | None, *keys: str) -> Node | None:
    for key in keys:
        node = None if node is None or node.children is None else node.children.get(key)
    return node
