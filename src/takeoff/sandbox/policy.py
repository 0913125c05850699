"""What a child may do: the files that it may open, and the variables that it is told."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

Mode = Literal["auto", "require", "off"]

VARIABLE = "TAKEOFF_CHILD_POLICY"  # carries the policy to the child

# What a child needs of our environment, named one by one: where its libraries are, how text is encoded,
# how threads and memory are used, which GPU is meant.
_KEPT = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "DYLD_LIBRARY_PATH",
        "GLIBC_TUNABLES",
        "HIP_VISIBLE_DEVICES",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONUTF8",
        "TZ",
    }
)
_KEPT_PREFIXES = ("GGML_", "GOMP_", "KMP_", "OMP_", "OPENBLAS_")

# A child without layers on a GPU opens none: that takes memory and time, and llama.cpp would compute there.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

# onnxruntime (1.32) would tell its maker what it runs, and keep a database for that in the user's cache.
_TELLING_NOBODY = {"ORT_DISABLE_TELEMETRY": "1"}

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Policy:
    """What one child may open, besides its libraries."""

    readable: tuple[str, ...] = ()  # files, and folders with all that is below them
    writable: tuple[str, ...] = ()  # the same; a folder is made if need be
    gpu: bool = False  # whether it may use the devices of a GPU
    mode: Mode = "auto"  # use what the kernel has; end where something is missing; use nothing

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {name: tuple(fields[name]) for name in ("readable", "writable")})


def with_companions(model: str) -> Iterator[str]:
    """A model's path, its other parts, and the folder that the links of a hub's cache lead to."""
    yield model
    path = Path(model)
    if (part := _SHARD.search(path.name)) is not None:
        yield from map(str, path.parent.glob(f"{path.name[: part.start()]}-*-of-{part[1]}.gguf"))
    if path.is_dir() and path.parent.name == "snapshots":
        yield str(path.parent.parent / "blobs")


def child_environment(environ: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """What a child is told of `environ`, its policy, and to tell nobody."""
    kept = {name: text for name, text in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    hidden = {} if policy.gpu else _NO_GPU
    return kept | hidden | _TELLING_NOBODY | {VARIABLE: policy.to_json()}


def taken_policy() -> Policy:
    """This process's own, which is taken out of its environment; without one it may open no file."""
    text = os.environ.pop(VARIABLE, None)
    return Policy() if text is None else Policy.from_json(text)
