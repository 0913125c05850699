"""The readers of a server: started, found for a request, added, replaced and removed while others serve."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from takeoff.errors import ModelError, NoRoom, NotReady
from takeoff.ipc.messages import Load
from takeoff.models.machine import available_memory
from takeoff.request import Task
from takeoff.service.changes import Changes
from takeoff.service.engines import MakeEngine
from takeoff.service.groups import Groups
from takeoff.service.launch import Launch
from takeoff.service.on_demand import OnDemand
from takeoff.service.provision import PlanReader, Provision
from takeoff.service.reader import Reader, ReaderCalls, ReaderState
from takeoff.service.replacing import Replacement
from takeoff.service.residency import Residency
from takeoff.settings import ReaderSettings, Settings

RESTART_WAIT_S = 30.0  # a request waits this long for a reader whose engine died
LOAD_WAIT_S = 300.0  # and this long for one that is loaded for it, or in the place of another
RESERVED_WAIT_S = 600.0  # and this long for one of a reserved group

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Fleet:
    """Readers behind groups. `stop` must be called."""

    def __init__(
        self,
        settings: Settings,
        plan_reader: PlanReader,
        make_engine: MakeEngine,
        preparer: Sequence[str],
        calls: ReaderCalls,
        turns_fd: int,
    ) -> None:
        """`plan_reader` finds a model and plans its memory; see `Provision`. `preparer` as in `Reader.start`.

        `turns_fd` is of the file by which engines take turns on the cores.
        """
        self._settings = settings
        self._make_engine = make_engine
        self._preparer = preparer
        self._calls = calls
        self._groups = Groups(settings.reserved_consumers)
        self._changes = Changes()
        self._turns_fd = turns_fd
        limit = settings.memory_limit_gb
        self._residency = Residency(
            self._groups.readers,
            self._changes,
            self._unload,
            None if limit is None else int(limit * 1e9),
            available_memory,
        )
        self._provision = Provision(plan_reader, self._residency)
        self._launching = asyncio.Lock()  # one after the other: each must see what the last one took
        self._planning = asyncio.Lock()  # until what was planned counts
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_demand = OnDemand(
            self._changes, self._residency, self._launching, self._started, self._unload, self.in_background
        )
        self._is_closing = False

    @property
    def limit_bytes(self) -> int:
        """Of the memory that all plans together may count with."""
        return self._residency.limit_bytes

    @property
    def planned_bytes(self) -> dict[str, int]:
        """What the plans of the readers that hold memory count with, by id."""
        return {reader.reader_id: reader.num_bytes for reader in self._residency.holding()}

    def readers(self) -> list[Reader]:
        """All there are, in the order in which they came."""
        return self._groups.readers()

    def group_names(self) -> list[str]:
        return self._groups.names()

    def reader(self, reader_id: str) -> Reader:
        """Raises NotFound: there is no such reader."""
        return self._groups.reader(reader_id)

    def launch(
        self,
        reader_id: str,
        settings: ReaderSettings,
        launch: Launch,
        make_engine: MakeEngine | None = None,
    ) -> Reader:
        """Start a reader that is planned; returns at once, the model loads in the background.

        One of `on_demand` is not started before it is asked for. See `Service.launch`.
        """
        is_taken = reader_id in self._groups
        name = self.free_id(reader_id) if is_taken else reader_id
        reader = Reader(name, settings, self._calls, self._changes, make_engine or self._make_engine)
        reader.launch = launch
        self._groups.add(reader)
        if is_taken:
            self.in_background(self._take_over(reader_id, reader), f"replace {reader_id}")
        if settings.on_demand:
            reader.become(ReaderState.UNLOADED)
        else:
            self._start(reader)
        return reader

    async def add(self, settings: ReaderSettings) -> Reader:
        """Find and plan a model, and begin to load it: in the background, when others have loaded.

        Raises:
            InvalidRequest: no such model here, or none that can be served.
            NoRoom: it does not fit into the memory that is left.
        """
        async with self._planning:
            launch = await self._provision.plan(settings)
            reader = self._reader(self.free_id(settings.public_model), settings)
            reader.launch = launch
            self._groups.add(reader)
        if settings.on_demand:
            reader.become(ReaderState.UNLOADED)
        else:
            self.in_background(self._load(reader), f"load {reader.reader_id}")
        return reader

    async def replace(self, reader_id: str, settings: ReaderSettings) -> Reader:
        """A new reader in the place of another. It goes on when whoever waits for it leaves.

        Raises:
            NotFound, InvalidRequest, NoRoom, EngineFailed: see `Replacement`; all is as it was.
        """
        task = self.in_background(self._replace(reader_id, settings), f"replace {reader_id}")
        task.add_done_callback(log_failure)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise shutting_down(self._settings) from None
            raise

    async def remove(self, reader: Reader, on_late: Callable[[], None]) -> None:
        """Let a reader finish what it has, and end it; `on_late` is called when it takes too long."""
        reader.become(ReaderState.DRAINING)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._changes.until(lambda: reader.num_open == 0)
        except TimeoutError:
            on_late()
            reader.become(ReaderState.STOPPED)
        await self._end(reader)

    async def wait_ready(self) -> None:
        """Return when every reader is loaded, or waits to be asked for, or has failed.

        Raises:
            ModelError: all have failed.
        """
        readers = self.readers()
        await self._changes.until(lambda: all(reader.state is not ReaderState.LOADING for reader in readers))
        if not any(reader.is_live or reader.is_coming for reader in readers):
            raise ModelError(readers[0].error or "the server is shutting down")

    async def wait_state(self, state: str, timeout_s: float) -> bool:
        """Whether every reader is in `state`, now or within `timeout_s`."""

        def are_there() -> bool:
            readers = self.readers()
            return bool(readers) and all(reader.state == state for reader in readers)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changes.until(are_there)
        return are_there()

    async def live_reader(self, name: str, task: Task) -> Reader:
        """A reader that serves now; one that is on its way is waited for, in a reserved group any.

        Raises:
            NotFound, InvalidRequest: see `Groups.pick`.
            NotReady: none came in time.
        """
        is_reserved = self._groups.is_reserved(name)
        return await self._when_live(lambda: self._groups.pick(name, task), is_reserved=is_reserved)

    @contextlib.asynccontextmanager
    async def known_reader(self, reader_id: str) -> AsyncIterator[Reader]:
        """The reader of that id when it serves, and until the block is left. Raises as `live_reader`."""
        reader = await self._when_live(lambda: self._groups.reader(reader_id))
        with reader.held():
            yield reader

    def close(self) -> None:
        """Nobody waits any more for a reader: what is loading may not come in time."""
        self._is_closing = True
        self._changes.tell()

    async def stop(self) -> None:
        """End every process. Idempotent."""
        self.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(reader.stop() for reader in self.readers()))

    # --- waiting ---------------------------------------------------------------------------------

    async def _when_live(self, find: Callable[[], Reader | None], *, is_reserved: bool = False) -> Reader:
        """What `find` finds, when it serves, or has no prospect of it."""

        def is_decided(reader: Reader | None) -> bool:
            if self._is_closing or (reader is not None and reader.is_live):
                return True
            is_coming = reader is not None and reader.is_coming and not self._on_demand.is_barred(reader)
            return not is_reserved and not is_coming

        first = find()
        if first is not None:
            self._residency.use(first).count(time.monotonic())
        is_restarting = first is not None and first.state is ReaderState.LOADING and first.has_served
        limit_s = RESERVED_WAIT_S if is_reserved else RESTART_WAIT_S if is_restarting else LOAD_WAIT_S
        with contextlib.suppress(TimeoutError), self._on_demand.waiting() as wake:
            async with asyncio.timeout(limit_s):
                while not is_decided(reader := find()):
                    if reader is not None and reader.state is ReaderState.UNLOADED:
                        wake(reader)
                    await self._changes.next()
        return self._checked_live(find())

    def _checked_live(self, reader: Reader | None) -> Reader:
        if self._is_closing:
            raise shutting_down(self._settings)
        return checked_live(reader, None if reader is None else self._residency.use(reader).load_s)

    # --- loading and ending ----------------------------------------------------------------------

    async def _load(self, reader: Reader) -> None:
        """Start a reader whose memory counts already; the next when this one has taken it."""
        async with self._launching:
            try:
                await self._residency.make_room(reader, lambda: reader.state is ReaderState.LOADING)
            except NoRoom as exc:
                reader.fail(exc.told)
                logger.warning("reader %s: %s", reader.reader_id, reader.error)
                return
            if reader.state is ReaderState.LOADING:
                await self._started(reader)

    async def _replace(self, reader_id: str, settings: ReaderSettings) -> Reader:
        async with self._launching:
            async with self._planning:
                old = self._groups.reader(reader_id)
                new = self._reader(self.free_id(reader_id), settings)
                replacement = Replacement(
                    old, new, self._groups, self._changes, self._residency, self._started, self._end
                )
                await replacement.plan(self._provision)
            await replacement.carry_out()
        self.in_background(self._retire(old), f"retire {old.reader_id}")
        return new

    async def _unload(self, reader: Reader) -> None:
        await reader.unload()
        self._calls.on_unloaded(reader)
        logger.info("%s: unloaded", reader.reader_id)

    async def _started(self, reader: Reader) -> None:
        """Start it; returns when it is loaded, or can't be."""
        began_at = time.monotonic()
        self._start(reader)
        await self._changes.until(lambda: reader.state is not ReaderState.LOADING)
        use = self._residency.use(reader)
        use.loaded_at = time.monotonic()
        use.load_s = use.loaded_at - began_at
        if reader.is_live:
            self._on_demand.loaded(reader)

    def _start(self, reader: Reader) -> None:
        assert reader.launch is not None, "it was planned"
        environ: dict[str, str] = {"TAKEOFF_LOG_LEVEL": reader.settings.log_level}
        settings = self._settings
        reader.become(ReaderState.LOADING)
        reader.start(
            self._completed(reader.launch),
            self._preparer,
            environ,
            settings.prepare_timeout_s,
            settings.sandbox,
        )

    async def _end(self, reader: Reader) -> None:
        """End its processes and forget it."""
        await reader.stop()
        self._groups.remove(reader)
        self._residency.forget(reader)
        self._calls.on_unloaded(reader)

    async def _take_over(self, reader_id: str, new: Reader) -> None:
        """Give `new` the id of another when it serves."""
        await self._changes.until(lambda: new.state is not ReaderState.LOADING)
        if not new.is_live:
            logger.warning("%s goes on as it was: %s", reader_id, new.error)
            await self._end(new)
            return
        if reader_id not in self._groups:  # it was removed meanwhile
            self._groups.remove(new)
            new.reader_id = reader_id
            self._groups.add(new)
            return
        old = self._groups.reader(reader_id)
        self._groups.exchange(old, new)
        old.become(ReaderState.DRAINING)
        await self._retire(old)

    async def _retire(self, reader: Reader) -> None:
        """End one that was replaced, when it has finished what it had."""
        await self._changes.until(lambda: reader.num_open == 0)
        await self._end(reader)

    def _completed(self, launch: Launch) -> Launch:
        """A launch with what all readers of a server share, and its spare with the same."""
        load = msgspec.structs.replace(launch.load, turns_fd=self._turns_fd)
        if isinstance(load, Load):
            load = msgspec.structs.replace(load, disk_cache_folder=str(self._settings.store / "prefixes"))
        spare = launch.spare
        if spare is not None:
            spare = dataclasses.replace(spare, launch=self._completed(spare.launch))
        return dataclasses.replace(launch, load=load, spare=spare)

    def in_background(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Until it is done, or until `stop`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _reader(self, reader_id: str, settings: ReaderSettings) -> Reader:
        return Reader(reader_id, settings, self._calls, self._changes, self._make_engine)

    def free_id(self, wanted: str) -> str:
        """What is wanted as far as it may stand in an id, with a number if it is taken."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-.")[-64:] or "reader"
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(reader_id for reader_id in numbered if reader_id not in self._groups)


def log_failure(task: asyncio.Task[Any]) -> None:
    """Whoever waited for it may have left."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.warning("%s: %s", task.get_name(), exc)


def shutting_down(settings: Settings) -> NotReady:
    """Whoever comes then should come back when this server is gone for sure."""
    return NotReady("the server is shutting down", retry_after_s=max(1.0, settings.drain_timeout_s))


def checked_live(reader: Reader | None, load_s: float | None = None) -> Reader:
    """`reader`, if it serves; its loading last took `load_s`.

    Raises:
        NotReady: it does not, or there is none; with the reason.
    """
    if reader is None:
        raise NotReady("no reader of the group is up", hint="try again later")
    if not reader.is_live:
        why = f": {reader.error}" if reader.error else ""
        message = f"the model {reader.model_name} is {reader.state.value}{why}"
        raise NotReady(message, hint="try again later", retry_after_s=load_s if reader.is_coming else None)
    return reader
