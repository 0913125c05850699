"""One front process of a cluster: doors and service as of `takeoff serve`, but its readers are replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from ray import serve

from takeoff.cluster.door_service import DoorService
from takeoff.cluster.names import DOORS, settings_digest
from takeoff.cluster.operations import deployed_readers
from takeoff.cluster.remote import RemoteEngine
from takeoff.cluster.secrets import with_secrets
from takeoff.cluster.wire import Described, decode_described
from takeoff.errors import StartError
from takeoff.http.doors import Doors
from takeoff.http.reach import check_reach
from takeoff.ipc.messages import Heartbeat, Load
from takeoff.keys.account import Spent
from takeoff.keys.keyring import Keyring
from takeoff.models.store import Store
from takeoff.observe.lines import opened_logs
from takeoff.observe.logs import set_up_logs
from takeoff.observe.metrics import Metrics
from takeoff.request import Task
from takeoff.service.engine_watch import EngineCalls
from takeoff.service.engines import Engine
from takeoff.service.launch import Launch
from takeoff.service.reader import Reader
from takeoff.settings import ReaderSettings, Settings

SHARE_S = 0.25  # between two times that doors tell each other what keys have used
TRY_AGAIN_S = 2.0  # what can't be served yet
LOOK_S = 1.0  # between two looks at what there is

logger = logging.getLogger(__name__)


class Door:
    """What Ray Serve runs. It listens itself: Ray's own proxies have no part in it.

    It serves every reader whose application it finds on the cluster, of several for one reader the youngest.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, settings_json: str, *, has_others: bool
    ) -> None:
        """Returns when the ports are open, which are shared with other doors of the machine, and with the
        next ones when the settings change. `has_others`: there is more than this door.

        Raises:
            StartError: a port is taken, or a key or certificate is wrong.
            SettingsError: other machines could come in without a key.
        """
        self._stack = contextlib.AsyncExitStack()
        settings = with_secrets(Settings.model_validate(json.loads(settings_json)), os.environ)
        check_reach(settings)  # with the keys of this machine
        set_up_logs(settings.log_level)
        self._settings = settings
        self._settings_json = settings_json
        self._name = serve.get_replica_context().replica_id.unique_id
        self._found: dict[str, asyncio.Task[None]] = {}  # applications that are, or will be, taken up
        self._left: set[str] = set()  # that are ending
        self._apps: dict[Reader, str] = {}  # whose replicas a reader has, until it has ended
        self._ages: dict[str, float] = {}  # of the application of each reader: when it was deployed
        self._keys = Keyring(settings.api_key, settings.keys_path, must_exist=settings.keys_file is not None)
        logs = self._stack.enter_context(opened_logs(settings))
        self._service = DoorService(settings, Metrics(), lambda reader: self._apps.get(reader, ""))
        self._doors = Doors(settings, shares_ports=True)
        self._serving = asyncio.create_task(self._doors.serve(self._service, self._keys, logs), name="doors")
        self._looking = asyncio.create_task(self._look(), name="look for readers")
        self._sharing = asyncio.create_task(self._share(), name="share limits") if has_others else None
        self._stack.push_async_callback(self._close)

    async def state(self) -> str:
        """JSON: the ports, the readers, and the applications whose replicas this door has requests at."""
        readers = self._service.readers()
        return json.dumps(
            {
                "door": self._name,
                "settings": settings_digest(self._settings_json),
                "ports": self._doors.ports,
                "notes": self._doors.notes,
                "status": self._service.status,
                "apps": sorted(app for reader, app in self._apps.items() if reader in readers),
                "open": self._service.tally.num_open,
                "readers": {
                    reader.reader_id: {
                        "state": reader.state.value,
                        "group": reader.group,
                        "model": reader.model_name,
                        "replicas": [
                            {"id": each.replica_id, "node": each.node, "open": each.num_open}
                            for each in reader.replicas
                        ],
                    }
                    for reader in readers
                },
            }
        )

    async def spent(self, door: str, spent: dict[str, list[int]]) -> None:
        """Another door says what keys have used there, by their ids: limits hold over all doors."""
        if door != self._name:
            self._keys.take_spent(door, {key_id: Spent(*numbers) for key_id, numbers in spent.items()})

    async def leave(self, app: str) -> bool:
        """Use its replicas no more: it is about to be deleted. Returns whether requests are there still."""
        self._left.add(app)
        self._drop(app)
        return any(self._apps.get(reader) == app for reader in self._service.readers())

    async def check_health(self) -> None:
        """Raises StartError: the doors are closed, and another front process must be made."""
        if self._serving.done() or self._looking.done():
            raise StartError("the doors have closed")

    async def __del__(self) -> None:
        """Ray Serve awaits this when it takes the door away, or could not make it."""
        await self._stack.aclose()

    async def _close(self) -> None:
        """As at SIGTERM: what runs is finished, within its time. Who comes now gets another door."""
        self._doors.accept_no_more()
        await self._service.drain(self._settings.drain_timeout_s)
        if self._sharing is not None:
            self._sharing.cancel()
        for task in (self._looking, *self._found.values()):
            task.cancel()
        await self._service.stop()
        await self._doors.close()

    async def _share(self) -> None:
        """Tell the other doors what keys have used here, as long as there is anything to tell."""
        doors = serve.get_deployment_handle("Door", DOORS)
        was_told = False
        while True:
            await asyncio.sleep(SHARE_S)
            spent = {key_id: list(each) for key_id, each in self._keys.spent().items()}
            if not spent and not was_told:
                continue
            was_told = bool(spent)
            try:
                await doors.broadcast("spent", self._name, spent).results_async()
            except Exception as exc:
                logger.debug("not all doors were told: %s", exc)

    async def _look(self) -> None:
        """Take up the applications of readers that have come, and leave those that are gone."""
        while True:
            try:
                there = await asyncio.to_thread(deployed_readers)
            except Exception as exc:
                logger.warning("what is on the cluster can't be told: %s", exc)
            else:
                running = {app for app, deployed in there.items() if deployed.is_running}
                for app in running - self._found.keys() - self._left:
                    self._found[app] = asyncio.create_task(self._take_up(app, there[app].at), name=app)
                for app in self._found.keys() - there.keys():
                    self._found.pop(app).cancel()
                    self._drop(app)
                self._left &= there.keys()
            readers = self._service.readers()
            self._apps = {reader: app for reader, app in self._apps.items() if reader in readers}
            await asyncio.sleep(LOOK_S)

    async def _take_up(self, app: str, deployed_at: float) -> None:
        """Serve what the replicas of an application do; tried again until it can be."""
        while True:
            try:
                await self._serve(app, deployed_at)
            except Exception as exc:
                logger.error("%s can't be served: %s", app, exc)
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                return

    async def _serve(self, app: str, deployed_at: float) -> None:
        """Learn what the replicas serve, and serve it; beside what has the reader's id now, if anything."""
        handle = serve.get_deployment_handle("Replica", app)
        described = decode_described(await handle.options(method_name="describe").remote())
        if self._ages.get(described.reader_id, 0.0) > deployed_at:
            return
        self._ages[described.reader_id] = deployed_at
        settings = ReaderSettings.model_validate(json.loads(described.settings_json))
        path = await asyncio.to_thread(self._vocabulary_path, described, settings)
        launch = Launch(
            described.model_name, path, Task(described.task), described.load, json.loads(described.config)
        )

        def make_engine(name: str, launch: Launch, calls: EngineCalls, environ: Mapping[str, str]) -> Engine:  # noqa: ARG001
            def note(beats: dict[str, Heartbeat]) -> None:
                if self._ages[described.reader_id] == deployed_at:  # none came in its place
                    self._service.metrics.note_replicas(described.reader_id, beats)

            return RemoteEngine(described, handle, self._name, calls, note)

        reader = self._service.launch(described.reader_id, settings, launch, make_engine)
        self._apps[reader] = app

    def _drop(self, app: str) -> None:
        """Let the reader of an application finish what it has, if it is still there."""
        for reader in self._service.readers():
            if self._apps.get(reader) == app and reader.is_live:
                self._service.drop_soon(reader.reader_id)

    def _vocabulary_path(self, described: Described, settings: ReaderSettings) -> Path:
        """Of the model's file on this machine. Raises PullError, ModelError: it can't be had."""
        path = Path(described.load.model_path)
        if not isinstance(described.load, Load) or path.exists():
            return path
        return Store(self._settings.store, settings.access_token).pull(settings.model).path
