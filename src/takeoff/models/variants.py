"""Variants of a model: the same model in other weight formats, kept beside it in the store.

    <home>/models/<name>/variants/<file>.gguf, .json    of a model of the store; removed with it
    <home>/in-place/<name>/variants/                    of a file that is used where it lies

A variant has its final name only when it is whole, hashed, and found to have the source's tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from takeoff.errors import ModelError
from takeoff.models import disk
from takeoff.models.gguf import GgufFile
from takeoff.models.gguf_types import FILE_TYPES, TENSOR_TYPES
from takeoff.models.sources import store_name
from takeoff.models.stored import StoredModel

_MAX_RECORD_BYTES = 64 * 1024
_TYPE_NAMES = {name for name, _, _ in TENSOR_TYPES.values()}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a variant is made. Types and mixtures by the names of `gguf_types`.

    Without `pure`, llama.cpp picks a type for each tensor by the rules of the mixture. A tensor that has
    its target type already is copied as it is.

    Raises:
        ModelError: `name` can't be part of a file's name, or there is no such type.
    """

    name: str  # a part of the file's name, such as Q8_0
    file_type: str  # what most tensors become, or a mixture such as Q4_K_M
    tensor_types: tuple[
        tuple[str, str], ...
    ] = ()  # (regular expression in a tensor's name, type); first wins
    output_type: str | None = None  # of output.weight
    embedding_type: str | None = None  # of token_embd.weight
    pure: bool = False

    def __post_init__(self) -> None:
        if not _PLAIN.fullmatch(self.name):
            raise ModelError(f"{self.name!r} can't be the name of a weight format")
        named = (self.output_type, self.embedding_type, *(each for _, each in self.tensor_types))
        unknown = {each for each in named if each is not None} - _TYPE_NAMES
        if self.file_type not in FILE_TYPES.values() or unknown:
            raise ModelError(f"there is no weight format {', '.join(sorted(unknown)) or self.file_type}")


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is recorded beside a variant's file."""

    file: str
    recipe: Recipe
    source: str  # `source_key` of the model that it was made from
    sha256: str
    file_bytes: int
    quantisation: str  # what most of its bytes are
    made_at: str  # ISO 8601, UTC


def model_place(model: StoredModel, home: Path) -> Path:
    """The folder of what is known and made of a model: its own in the store, else one by its path."""
    if model.sha256 is not None:
        return model.path.parent
    return home / "in-place" / store_name(model.name, str(model.path))


def source_key(model: StoredModel) -> str:
    """What makes a model's weights these and no others.

    Of a file that is used in place: its length and time of change, for to hash gigabytes at every start
    takes longer than to load them.
    """
    if model.sha256 is not None:
        return f"sha256:{model.sha256}"
    stat = model.path.stat()
    return f"file:{stat.st_size}-{stat.st_mtime_ns}"


def variants_folder(place: Path) -> Path:
    return place / "variants"


def list_variants(place: Path) -> tuple[Variant, ...]:
    """The whole variants in a model's place, by file name."""
    return tuple(_whole(variants_folder(place)))


def find_variant(model: StoredModel, home: Path, file: str) -> Variant | None:
    """The variant of that file name, if it is whole and made from this very model."""
    variants = list_variants(model_place(model, home))
    return next((each for each in variants if each.file == file and each.source == source_key(model)), None)


def variant_model(model: StoredModel, home: Path, variant: Variant) -> StoredModel:
    """A variant as a model that can be served under its source's name; its header is read as any model's."""
    return replace(
        model,
        path=variants_folder(model_place(model, home)) / variant.file,
        sha256=variant.sha256,
        file_bytes=variant.file_bytes,
        quantisation=variant.quantisation,
    )


def check_same_model(source: GgufFile, variant: GgufFile) -> None:
    """Raise ModelError unless both have tensors of the same names and shapes, and the same vocabulary."""

    def shape_of(model: GgufFile) -> tuple[str, int, dict[str, tuple[int, ...]]]:
        return model.architecture, model.n_vocab, {each.name: each.shape for each in model.tensors}

    if shape_of(source) != shape_of(variant):
        raise ModelError(f"{variant.path.name} is not a variant of {source.path.name}", hint="delete it")


def record_variant(folder: Path, variant: Variant) -> None:
    data = msgspec.json.format(msgspec.json.encode(variant), indent=2)
    disk.write_whole((folder / variant.file).with_suffix(".json"), data + b"\n")


def discard_variant(place: Path, variant: Variant) -> None:
    """Delete one."""
    path = variants_folder(place) / variant.file
    disk.discard(path)
    disk.discard(path.with_suffix(".json"))


def discard_other_variants(place: Path, kept_file: str | None) -> None:
    """Delete the variants in a model's place that have another file name."""
    for variant in list_variants(place):
        if variant.file != kept_file:
            discard_variant(place, variant)


def discard_variants(place: Path) -> None:
    """Delete every variant in a model's place."""
    disk.discard(variants_folder(place))


def _whole(folder: Path) -> Iterator[Variant]:
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        variant = _read_record(path)
        file = path.with_suffix(".gguf")
        if variant is None or variant.file != file.name or file.is_symlink() or not file.is_file():
            continue
        if file.stat().st_size == variant.file_bytes:
            yield variant


def _read_record(path: Path) -> Variant | None:
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(_MAX_RECORD_BYTES + 1)
    try:
        return msgspec.json.decode(data, type=Variant)
    except (msgspec.DecodeError, UnicodeDecodeError, ModelError):
        return None
