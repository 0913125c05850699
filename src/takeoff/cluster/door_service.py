"""A door's service: readers that are added, replaced or removed here are so for all doors."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from ray import serve

from takeoff.cluster.apps import reader_app_of
from takeoff.cluster.names import DOORS
from takeoff.cluster.operations import deploy, wait_running
from takeoff.errors import EngineFailed, NoRoom
from takeoff.models.store import Store
from takeoff.observe.metrics import Metrics
from takeoff.service.fleet import log_failure
from takeoff.service.planner import Planner
from takeoff.service.provision import refusing_in_words
from takeoff.service.reader import Reader
from takeoff.service.replacing import check_group, check_task
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings
from takeoff.settings.cluster import ReplicaSettings

ANY_MEMORY = 1 << 60  # bytes: what a replica has is its own machine's affair
TAKING_UP_S = 60.0  # for a door to find a reader that is up
LOOK_S = 0.05
LEAVING_S = 600.0  # for all doors to finish what they have at a reader


class DoorService(Service):
    """See `Service`. A reader that is added has one replica."""

    def __init__(self, settings: Settings, metrics: Metrics, app_of: Callable[[Reader], str]) -> None:
        """`app_of` says whose replicas a reader has; "": it is not known any more."""
        planner = Planner(Store(settings.store), settings.repository_path)
        super().__init__(settings, metrics, planner)
        self._planner = planner
        self._app_of = app_of

    async def add_reader(self, settings: ReaderSettings) -> Reader:
        """Returns when it serves. Raises as `Service.add_reader`."""
        reader_id = self.free_id(settings.public_model)
        return await self._deploy(reader_id, settings)

    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> Reader:
        """Returns when the new one serves. Raises as `Service.replace_reader`."""
        old = self.reader(reader_id)
        before = self._app_of(old)
        check_group(reader_id, old, settings)
        new = await self._deploy(reader_id, settings, instead_of=old)
        if before:
            self._in_background(self._end(before), f"end {before}")
        return new

    async def remove_reader(self, reader_id: str) -> None:
        """Returns when this door has finished what it has there. Raises as `Service.remove_reader`."""
        app = self._app_of(self.reader(reader_id))
        await self.drop(reader_id)
        if app:
            self._in_background(self._end(app), f"end {app}")

    async def drop(self, reader_id: str) -> None:
        """Let a reader finish what it has and forget it; its replicas go on."""
        await super().remove_reader(reader_id)

    def drop_soon(self, reader_id: str) -> None:
        """`drop` it; returns at once."""
        self._in_background(self.drop(reader_id), f"drop {reader_id}")

    async def _deploy(
        self, reader_id: str, settings: ReaderSettings, instead_of: Reader | None = None
    ) -> Reader:
        """Start a replica of a model that may be served; returns when this door serves it."""
        self._refuse_if_draining()
        with refusing_in_words(settings):
            launch = await asyncio.to_thread(self._planner, settings, ANY_MEMORY)  # which fetches nothing
            if instead_of is not None:
                check_task(reader_id, instead_of, launch)
            nonce = secrets.token_hex(8)  # one of the same settings may be about to be deleted
            app = reader_app_of(self.settings, reader_id, settings, ReplicaSettings(), nonce=nonce)
            await asyncio.to_thread(deploy, {app.name: app.app})
            try:
                await asyncio.to_thread(wait_running, app.name, f"the reader {reader_id!r}", _refuse)
                return await self._taken_up(reader_id, app.name)
            except BaseException:
                self._in_background(asyncio.to_thread(serve.delete, app.name), f"delete {app.name}")
                raise

    async def _taken_up(self, reader_id: str, app: str) -> Reader:
        for _ in range(round(TAKING_UP_S / LOOK_S)):
            for reader in self.readers():
                if reader.reader_id == reader_id and reader.is_live and self._app_of(reader) == app:
                    return reader
            await asyncio.sleep(LOOK_S)
        raise EngineFailed(f"this door did not find the reader {reader_id!r} in {TAKING_UP_S:g} s")

    async def _end(self, app: str) -> None:
        """Have all doors leave the replicas of an application, then delete it."""
        doors = serve.get_deployment_handle("Door", DOORS)
        async with asyncio.timeout(LEAVING_S):
            while any(await doors.broadcast("leave", app).results_async()):  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0.5)
        await asyncio.to_thread(serve.delete, app)

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._fleet.in_background(work, name).add_done_callback(log_failure)


def _refuse(why: str) -> None:
    raise NoRoom(why)
