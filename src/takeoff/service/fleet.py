"""The readers of a server: started, found for a request, added and removed while others serve."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import re
from collections.abc import Callable

import msgspec

from takeoff.errors import ModelError, NotReady, TakeoffError
from takeoff.ipc.messages import Load
from takeoff.ipc.turns import make_turns_file
from takeoff.request import Task
from takeoff.service.changes import Changes
from takeoff.service.groups import Groups
from takeoff.service.launch import Launch
from takeoff.service.reader import Commands, Reader, ReaderCalls, ReaderState
from takeoff.settings import ReaderSettings, Settings

RESTART_WAIT_S = 30.0  # a request waits this long for a reader whose engine died
RESERVED_WAIT_S = 600.0  # and this long for one of a reserved group

PlanReader = Callable[[ReaderSettings], Launch]

logger = logging.getLogger(__name__)


class Fleet:
    """Readers behind groups. `stop` must be called."""

    def __init__(
        self, settings: Settings, plan_reader: PlanReader, commands: Commands, calls: ReaderCalls
    ) -> None:
        """`plan_reader` finds a model and plans its memory; it may take a second, and raises StartError."""
        self._settings = settings
        self._plan_reader = plan_reader
        self._commands = commands
        self._calls = calls
        self._groups = Groups(settings.reserved_consumers)
        self._changes = Changes()
        self._turns_file = make_turns_file()
        self._launching = asyncio.Lock()  # one after the other: each must see what the last one took
        self._tasks: set[asyncio.Task[None]] = set()

    def readers(self) -> list[Reader]:
        """All there are, in the order in which they came."""
        return self._groups.readers()

    def group_names(self) -> list[str]:
        return self._groups.names()

    def reader(self, reader_id: str) -> Reader:
        """Raises NotFound: there is no such reader."""
        return self._groups.reader(reader_id)

    def launch(self, reader_id: str, settings: ReaderSettings, launch: Launch) -> Reader:
        """Start a reader that is planned; returns at once, the model loads in the background."""
        reader = Reader(reader_id, settings, self._calls, self._changes)
        self._groups.add(reader)
        self._start(reader, launch)
        return reader

    def add(self, settings: ReaderSettings) -> Reader:
        """Begin to find, plan and load a model; returns at once."""
        reader = Reader(self._free_id(settings), settings, self._calls, self._changes)
        self._groups.add(reader)
        task = asyncio.create_task(self._load(reader), name=f"load {reader.reader_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return reader

    async def remove(self, reader: Reader, on_late: Callable[[], None]) -> None:
        """Let a reader finish what it has, and end it; `on_late` is called when it takes too long."""
        reader.become(ReaderState.DRAINING)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._changes.until(lambda: reader.num_open == 0)
        except TimeoutError:
            on_late()
        await reader.stop()
        self._groups.remove(reader.reader_id)

    async def wait_ready(self) -> None:
        """Return when every reader is loaded or has failed, and one of them is loaded.

        Raises:
            ModelError: none could be loaded.
        """
        readers = self.readers()
        await self._changes.until(lambda: all(reader.state is not ReaderState.LOADING for reader in readers))
        if not any(reader.is_live for reader in readers):
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
        """A reader that serves now; one whose engine died is waited for, in a reserved group any.

        Raises:
            NotFound, InvalidRequest: see `Groups.pick`.
            NotReady: none came in time.
        """
        is_reserved = self._groups.is_reserved(name)

        def is_decided() -> bool:
            reader = self._groups.pick(name, task)
            if reader is not None and reader.is_live:
                return True
            is_back_soon = reader is not None and reader.state is ReaderState.LOADING and reader.has_served
            return not is_reserved and not is_back_soon

        with contextlib.suppress(TimeoutError):  # then it is not live, which is told below
            async with asyncio.timeout(RESERVED_WAIT_S if is_reserved else RESTART_WAIT_S):
                await self._changes.until(is_decided)
        return checked_live(self._groups.pick(name, task))

    async def stop(self) -> None:
        """End every process. Idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(reader.stop() for reader in self.readers()))
        self._turns_file.close()

    async def _load(self, reader: Reader) -> None:
        """Plan a reader and start it; the next is planned when this one has taken its memory."""
        async with self._launching:
            try:
                launch = await asyncio.to_thread(self._plan_reader, reader.settings)
            except TakeoffError as exc:
                reader.fail(_without_query(exc.told, reader.settings.model))
                logger.warning("reader %s: %s", reader.reader_id, reader.error)
                return
            if reader.state is ReaderState.LOADING:
                self._start(reader, launch)
                await self._changes.until(lambda: reader.state is not ReaderState.LOADING)

    def _start(self, reader: Reader, launch: Launch) -> None:
        environ: dict[str, str] = {"TAKEOFF_LOG_LEVEL": reader.settings.log_level}
        settings = self._settings
        reader.start(
            self._completed(launch), self._commands, environ, settings.prepare_timeout_s, settings.sandbox
        )

    def _completed(self, launch: Launch) -> Launch:
        """A launch with what all readers of a server share, and its spare with the same."""
        load = msgspec.structs.replace(launch.load, turns_fd=self._turns_file.fileno())
        if isinstance(load, Load):
            load = msgspec.structs.replace(load, disk_cache_folder=str(self._settings.store / "prefixes"))
        spare = launch.spare
        if spare is not None:
            spare = dataclasses.replace(spare, launch=self._completed(spare.launch))
        return dataclasses.replace(launch, load=load, spare=spare)

    def _free_id(self, settings: ReaderSettings) -> str:
        """The model's name, with a number if it is taken; of a URL not its query, which may be a secret."""
        model = settings.model.partition("?")[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[-64:] or "reader"
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(reader_id for reader_id in numbered if reader_id not in self._groups)


def _without_query(text: str, model: str) -> str:
    """A text that may name a model's URL, without what may be a secret in it."""
    _, mark, query = model.partition("?")
    return text.replace(mark + query, "") if query else text


def checked_live(reader: Reader | None) -> Reader:
    """`reader`, if it serves.

    Raises:
        NotReady: it does not, or there is none; with the reason.
    """
    if reader is None:
        raise NotReady("no reader of the group is up", hint="try again later")
    if not reader.is_live:
        why = f": {reader.error}" if reader.error else ""
        raise NotReady(f"the model {reader.model_name} is {reader.state.value}{why}", hint="try again later")
    return reader
