"""Makes a variant of a model: the same weights in another format.

llama.cpp does it, in a child process of its own: ggml ends its process when an assertion fails.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import prod
from pathlib import Path

import msgspec

from takeoff.errors import ModelError
from takeoff.models import disk
from takeoff.models.child import ChildFailed, lines_of
from takeoff.models.gguf import GgufFile, read_gguf
from takeoff.models.gguf_types import TENSOR_TYPES
from takeoff.models.progress import NoProgress, Progress
from takeoff.models.stored import StoredModel
from takeoff.models.variants import (
    Recipe,
    Variant,
    check_same_model,
    find_variant,
    model_place,
    record_variant,
    source_key,
    variants_folder,
)
from takeoff.sandbox.policy import Policy, with_companions

CHILD = "takeoff.engine.llama.requantise"
DONE = "done "  # begins a line of the child that tells the share of tensors that are done
BITS = {name: 8 * block_bytes / block for name, block, block_bytes in TENSOR_TYPES.values()}  # a weight


def requantise(
    model: StoredModel, recipe: Recipe, home: Path, threads: int, progress: Progress | None = None
) -> Variant:
    """Make the variant, or find it made. Blocks: about 2 s for 100 MB on two cores.

    Args:
        model: a GGUF file, in the store or in place.
        home: the store's folder, for a model that is not in it.
        threads: of the conversion.
        progress: told of the conversion, in bytes of the source, and of the check.

    Raises:
        ModelError: llama.cpp could not make it, or made something else.
        PullError: no room on the disk.
    """
    progress = progress or NoProgress()
    file = f"{model.path.name.removesuffix('.gguf')}.{recipe.name}.gguf"
    folder = variants_folder(model_place(model, home))
    with disk.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with disk.locked(folder / ".lock", file, progress, doing="making"):
            variant = find_variant(model, home, file)
            if variant is None or variant.recipe != recipe:
                variant = _make(model, recipe, folder / file, threads, progress)
    return variant


def most_bytes(model: GgufFile, recipe: Recipe) -> int:
    """An upper bound of a variant's size: every matrix in the widest type that the recipe names."""
    named = [recipe.file_type, recipe.output_type, recipe.embedding_type, *dict(recipe.tensor_types).values()]
    bits = max(BITS.get(name, BITS["Q8_0"]) for name in named if name is not None)
    matrices = sum(
        max(each.num_bytes, int(prod(each.shape) * bits / 8)) for each in model.tensors if len(each.shape) > 1
    )
    vectors = sum(each.num_bytes for each in model.tensors if len(each.shape) == 1)
    return model.file_bytes - model.tensor_bytes + matrices + vectors


def _make(model: StoredModel, recipe: Recipe, final: Path, threads: int, progress: Progress) -> Variant:
    source = read_gguf(model.path)
    disk.check_space(final.parent, most_bytes(source, recipe))
    part = final.with_name(final.name + ".part")
    disk.discard(part)
    try:
        progress.stage(f"making {recipe.name} of {model.name}", model.file_bytes)
        _run_child(model, recipe, part, threads, progress)
        made = read_gguf(part)
        check_same_model(source, made)
        progress.stage("hashing", made.file_bytes)
        variant = Variant(
            file=final.name,
            recipe=recipe,
            source=source_key(model),
            sha256=disk.sha256_of_all([part], progress)[0],
            file_bytes=made.file_bytes,
            quantisation=made.quantisation,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    except BaseException:
        disk.discard(part)
        raise
    # The record first, as the store does: a file with its final name lacks nothing.
    disk.discard(final)
    record_variant(final.parent, variant)
    disk.settle(part, final)
    return variant


def _run_child(model: StoredModel, recipe: Recipe, part: Path, threads: int, progress: Progress) -> None:
    """Raises ModelError: the child failed; with its last lines."""
    order = msgspec.json.encode(recipe).decode()
    try:
        part.touch()  # the child may make no file
        policy = Policy(tuple(with_companions(str(model.path))), writable=(str(part),))
        for line in lines_of(policy, CHILD, model.path, part, threads, order):
            if line.startswith(DONE):
                progress.at(int(float(line.removeprefix(DONE)) * model.file_bytes))
    except ChildFailed as exc:
        raise ModelError(f"llama.cpp could not make {recipe.name} of {model.name}: {exc}") from exc
