"""The GPU of this machine, whether llama.cpp can use it, and what of a model goes there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from takeoff.models.cpu_features import find_build

CONTEXT_BYTES = 600 << 20  # on the GPU, of the driver in a process that computes there; measured on an H200
HOST_BYTES = 500 << 20  # here, of CUDA's libraries in an engine and its preparers; measured there
USABLE_SHARE = 0.95  # of what is free

_BACKENDS = ("libggml-cuda.so", "libggml-vulkan.so")  # of llama.cpp, that compute on an NVIDIA GPU
_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """What `nvidia-smi` says of one. Memory in bytes."""

    name: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class OnGpu:
    """What of a model is put on the GPU, of what is free there. Sizes in bytes.

    llama.cpp counts what makes logits of the last layer's output as one layer more, and puts it there first.
    """

    num_layers: int
    of_layers: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + CONTEXT_BYTES

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.free_bytes * USABLE_SHARE


def find_gpu(environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """The first NVIDIA GPU that `environ` leaves visible; None where there is none, or none that answers."""
    command = shutil.which("nvidia-smi")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if command is None or (visible is not None and not visible.strip()):
        return None
    which = [] if visible is None else ["-i", visible.split(",")[0].strip()]
    query = [command, *which, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
        name, _, free = answer.stdout.splitlines()[0].rpartition(",")
        return Gpu(name.strip(), int(free) << 20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def why_unusable(build: Path | None = None) -> str | None:
    """Why llama.cpp computes on no GPU; None: it can. `build`: its folder, the installed one's by default."""
    folder = build or find_build()
    if folder is None or not any((folder / "lib" / name).is_file() for name in _BACKENDS):
        return "this llama.cpp was built without CUDA"
    return None


def most_that_fits(
    of_layers: int, weights_bytes: int, kv_bytes: int, compute_bytes: int, free_bytes: int
) -> OnGpu | None:
    """The most layers that the GPU has memory for; None: not one."""
    places = (
        placed(number, of_layers, weights_bytes, kv_bytes, compute_bytes, free_bytes)
        for number in range(of_layers, 0, -1)
    )
    return next((place for place in places if place.fits), None)


def placed(
    num_layers: int, of_layers: int, weights_bytes: int, kv_bytes: int, compute_bytes: int, free_bytes: int
) -> OnGpu:
    """So many layers on the GPU, all taken for equally large; the first of them has no keys and values."""
    with_cache = (num_layers - 1) / max(1, of_layers - 1)
    return OnGpu(
        num_layers=num_layers,
        of_layers=of_layers,
        weights_bytes=weights_bytes * num_layers // of_layers,
        kv_bytes=int(kv_bytes * with_cache),
        compute_bytes=compute_bytes,
        free_bytes=free_bytes,
    )
