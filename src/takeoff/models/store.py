"""The model store: a folder that a person can read, in which every model is whole or absent.

    <home>/models/<name>/<file>.gguf     the model; it gets this name only after its hash was checked
    <home>/models/<name>/model.json      where it came from, its SHA-256, what its header says
    <home>/models/<name>/<file>.gguf.part, .part.json, wheels/     an interrupted pull, to go on from
    <home>/models/<name>/.lock           held by the process that pulls it

To remove a model, delete its folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from takeoff.errors import ModelError, PullError
from takeoff.models import disk
from takeoff.models.catalogue import CATALOGUE, CatalogueModel, find_in_catalogue
from takeoff.models.fetch import Fetch, FileFetch
from takeoff.models.gguf import GgufFile, read_gguf
from takeoff.models.progress import NoProgress, Progress
from takeoff.models.pypi import PypiFetch
from takeoff.models.sources import (
    FileSource,
    HubSource,
    NameSource,
    PathSource,
    PypiSource,
    Source,
    UrlSource,
    check_store_name,
    parse_source,
)

_ENTRY_FILE = "model.json"
_MAX_ENTRY_BYTES = 64 * 1024


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What model.json holds."""

    file: str
    asked: tuple[str, ...]  # every text that has named this model
    revision: str | None
    sha256: str
    file_bytes: int
    pulled_at: str  # ISO 8601, UTC
    architecture: str
    quantisation: str
    context_length: int
    num_params: int


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this machine's disk, ready to be served."""

    name: str
    path: Path
    source: str  # the text that first named it
    file_bytes: int
    sha256: str | None  # None: a file used where it is, which nobody hashed
    revision: str | None
    pulled_at: str | None
    architecture: str
    quantisation: str
    context_length: int  # tokens, by the model's own header
    num_params: int


class Store:
    """The models under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._models = root / "models"

    def list(self) -> tuple[StoredModel, ...]:
        """The whole models of the store, by name.

        Raises:
            PullError: the folder can't be read.
        """
        return tuple(model for _, model in self._whole())

    def find(self, text: str) -> StoredModel | None:
        """The stored model of that name, or the one that was pulled by that text; no network."""
        for entry, model in self._whole():
            if text in (model.name, *entry.asked) or text.lower() == model.name:
                return model
        return None

    def pull(self, text: str, progress: Progress | None = None, sha256: str | None = None) -> StoredModel:
        """The model that `text` names; fetched if it is not there yet, used in place if it is a path.

        Args:
            text: a catalogue name, hf:org/repo[:file or quantisation], URL or path.
            progress: told of every stage.
            sha256: what the file of a URL must hash to.

        Raises:
            PullError: it could not be fetched or is not what it should be; nothing has its final name.
            ModelError: it is not a model that can be served.
        """
        progress = progress or NoProgress()
        source = parse_source(text, sha256)
        if isinstance(source, PathSource):
            return _in_place(source.path)
        if (stored := self.find(text)) is not None:
            return _checked(stored, sha256)
        if isinstance(source, NameSource):
            if Path(source.name).is_file():
                return _in_place(Path(source.name))
            return self._pull_catalogued(source.name, progress)
        return self._pull(_fetch_for(source), text, progress)

    def _pull_catalogued(self, name: str, progress: Progress) -> StoredModel:
        model = find_in_catalogue(name)
        if model is None:
            names = [model.name for model in CATALOGUE] + [stored.name for stored in self.list()]
            near = difflib.get_close_matches(name.lower(), names, n=1)
            hint = f"did you mean {near[0]}?" if near else "`takeoff models --available` lists the names"
            raise PullError(f"no model is called {name!r}", hint=hint)
        if model.terms is not None:
            progress.note(model.terms)
        if isinstance(model.source, PypiSource):
            return self._pull(PypiFetch(model, model.source), model.name, progress)
        return self._pull(_hub_fetch(model.source, model), model.name, progress)

    def _pull(self, fetch: Fetch, asked: str, progress: Progress) -> StoredModel:
        check_store_name(fetch.name)
        folder = self._models / fetch.name
        with disk.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink():
                raise PullError(f"{folder} is a symbolic link", hint="the store follows none: delete it")
            with disk.locked(folder / ".lock", fetch.name, progress):
                stored = self._already_there(folder, asked)
                if stored is None:
                    stored = self._bring(fetch, folder, asked, progress)
        return _checked(stored, fetch.sha256)

    def _already_there(self, folder: Path, asked: str) -> StoredModel | None:
        """The model, if another process fetched it or another text named it; remembers the text."""
        entry = _read_entry(folder)
        stored = _stored(folder, entry) if entry is not None else None
        if entry is not None and stored is not None and asked not in entry.asked:
            _write_entry(folder, msgspec.structs.replace(entry, asked=(*entry.asked, asked)))
        return stored

    def _bring(self, fetch: Fetch, folder: Path, asked: str, progress: Progress) -> StoredModel:
        part = folder / f"{fetch.file_name}.part"
        disk.check_space(folder, fetch.space_bytes(part))
        fetch.fetch(part, progress)
        try:
            gguf, sha256 = _verify(fetch, part, progress)
        except (PullError, ModelError):
            part.unlink(missing_ok=True)
            part.with_name(part.name + ".json").unlink(missing_ok=True)
            raise
        entry = _Entry(
            file=fetch.file_name,
            asked=(asked,),
            revision=fetch.revision,
            sha256=sha256,
            file_bytes=gguf.file_bytes,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
            architecture=gguf.architecture,
            quantisation=gguf.quantisation,
            context_length=gguf.context_length,
            num_params=gguf.n_params,
        )
        # The entry first: a file with its final name is a model, and lacks nothing.
        _write_entry(folder, entry)
        disk.settle(part, folder / fetch.file_name)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
        return _described(folder.name, folder / entry.file, entry)

    def _whole(self) -> Iterator[tuple[_Entry, StoredModel]]:
        with disk.disk_errors(self._models):
            if not self._models.is_dir():
                return
            for folder in sorted(self._models.iterdir()):
                entry = _read_entry(folder)
                stored = _stored(folder, entry) if entry is not None else None
                if entry is not None and stored is not None:
                    yield entry, stored


def _fetch_for(source: Source) -> Fetch:
    match source:
        case HubSource():
            return _hub_fetch(source, None)
        case UrlSource():
            from takeoff.models.download import UrlFetch

            return UrlFetch(source)
        case FileSource():
            return FileFetch(source)
        case PathSource() | NameSource():
            raise PullError(f"{source} is not something to fetch")


def _hub_fetch(source: HubSource, model: CatalogueModel | None) -> Fetch:
    from takeoff.models.hub import HubFetch  # huggingface_hub takes half a second to import

    return HubFetch.locate(source, name=model.name if model else None)


def _verify(fetch: Fetch, part: Path, progress: Progress) -> tuple[GgufFile, str]:
    """Check size, hash and structure of a fetched file, before it counts as a model."""
    size = part.stat().st_size
    if fetch.file_bytes is not None and size != fetch.file_bytes:
        raise PullError(
            f"{fetch.file_name} has {size:,} bytes, expected {fetch.file_bytes:,}", hint="pull again"
        )
    progress.stage("checking SHA-256", size)
    sha256 = disk.sha256_of(part, progress)
    if fetch.sha256 is not None and sha256 != fetch.sha256:
        raise PullError(
            f"{fetch.file_name} has SHA-256 {sha256}, expected {fetch.sha256}",
            hint="pull again; if it stays so, the source has changed or something on the way alters it",
        )
    return read_gguf(part), sha256


def _checked(stored: StoredModel, sha256: str | None) -> StoredModel:
    if sha256 is not None and stored.sha256 != sha256.lower():
        raise PullError(
            f"{stored.name} is in the store with SHA-256 {stored.sha256}, expected {sha256.lower()}",
            hint=f"delete {stored.path.parent} and pull again",
        )
    return stored


def _in_place(path: Path) -> StoredModel:
    if not path.is_file():
        what = "is a folder, not a GGUF file" if path.is_dir() else "does not exist"
        raise PullError(f"{path} {what}", hint="name a .gguf file; `takeoff models` lists the store")
    gguf = read_gguf(path)
    return StoredModel(
        name=path.stem,
        path=path.resolve(),
        source=str(path),
        file_bytes=gguf.file_bytes,
        sha256=None,
        revision=None,
        pulled_at=None,
        architecture=gguf.architecture,
        quantisation=gguf.quantisation,
        context_length=gguf.context_length,
        num_params=gguf.n_params,
    )


def _stored(folder: Path, entry: _Entry) -> StoredModel | None:
    """The model that the entry describes; None if its file is not there, or not as long as it was."""
    path = folder / entry.file
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.file_bytes:
        return None
    return _described(folder.name, path, entry)


def _described(name: str, path: Path, entry: _Entry) -> StoredModel:
    return StoredModel(
        name=name,
        path=path,
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


def _read_entry(folder: Path) -> _Entry | None:
    """The entry of a model's folder; None where there is none, or none that makes sense."""
    path = folder / _ENTRY_FILE
    if folder.is_symlink() or path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as f:
        data = f.read(_MAX_ENTRY_BYTES + 1)
    try:
        entry = msgspec.json.decode(data, type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not entry.asked or Path(entry.file).name != entry.file:
        return None
    return entry


def _write_entry(folder: Path, entry: _Entry) -> None:
    disk.write_whole(folder / _ENTRY_FILE, msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n")
