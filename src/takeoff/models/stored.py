"""A model on this machine's disk: what it is, and the entry of the store that remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from takeoff.errors import PullError
from takeoff.models import disk
from takeoff.models.encoder import find_onnx, read_encoder
from takeoff.models.gguf import read_gguf
from takeoff.request import Task

_ENTRY_FILE = "model.json"
_MAX_ENTRY_BYTES = 64 * 1024

Format = Literal["gguf", "onnx"]


class Facts(msgspec.Struct, frozen=True):
    """What a model says of itself."""

    task: Task
    format: Format
    file_bytes: int
    architecture: str
    quantisation: str
    context_length: int
    num_params: int


class FilePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model that is a folder."""

    path: str
    num_bytes: int


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What model.json holds."""

    file: str  # or folder
    asked: tuple[str, ...]  # every text that has named this model
    revision: str | None
    sha256: str
    file_bytes: int
    pulled_at: str  # ISO 8601, UTC
    architecture: str
    quantisation: str
    context_length: int
    num_params: int
    task: Task = Task.GENERATE
    format: Format = "gguf"
    files: tuple[FilePart, ...] = ()  # of a folder


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this machine's disk, ready to be served."""

    name: str
    path: Path  # a GGUF file, or a folder with an ONNX file
    task: Task
    format: Format
    source: str  # the text that first named it
    file_bytes: int
    sha256: str | None  # None: a model used where it is, which nobody hashed
    revision: str | None
    pulled_at: str | None
    architecture: str
    quantisation: str
    context_length: int  # tokens, by the model's own header
    num_params: int


def read_facts(path: Path) -> Facts:
    """Check a model, a file or a folder, and read what it says of itself.

    Raises:
        ModelError: it is not a model that can be served.
    """
    if path.is_dir():
        encoder = read_encoder(path)
        return Facts(
            task=encoder.task,
            format="onnx",
            file_bytes=encoder.file_bytes,
            architecture=encoder.architecture,
            quantisation=encoder.onnx.quantisation,
            context_length=encoder.max_tokens,
            num_params=encoder.onnx.num_params,
        )
    gguf = read_gguf(path)
    return Facts(
        task=gguf.task,
        format="gguf",
        file_bytes=gguf.file_bytes,
        architecture=gguf.architecture,
        quantisation=gguf.quantisation,
        context_length=gguf.context_length,
        num_params=gguf.n_params,
    )


def in_place(path: Path) -> StoredModel:
    """A model that is used where it lies.

    Raises:
        PullError: there is none.
        ModelError: it is not a model that can be served.
    """
    if not path.is_file() and find_onnx(path) is None:
        what = "is a folder, not a GGUF file, and has no model.onnx" if path.is_dir() else "does not exist"
        raise PullError(f"{path} {what}", hint="name a .gguf file; `takeoff models` lists the store")
    facts = read_facts(path)
    return StoredModel(
        name=path.resolve().name if path.is_dir() else path.stem,
        path=path.resolve(),
        source=str(path),
        sha256=None,
        revision=None,
        pulled_at=None,
        **msgspec.structs.asdict(facts),
    )


def new_entry(part: Path, file_name: str, asked: str, revision: str | None, sha256: str) -> Entry:
    """The entry of a model that lies at `part` and will be called `file_name`.

    Raises:
        ModelError: it is not a model that can be served.
    """
    facts = read_facts(part)
    files = disk.files_below(part) if part.is_dir() else []
    values = msgspec.structs.asdict(facts) | {
        "file_bytes": sum(file.stat().st_size for file in files) or facts.file_bytes
    }
    return Entry(
        file=file_name,
        asked=(asked,),
        revision=revision,
        sha256=sha256,
        pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(FilePart(file.relative_to(part).as_posix(), file.stat().st_size) for file in files),
        **values,
    )


def whole_model(folder: Path, entry: Entry) -> StoredModel | None:
    """The model that the entry describes; None if its files are not there, or not as long as they were."""
    path = folder / entry.file
    if path.is_symlink() or not _is_whole(path, entry):
        return None
    return described(folder.name, path, entry)


def described(name: str, path: Path, entry: Entry) -> StoredModel:
    """The model at `path`, in the entry's words."""
    return StoredModel(
        name=name,
        path=path,
        task=entry.task,
        format=entry.format,
        source=entry.asked[0],
        file_bytes=entry.file_bytes,
        sha256=entry.sha256,
        revision=entry.revision,
        pulled_at=entry.pulled_at,
        architecture=entry.architecture,
        quantisation=entry.quantisation,
        context_length=entry.context_length,
        num_params=entry.num_params,
    )


def _is_whole(path: Path, entry: Entry) -> bool:
    if not entry.files:
        return path.is_file() and path.stat().st_size == entry.file_bytes
    there = {file.relative_to(path).as_posix(): file.stat().st_size for file in disk.files_below(path)}
    return there == {part.path: part.num_bytes for part in entry.files}


def read_entry(folder: Path) -> Entry | None:
    """The entry of a model's folder; None where there is none, or none that makes sense."""
    path = folder / _ENTRY_FILE
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as f:
        data = f.read(_MAX_ENTRY_BYTES + 1)
    try:
        entry = msgspec.json.decode(data, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not entry.asked or Path(entry.file).name != entry.file:
        return None
    return entry


def write_entry(folder: Path, entry: Entry) -> None:
    """Remember a model, so that a reader sees the old entry or the new one."""
    disk.write_whole(folder / _ENTRY_FILE, msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n")
