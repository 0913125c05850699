"""Snapshots on disk, which survive a restart. One thread reads them, one writes them; no step waits.

What is written: a snapshot that the RAM tier has just taken, if it has at least 128 tokens that no
file has, and if its bytes are due: at first as many as the budget has left, then 1 MB a second on
average, which is at most 86 GB a day, a quarter of what common SSDs are rated for. Budget and value are
as in RAM, with a half-life of a day.

What is read: a file that has at least 128 tokens more than RAM has, before its request is queued.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.counters import Counters
from takeoff.engine.prefix_cache import Entry, PrefixCache, Scope
from takeoff.engine.prefix_tree import PrefixTree
from takeoff.engine.snapshot_file import DamagedSnapshot, Header, Origin, SnapshotFile
from takeoff.engine.snapshot_folder import HALF_LIFE_S, Found, SnapshotFolder, file_hash
from takeoff.engine.standing_back import stand_back
from takeoff.ipc.arena import Region
from takeoff.ipc.messages import Load

MIN_TOKENS = 128  # fewer are computed about as fast as a file is read
WRITTEN_BYTES_PER_S = 1e6
OPENING_WAIT_S = 1.0  # a model file of 1 GB is hashed meanwhile, and it began when the loading did
MAX_PENDING_WRITES = 4  # whose memory in the arena is held

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileHashes:
    """Of the model, its projector or "", and its adapters with their scales, by name."""

    model: str
    projector: str
    loras: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Opened:
    """The folder was looked through."""

    folder: SnapshotFolder
    found: Found
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """A snapshot was written, or could not be."""

    entry: Entry
    file: SnapshotFile | None
    deleted: set[Path]
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A snapshot was read into memory, or is gone, or was never one."""

    file: SnapshotFile
    region: Region
    scope: Scope
    is_whole: bool
    is_damaged: bool
    seconds: float


DiskNews = Opened | Written | Read


@dataclass(frozen=True, slots=True)
class _Wanted:
    file: SnapshotFile
    region: Region
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Kept:
    entry: Entry
    header: Header
    covered: set[Path]  # files for which it can stand in
    values: Mapping[Path, float]  # of all files, per byte


class DiskTier:
    """Below a prefix cache. The thread of the steps calls it, and brings it the news of its own threads."""

    def __init__(
        self,
        load: Load,
        cache: PrefixCache,
        counters: Counters,
        *,
        can_trim: bool,
        engine_build: str,
        hashes: Future[FileHashes],
        tell: Callable[[Any], None],
    ) -> None:
        """`tell` is called by threads: what it is told belongs to `settle`, or was given to `fetch`."""
        self._load = load
        self._cache = cache
        self._counters = counters
        self._engine_build, self._hashes = engine_build, hashes
        self._tell = tell
        self._tree: PrefixTree[SnapshotFile] = PrefixTree(can_trim=can_trim, half_life=HALF_LIFE_S)
        self._folder: SnapshotFolder | None = None
        self._lora_hashes: dict[str, str] = {}  # by name
        self._to_read: queue.SimpleQueue[tuple[_Wanted | None, object]] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[_Kept] = queue.SimpleQueue()
        self._is_looked_through = threading.Event()
        self._reading: set[SnapshotFile] = set()
        self._num_writing = 0
        self._due_bytes, self._due_at = 0.0, time.monotonic()

    def start(self) -> None:
        """Look through the folder in the background; until that is done nothing is read or written.

        It is waited for, a second at most, so that the first prompts find what is there.
        """
        threading.Thread(target=self._open_and_read, name="read prefixes", daemon=True).start()
        self._is_looked_through.wait(OPENING_WAIT_S)

    def offer(self, entry: Entry) -> None:
        """Write a snapshot that was just taken, if that is worth it."""
        folder = self._folder
        if folder is None or len(entry.token_ids) < MIN_TOKENS or self._num_writing >= MAX_PENDING_WRITES:
            return
        scope = self._named(folder, entry.scope)
        found = self._tree.find(scope, entry.token_ids)
        if len(entry.token_ids) - (found[1] if found else 0) < MIN_TOKENS:
            return
        header = Header(
            origin=folder.origin,
            tenant=folder.tenant(entry.scope.tenant),
            lora=entry.scope.lora,
            lora_hash="" if entry.scope.lora is None else self._lora_hashes[entry.scope.lora],
            start_position=0,
            end_position=entry.num_positions,
            token_ids=entry.token_ids.astype("<i4").tobytes(),
            state_bytes=len(entry.region.data),
        )
        if not self._is_due(header.most_bytes):
            return
        self._num_writing += 1
        self._cache.hold(entry)
        values = {file.path: self._tree.worth(file) / file.num_bytes for file in self._tree}
        covered = {file.path for file in self._tree.covered_by(scope, entry.token_ids)}
        self._to_write.put(_Kept(entry, header, covered, values))

    def fetch(self, scope: Scope, token_ids: NDArray[np.int32], then: object) -> bool:
        """Read what RAM lacks of `token_ids` [n]; `then` is told when it is there, or is not to be had.

        False: the disk has nothing to add.
        """
        if self._folder is None or len(token_ids) < MIN_TOKENS:
            return False
        found = self._tree.find(self._named(self._folder, scope), token_ids)
        match = self._cache.find(scope, token_ids)
        if found is None or found[1] < (match.length if match else 0) + MIN_TOKENS:
            return False
        file, length = found
        if file in self._reading:
            self._to_read.put((None, then))
            return True
        region = self._cache.make_room(file.header.state_bytes)
        if region is None:
            return False
        self._reading.add(file)
        self._tree.use(file, length)
        self._to_read.put((_Wanted(file, region, scope), then))
        return True

    def settle(self, news: DiskNews) -> None:
        """Take note of what the threads have done."""
        match news:
            case Opened():
                self._take_over(news)
            case Written(entry, file, deleted, used_bytes):
                self._num_writing -= 1
                for gone in [each for each in self._tree if each.path in deleted]:
                    self._tree.remove(gone)
                self._cache.let_go(entry)
                self._counters.set("disk_bytes", used_bytes)
                if file is not None:
                    self._counters.add("disk_writes")
                    self._counters.add("disk_written_bytes", file.num_bytes)
                    self._add(file)
            case Read(file, region, scope, is_whole):
                self._reading.discard(file)
                self._counters.add("disk_damaged", news.is_damaged)
                if is_whole:
                    self._counters.add("disk_reads")
                    self._counters.add("disk_read_seconds", news.seconds)
                    self._cache.take(scope, file.header.tokens, region, file.header.end_position)
                else:
                    self._cache.give_back(region)
                    self._forget(file)

    def _take_over(self, news: Opened) -> None:
        self._folder = news.folder
        self._due_bytes = max(news.folder.budget_bytes - news.used_bytes, 0)
        self._counters.set("disk_bytes", news.used_bytes)
        self._counters.add("disk_damaged", news.found.num_damaged)
        for file, age_s in sorted(news.found.snapshots, key=lambda found: len(found[0].header.token_ids)):
            self._add(file, age_s)

    def _add(self, file: SnapshotFile, age_s: float = 0.0) -> None:
        header = file.header
        known = header.lora is None or self._lora_hashes.get(header.lora) == header.lora_hash
        if known and header.token_ids:
            self._tree.add(Scope(header.tenant, header.lora), header.tokens, file, age=age_s)

    def _forget(self, file: SnapshotFile) -> None:
        if file in self._tree:
            self._tree.remove(file)

    def _named(self, folder: SnapshotFolder, scope: Scope) -> Scope:
        return Scope(folder.tenant(scope.tenant), scope.lora)

    def _is_due(self, num_bytes: int) -> bool:
        """Whether so many bytes may be written now; then they are counted."""
        assert self._folder is not None
        now = time.monotonic()
        self._due_bytes += (now - self._due_at) * WRITTEN_BYTES_PER_S
        self._due_bytes, self._due_at = min(self._due_bytes, self._folder.budget_bytes), now
        if num_bytes > self._due_bytes:
            return False
        self._due_bytes -= num_bytes
        return True

    # --- on threads of their own -----------------------------------------------------------------

    def _open_and_read(self) -> None:
        stand_back()
        try:
            folder = self._open()
        except OSError as exc:
            logger.warning("no prefixes are kept on disk: %s", exc)
            return
        finally:
            self._is_looked_through.set()
        threading.Thread(target=self._write, args=(folder,), name="write prefixes", daemon=True).start()
        while True:
            wanted, then = self._to_read.get()
            if wanted is not None:
                self._tell(_read(folder, wanted))
            self._tell(then)

    def _open(self) -> SnapshotFolder:
        load = self._load
        assert load.disk_cache_folder is not None, "made only where there is a folder"
        hashes = self._hashes.result()
        origin = Origin(
            model_hash=hashes.model,
            projector_hash=hashes.projector,
            engine_build=self._engine_build,
            n_ctx_slot=load.n_ctx_slot,
            cache_type_k=load.kv_type,
            cache_type_v=load.kv_type,
            flash_attention=load.flash_attention,
            deterministic=load.deterministic,
        )
        folder = SnapshotFolder(Path(load.disk_cache_folder), origin, budget_bytes=load.disk_cache_bytes)
        self._lora_hashes.update(hashes.loras)
        self._tell(Opened(folder, folder.look(), folder.used_bytes))
        return folder

    def _write(self, folder: SnapshotFolder) -> None:
        stand_back()
        while True:
            kept = self._to_write.get()
            file, deleted = None, set[Path]()
            try:
                if not kept.entry.is_discarded:
                    file, deleted = _written(folder, kept)
            except Exception as exc:  # the root of the thread: the memory must be let go of
                logger.warning("a prefix was not kept on disk: %s", exc)
            self._tell(Written(kept.entry, file, deleted, folder.used_bytes))


def _written(folder: SnapshotFolder, kept: _Kept) -> tuple[SnapshotFile | None, set[Path]]:
    """The file of a snapshot, if there is room for it, and those that are gone for it."""
    for path in kept.covered:
        path.unlink(missing_ok=True)
    deleted = folder.make_room(kept.header.most_bytes, kept.values)
    if deleted is None:
        return None, kept.covered
    return folder.write(kept.header, kept.entry.region.data), deleted | kept.covered


def _read(folder: SnapshotFolder, wanted: _Wanted) -> Read:
    started = time.perf_counter()
    is_damaged = False
    try:
        folder.read(wanted.file, wanted.region.data)
        is_whole = True
    except DamagedSnapshot as exc:
        logger.warning("%s is deleted: %s", wanted.file.path, exc)
        wanted.file.path.unlink(missing_ok=True)
        is_whole, is_damaged = False, True
    except FileNotFoundError:  # another server has made room
        is_whole = False
    except Exception as exc:  # the root of the thread: requests wait for it
        logger.warning("%s can't be read: %s", wanted.file.path, exc)
        is_whole = False
    seconds = time.perf_counter() - started
    return Read(wanted.file, wanted.region, wanted.scope, is_whole, is_damaged, seconds)


def hash_files(load: Load) -> Future[FileHashes]:
    """Hash in the background what keys and values are computed with, 1 GB a second."""
    executor = ThreadPoolExecutor(1, "hash files", stand_back)
    hashes = executor.submit(_hashes, load)
    executor.shutdown(wait=False)
    return hashes


def _hashes(load: Load) -> FileHashes:
    return FileHashes(
        model=file_hash(Path(load.model_path)),
        projector="" if load.projector_path is None else file_hash(Path(load.projector_path)),
        loras={lora.name: f"{file_hash(Path(lora.path))} x {lora.scale}" for lora in load.loras},
    )
