"""A cluster of ours as its operator sees it: brought up, changed while it serves, looked at, taken down."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from takeoff.cluster.application import door_app
from takeoff.cluster.apps import ROUTER, ReaderApp, reader_apps
from takeoff.cluster.names import DOORS, READERS, settings_digest
from takeoff.cluster.operations import deploy, deployed_readers, wait_running
from takeoff.cluster.told import told_doors
from takeoff.errors import ClusterError
from takeoff.service.engines import Commands
from takeoff.settings import Settings
from takeoff.settings.cluster import ClusterSettings

LOOK_S = 0.5
TAKING_UP_S = 120.0  # for the doors to learn what a reader that is up serves
ANSWER_S = 10.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Speak with the cluster at `address` inside the block.

    Raises:
        ClusterError: there is none, or it lets us not in.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise ClusterError(
            f"no Ray cluster answers at {address}: {first}", hint="`ray status` there"
        ) from exc
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def bring_up(
    settings: Settings,
    cluster: ClusterSettings,
    say: Callable[[str], None],
    commands: Commands | None = None,
    router: str = ROUTER,
) -> list[dict[str, Any]]:
    """Deploy, or change what is deployed without a failed request: each changed reader's new replicas are up
    before doors use them, and old ones end when the doors have no requests there any more.

    Returns the state of every door. `say` is told what is waited for. `commands` and `router` are as in
    `reader_apps`.

    Raises:
        ClusterError: a reader or the doors don't come up; what ran before runs on.
    """
    serve.start(proxy_location="Disabled")
    apps = serve.status().applications
    readers = reader_apps(settings, cluster, commands, router)
    there = deployed_readers()
    starting = [each for each in readers if each.name not in there or there[each.name].has_failed]
    if starting:
        say(f"starting {', '.join(reader.reader_id for reader in starting)}")
        deploy({reader.name: reader.app for reader in starting})
    try:
        for reader in starting:
            wait_running(reader.name, f"the reader {reader.reader_id!r}", say)
    except BaseException:
        for reader in starting:
            serve.delete(reader.name, _blocking=False)
        raise
    if DOORS not in apps or _have_changed(settings, cluster):
        say("doors: starting")
        deploy({DOORS: door_app(settings, cluster)})
        wait_running(DOORS, "the doors", say)
    say("doors: taking up the readers")
    _wait_taken_up(readers)
    wanted = {reader.name for reader in readers}
    for name in [name for name in serve.status().applications if name.startswith(READERS)]:
        if name not in wanted:
            say(f"{name}: ending, when its requests have ended")
            _wait_left(name, settings.drain_timeout_s + LOOK_S)
            serve.delete(name)
    return door_states()


def door_states() -> list[dict[str, Any]]:
    """What each door says of itself and of the replicas that it knows.

    Raises:
        ClusterError: none is up.
    """
    if DOORS not in serve.status().applications:
        raise ClusterError("no doors of ours are on this cluster", hint="takeoff cluster up MANIFEST")
    try:
        answers = serve.get_deployment_handle("Door", DOORS).broadcast("state").results(timeout_s=ANSWER_S)
    except Exception as exc:  # Ray's errors have no one root
        raise ClusterError(f"the doors don't answer: {type(exc).__name__}") from exc
    return [json.loads(answer) for answer in answers]


def reader_states() -> dict[str, dict[str, Any]]:
    """Of each reader's application: its status, and its replicas by state."""
    states = {}
    for name, app in serve.status().applications.items():
        if name.startswith(READERS):
            replicas = {
                str(getattr(state, "value", state)): number
                for deployment in app.deployments.values()
                for state, number in deployment.replica_states.items()
            }
            states[name] = {"status": app.status.value, "replicas": replicas, "message": app.message}
    return states


def take_down() -> None:
    """End the doors, which drain, then all else of ours; the cluster stays, with what others have."""
    apps = serve.status().applications
    if DOORS in apps:
        serve.delete(DOORS)
    readers = [name for name in apps if name.startswith(READERS)]
    if not apps.keys() - {DOORS, *readers}:
        serve.shutdown()
        return
    for name in readers:
        serve.delete(name)


def _have_changed(settings: Settings, cluster: ClusterSettings) -> bool:
    """Whether the doors that are up have other settings, or are not as many."""
    digest = settings_digest(told_doors(settings))
    states = door_states()
    return len(states) != cluster.doors or any(state["settings"] != digest for state in states)


def _wait_taken_up(readers: list[ReaderApp]) -> None:
    wanted = {reader.name for reader in readers}
    deadline = time.monotonic() + TAKING_UP_S
    while not all(wanted <= set(state["apps"]) for state in door_states()):
        if time.monotonic() > deadline:
            raise ClusterError(f"the doors did not take up {', '.join(sorted(wanted))} in {TAKING_UP_S:g} s")
        time.sleep(LOOK_S)


def _wait_left(name: str, limit_s: float) -> None:
    """Have all doors leave an application; what is open there after the limit is broken off."""
    doors = serve.get_deployment_handle("Door", DOORS)
    deadline = time.monotonic() + limit_s
    while any(doors.broadcast("leave", name).results(timeout_s=ANSWER_S)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
