"""A door's service: readers that are added, replaced or removed here are so for all doors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ray import serve

from takeoff.cluster.apps import reader_app_of
from takeoff.cluster.names import DOORS
from takeoff.cluster.operations import deploy, wait_running
from takeoff.errors import InvalidRequest, NoRoom, PlanError, StartError
from takeoff.models.store import Store
from takeoff.observe.metrics import Metrics
from takeoff.service.planner import Planner
from takeoff.service.reader import Reader
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings
from takeoff.settings.cluster import ReplicaSettings

ANY_MEMORY = 1 << 60  # bytes: what a replica has is its own machine's affair
TAKING_UP_S = 60.0  # for a door to find a reader that is up
LEAVING_S = 600.0  # for all doors to finish what they have at a reader

logger = logging.getLogger(__name__)


class DoorService(Service):
    """See `Service`. A reader that is added has one replica."""

    def __init__(self, settings: Settings, metrics: Metrics, app_of: Callable[[Reader], str]) -> None:
        """`app_of` says whose replicas a reader has; "": it is not known any more."""
        planner = Planner(Store(settings.store), settings.repository_path)
        super().__init__(settings, metrics, planner)
        self._planner = planner
        self._app_of = app_of
        self._changing: set[asyncio.Task[None]] = set()

    async def add_reader(self, settings: ReaderSettings) -> Reader:
        """Returns when it serves. Raises as `Service.add_reader`."""
        reader_id = self.free_id(settings.public_model)
        app = await self._deploy(reader_id, settings)
        return await self._taken_up(reader_id, app)

    async def replace_reader(self, reader_id: str, settings: ReaderSettings) -> Reader:
        """Returns when the new one serves. Raises as `Service.replace_reader`."""
        old = self.reader(reader_id)
        before = self._app_of(old)
        if settings.consumer_group != old.group:
            raise InvalidRequest(
                f"the reader {reader_id!r} serves the group {old.group!r}, not {settings.consumer_group!r}",
                param="consumer_group",
            )
        app = await self._deploy(reader_id, settings)
        new = await self._taken_up(reader_id, app)
        if before not in ("", app):
            self._in_background(self._end(before))
        return new

    async def remove_reader(self, reader_id: str) -> None:
        """Returns when this door has finished what it has there. Raises as `Service.remove_reader`."""
        app = self._app_of(self.reader(reader_id))
        await self.drop(reader_id)
        if app:
            self._in_background(self._end(app))

    async def drop(self, reader_id: str) -> None:
        """Let a reader finish what it has and forget it; its replicas go on."""
        await super().remove_reader(reader_id)

    async def stop(self) -> None:
        for task in self._changing:
            task.cancel()
        await super().stop()

    async def _deploy(self, reader_id: str, settings: ReaderSettings) -> str:
        """Start a replica of a model that may be served; returns the name of its application."""
        self._refuse_if_draining()
        try:
            await asyncio.to_thread(self._planner, settings, ANY_MEMORY)  # which fetches nothing
            app = reader_app_of(self.settings, reader_id, settings, ReplicaSettings())
            await asyncio.to_thread(deploy, {app.name: app.app})
            try:
                await asyncio.to_thread(wait_running, app.name, f"the reader {reader_id!r}", _refuse)
            except BaseException:
                self._in_background(asyncio.to_thread(serve.delete, app.name))
                raise
        except PlanError as exc:
            raise NoRoom(exc.message, hint=exc.hint) from exc
        except StartError as exc:
            raise InvalidRequest(exc.message, param=exc.param or "model_name", hint=exc.hint) from exc
        return app.name

    async def _taken_up(self, reader_id: str, app: str) -> Reader:
        async with asyncio.timeout(TAKING_UP_S):
            while True:
                for reader in self.readers():
                    if reader.reader_id == reader_id and reader.is_live and self._app_of(reader) == app:
                        return reader
                await asyncio.sleep(0.05)

    async def _end(self, app: str) -> None:
        """Have all doors leave the replicas of an application, then delete it."""
        doors = serve.get_deployment_handle("Door", DOORS)
        async with asyncio.timeout(LEAVING_S):
            while any(await doors.broadcast("leave", app).results_async()):  # noqa: ASYNC110  (no event)
                await asyncio.sleep(0.5)
        await asyncio.to_thread(serve.delete, app)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="end a reader")
        self._changing.add(task)
        task.add_done_callback(self._changed)

    def _changed(self, task: asyncio.Task[None]) -> None:
        self._changing.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.warning("the replicas of a reader could not be ended: %s", exc)


def _refuse(why: str) -> None:
    raise NoRoom(why)
