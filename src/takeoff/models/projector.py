"""What a projector's file says: the part of a vision model that makes tokens of images (mmproj).

llama.cpp throws, and its caller is told, where a tensor is missing or has another shape; sizes that it
would take for granted are checked here.

Source: tools/mtmd/clip.cpp and clip-impl.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from takeoff.errors import ModelError
from takeoff.models.gguf import GgufFile, damage, read_gguf

MAX_IMAGE_SIDE = 16_384  # pixels of the square that a model was made for
MAX_LAYERS = 1_024
MAX_WIDTH = 65_536  # of a vector inside the network


@dataclass(frozen=True, slots=True)
class ProjectorFile:
    """The checked facts of a projector that fits its language model."""

    path: Path
    kind: str  # llama.cpp's name of its architecture
    num_bytes: int  # of its weights
    compute_bytes: int  # of the activations of one image


def read_projector(path: Path, base: GgufFile) -> ProjectorFile:
    """Read the head of a projector and hold it against its language model.

    Raises:
        ModelError: it is no projector for images, it is damaged, or it does not fit.
    """
    file = read_gguf(path)
    if file.metadata.get("general.architecture") != "clip":
        raise _error(file, "is no projector")
    if file.metadata.get("clip.has_vision_encoder") is not True:
        raise _error(file, "has no part for images")
    kind = file.metadata.get("clip.projector_type") or file.metadata.get("clip.vision.projector_type")
    if not isinstance(kind, str):
        raise _error(file, f"says clip.projector_type = {kind!r}")
    side = _number(file, "image_size", MAX_IMAGE_SIDE)
    patch = _number(file, "patch_size", side)
    width = _number(file, "embedding_length", MAX_WIDTH)
    inner = _number(file, "feed_forward_length", MAX_WIDTH)
    heads = _number(file, "attention.head_count", width)
    _number(file, "block_count", MAX_LAYERS)
    for key in ("image_mean", "image_std"):
        value = file.metadata.get(f"clip.vision.{key}")
        if (
            not isinstance(value, list)
            or len(value) < 3
            or not all(isinstance(each, float) for each in value)
        ):
            raise _error(file, f"says clip.vision.{key} = {value!r}; three numbers are needed")
    projected = file.metadata.get("clip.vision.projection_dim")
    if kind == "mlp" and projected != base.n_embd:
        raise _error(file, f"makes vectors of {projected} numbers; {base.name} takes {base.n_embd}")
    patches = (side // patch) ** 2
    compute_bytes = 4 * patches * (4 * width + 2 * inner + heads * patches)
    return ProjectorFile(path, kind, file.tensor_bytes, compute_bytes)


def _number(file: GgufFile, key: str, most: int) -> int:
    value: Any = file.metadata.get(f"clip.vision.{key}")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _error(file, f"says clip.vision.{key} = {value!r}; 1 to {most} is possible")
    return value


def _error(file: GgufFile, what: str) -> ModelError:
    return damage(file.path, what, hint="name the mmproj file that was made for this model")
