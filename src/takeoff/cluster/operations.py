"""What is asked of Ray Serve's controller. All of it blocks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray import serve

from takeoff import errors
from takeoff.cluster.names import READERS
from takeoff.errors import ClusterError, StartError

LOOK_S = 0.25

_NO_ROOM = "to be scheduled"  # in what Ray Serve says of replicas that wait for half a minute
_TOLD = re.compile(r"takeoff\.errors\.(\w+): (.*)")  # the last line of a traceback


class Deployed(NamedTuple):
    """The application of a reader."""

    at: float  # seconds since the epoch
    is_running: bool  # all replicas that should be are up; one that lost some is not, and goes on
    has_failed: bool  # it never came up, and won't


def deployed_readers() -> dict[str, Deployed]:
    """All that there are, by name, without those that are being deleted."""
    return {
        name: Deployed(
            app.last_deployed_time_s, app.status.value == "RUNNING", app.status.value == "DEPLOY_FAILED"
        )
        for name, app in serve.status().applications.items()
        if name.startswith(READERS) and app.status.value != "DELETING"
    }


def deploy(apps: Mapping[str, Any]) -> None:
    """Have applications started, by name; returns at once."""
    serve.run_many(
        [serve.RunTarget(app, name=name, route_prefix=None) for name, app in apps.items()],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def wait_running(name: str, told: str, on_wait: Callable[[str], None]) -> None:
    """Return when an application is up. `told` is what it is to people.

    `on_wait` is told, once, that no machine has room for it: it may raise, or wait for one to come.

    Raises:
        StartError: what its processes have raised.
    """
    is_told = False
    while True:
        app = serve.status().applications.get(name)
        if app is not None and app.status.value == "RUNNING":
            return
        messages = "" if app is None else "\n".join(each.message for each in app.deployments.values())
        if app is not None and app.status.value in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise _said(messages, told)
        if not is_told and _NO_ROOM in messages:
            is_told = True
            on_wait(f"{told} waits for a machine that has what cluster_config reserves: {messages.strip()}")
        time.sleep(LOOK_S)


def _said(messages: str, told: str) -> StartError:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    for line in reversed(lines):
        match = _TOLD.search(line)
        kind = None if match is None else getattr(errors, match[1], None)
        if match is not None and isinstance(kind, type) and issubclass(kind, StartError):
            return kind(match[2])
    return ClusterError(f"{told} did not come up: {lines[-1] if lines else 'Ray Serve does not say why'}")
