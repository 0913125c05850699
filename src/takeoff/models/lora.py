"""What a LoRA adapter's file says, held against its base model before llama.cpp maps it.

llama.cpp checks the two outer dimensions of each pair and stops the process where anything else
does not fit, at load or in the first call. So everything that it takes for granted is checked here,
and what it would pass over in silence is refused.

Source: src/llama-adapter.cpp, and build_lora_mm and build_inp_embd in src/llama-graph.cpp, of llama.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from takeoff.errors import ModelError
from takeoff.models.gguf import FLOAT32, MAX_DIMENSIONS, GgufFile, Tensor, damage, read_gguf

MAX_RANK = 4_096
TYPES = frozenset({"F32", "F16", "BF16", "Q8_0"})  # what llama.cpp's converter writes
_A, _B = ".lora_a", ".lora_b"
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """The checked facts of an adapter that fits its base model."""

    path: Path
    rank: int  # of its largest pair
    num_bytes: int  # that it takes in memory


def read_lora(path: Path, base: GgufFile) -> LoraFile:
    """Read the head of an adapter and hold it against its base model.

    Raises:
        ModelError: it is no LoRA adapter, it is damaged, or it does not fit; the message says where.
    """
    file = read_gguf(path)
    _check_metadata(file, base)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    targets = {_target(file, tensor) for tensor in file.tensors}
    if not targets:
        raise _error(file, "has no tensors")
    shapes = {tensor.name: tensor for tensor in base.tensors}
    ranks = [_check_pair(file, name, tensors, shapes) for name in targets]
    return LoraFile(path, max(ranks), file.tensor_bytes)


def _check_metadata(file: GgufFile, base: GgufFile) -> None:
    for key, wanted in {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": base.architecture,
    }.items():
        found = file.metadata.get(key)
        if found != wanted:
            raise _error(file, f"says {key} = {found!r}; an adapter of {base.name} says {wanted!r}")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise _error(file, "is an activated LoRA, which takes effect from certain tokens on only")
    alpha = file.metadata.get("adapter.lora.alpha")
    is_float = file.kinds.get("adapter.lora.alpha") == FLOAT32
    if not is_float or not alpha or not math.isfinite(alpha):  # llama.cpp takes 0 for none: full effect
        raise _error(file, f"says adapter.lora.alpha = {alpha!r}; a finite float32 other than 0 is needed")


def _target(file: GgufFile, tensor: Tensor) -> str:
    """The base model's tensor that one of the adapter's is for."""
    for suffix in (_A, _B):
        if tensor.name.endswith(suffix):
            return tensor.name.removesuffix(suffix)
    raise _error(file, f"has a tensor {tensor.name!r}, which belongs to no pair {_A}, {_B}")


def _check_pair(file: GgufFile, name: str, tensors: dict[str, Tensor], shapes: dict[str, Tensor]) -> int:
    """Whether the pair fits the base model's tensor; returns its rank."""
    a, b, weight = tensors.get(name + _A), tensors.get(name + _B), shapes.get(name)
    if a is None or b is None:
        raise _error(file, f"has only one of {name}{_A} and {name}{_B}")
    if weight is None or len(weight.shape) < 2:
        raise _error(file, f"adapts {name!r}, which is no matrix of the base model")
    if weight.type_name == "NVFP4":
        raise _error(file, f"adapts {name!r}, whose type NVFP4 can't be adapted")
    for tensor in (a, b):
        if tensor.type_name not in TYPES:
            raise _error(
                file, f"has {tensor.name!r} in {tensor.type_name}, not in {', '.join(sorted(TYPES))}"
            )
    if name == _EMBEDDING and _OUTPUT not in shapes:
        raise _error(file, f"adapts {name!r}, which the base model uses as its output, too")
    rank = b.shape[0]
    wanted_a, wanted_b = _shapes(weight, rank)
    if (_padded(a), _padded(b)) != (wanted_a, wanted_b):
        raise _error(
            file,
            f"has {a.name!r} of shape {a.shape} and {b.name!r} of shape {b.shape}; "
            f"the base model's {name!r} of shape {weight.shape} needs {wanted_a} and {wanted_b}",
        )
    if rank > MAX_RANK:
        raise _error(file, f"has a rank of {rank} at {name!r}; the limit is {MAX_RANK}")
    return rank


def _shapes(weight: Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a pair of this rank has; of the embedding, A is looked up by token and so lies the other way."""
    inner, outer, *rest = _padded(weight)
    if weight.name == _EMBEDDING:
        return (rank, outer, *rest), (rank, inner, *rest)
    return (inner, rank, *rest), (rank, outer, *rest)


def _padded(tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape + (1,) * (MAX_DIMENSIONS - len(tensor.shape))


def _error(file: GgufFile, what: str) -> ModelError:
    return damage(file.path, what, hint="name a GGUF LoRA adapter made for this model")
