"""A reader in the place of another: beside it where both fit, else after it. Requests wait, none fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from takeoff.errors import EngineFailed, InvalidRequest, NotFound, TakeoffError
from takeoff.service.changes import Changes
from takeoff.service.groups import Groups
from takeoff.service.launch import Launch
from takeoff.service.provision import Provision
from takeoff.service.reader import Reader, ReaderState
from takeoff.service.residency import Residency
from takeoff.settings import ReaderSettings


class Replacement:
    """Gives `new` the place, the id and the requests of `old`, which then finishes what it has.

    `new` is loaded while `old` serves, where there is memory for both; then it takes over from one request to
    the next. Where there is not, `old` takes nothing new, finishes and is unloaded first, and requests wait
    for `new`. If `new` can't be loaded, all is as it was. Nothing else may be loaded meanwhile.
    """

    def __init__(
        self,
        old: Reader,
        new: Reader,
        groups: Groups,
        changes: Changes,
        residency: Residency,
        start: Callable[[Reader], Awaitable[None]],
        end: Callable[[Reader], Awaitable[None]],
    ) -> None:
        """`start` returns when a reader is loaded, or can't be."""
        self._old = old
        self._new = new
        self._reader_id = old.reader_id
        self._groups = groups
        self._changes = changes
        self._residency = residency
        self._start = start
        self._end = end

    async def plan(self, provision: Provision) -> None:
        """Plan `new` as if `old` were gone; from then on its memory counts.

        Raises:
            InvalidRequest: it is of another group, or of another kind; or no such model is here.
            NoRoom: it does not fit in the place of `old` either.
        """
        old, new = self._old, self._new
        check_group(self._reader_id, old, new.settings)
        new.launch = await provision.plan(new.settings, instead_of=old)
        check_task(self._reader_id, old, new.launch)
        self._groups.add(new)

    async def carry_out(self) -> None:
        """Load `new` and let it take over; `old` is left to finish, and to be ended.

        Raises:
            EngineFailed: `new` could not be loaded.
            NotFound: one of them was removed meanwhile.
        """
        old, new = self._old, self._new
        if old.state is ReaderState.UNLOADED and new.settings.on_demand:
            self._groups.exchange(old, new)
            new.become(ReaderState.UNLOADED)
        elif new.num_bytes <= self._residency.room_bytes(new):
            await self._load_beside()
        else:
            await self._load_after()
        old.become(ReaderState.DRAINING)

    async def _load_beside(self) -> None:
        try:
            await self._load()
            if self._old not in self._groups.readers():
                raise self._removed()
        except BaseException:
            await self._end(self._new)
            raise
        self._groups.exchange(self._old, self._new)

    async def _load_after(self) -> None:
        old, new = self._old, self._new
        was = old.state
        self._groups.exchange(old, new)
        new.is_awaited = True
        old.become(ReaderState.DRAINING)
        await self._changes.until(lambda: old.num_open == 0)
        await old.stop()
        try:
            await self._residency.make_room(new, lambda: new.state is ReaderState.LOADING)
            await self._load()
        except TakeoffError:
            self._groups.exchange(old, new)
            await self._bring_back(was)
            raise
        finally:
            new.is_awaited = False

    async def _load(self) -> None:
        new = self._new
        if new.state is ReaderState.LOADING:
            await self._start(new)
        if new.state is ReaderState.FAILED:
            raise EngineFailed(f"{new.model_name} could not be loaded: {new.error}", hint="all is as it was")
        if not new.is_live:
            raise self._removed()

    async def _bring_back(self, was: ReaderState) -> None:
        """Requests that waited for `new` wait for `old`."""
        old = self._old
        is_loaded_again = was in (ReaderState.LIVE, ReaderState.LOADING)
        old.is_awaited = is_loaded_again
        old.become(ReaderState.LOADING if is_loaded_again else was)
        await self._end(self._new)
        if is_loaded_again:
            await self._start(old)
        old.is_awaited = False

    def _removed(self) -> NotFound:
        return NotFound(f"the reader {self._reader_id!r} was removed meanwhile", param="reader_id")


def check_group(reader_id: str, old: Reader, settings: ReaderSettings) -> None:
    """Raises InvalidRequest: the settings are of another group than the reader that they would replace."""
    if settings.consumer_group != old.group:
        raise InvalidRequest(
            f"the reader {reader_id!r} serves the group {old.group!r}, not {settings.consumer_group!r}",
            param="consumer_group",
            hint="leave it out, or add a reader to the other group and remove this one",
        )


def check_task(reader_id: str, old: Reader, launch: Launch) -> None:
    """Raises InvalidRequest: the model does something else than the reader that it would replace."""
    if old.launch is not None and old.task is not launch.task:
        raise InvalidRequest(
            f"the reader {reader_id!r} is there to {old.task}, and {launch.model_name} can {launch.task}",
            param="model_name",
        )
