"""The Ray Serve application of the doors, and the builders that a file of Ray Serve's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray import serve

from takeoff.cluster.apps import QUIET, STOPPING_S, actor_options, replicas_deployment
from takeoff.cluster.door import Door
from takeoff.cluster.told import told_doors
from takeoff.settings import Settings
from takeoff.settings.cluster import ClusterSettings, ReplicaSettings


def door_app(settings: Settings, cluster: ClusterSettings) -> Any:
    """The doors of these settings; they find the readers by themselves."""
    return _doors(told_doors(settings), settings.drain_timeout_s, cluster.doors, {})


def doors(args: dict[str, Any]) -> Any:
    """The doors, of arguments that `takeoff.cluster.kuberay.doors_args` makes. Ray Serve calls it."""
    settings = Settings.model_validate(json.loads(args["settings"]))
    return _doors(args["settings"], settings.drain_timeout_s, args["doors"], args["resources"])


def replicas(args: dict[str, Any]) -> Any:
    """A reader's replicas, of those that `replicas_args` makes. Ray Serve calls it."""
    wanted = ReplicaSettings.model_validate(args["replicas"])
    return replicas_deployment(wanted, args["drain_timeout_s"]).bind(args["settings"])


def _doors(settings_json: str, drain_timeout_s: float, num_doors: int, resources: Mapping[str, float]) -> Any:
    """`resources`: of Ray, that each of them takes."""
    deployment = serve.deployment(
        name="Door",
        num_replicas=num_doors,
        max_ongoing_requests=1_000,
        graceful_shutdown_timeout_s=drain_timeout_s + STOPPING_S,
        logging_config=QUIET,
        ray_actor_options={**actor_options(cpus=0, gpus=0), "resources": dict(resources)},
    )(Door)
    return deployment.bind(settings_json, has_others=num_doors > 1)
