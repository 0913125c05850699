"""The Ray Serve application of a reader: its replicas."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from takeoff.cluster.replica import Replica
from takeoff.cluster.told import VARIABLES, told_reader
from takeoff.service.engines import Commands
from takeoff.settings import ReaderSettings, Settings
from takeoff.settings.cluster import ClusterSettings, ReplicaSettings

MOST_CALLS = 100_000  # of one replica at once: what waits, waits in its engine's queue, where shares are fair
ROUTER = "takeoff.cluster.router:PrefixRouter"
STOPPING_S = 10.0  # beyond the time to drain
LOOK_S = 2.0  # over which what waits is averaged

QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)  # the doors have a log of requests


@dataclass(frozen=True, slots=True)
class ReaderApp:
    """Not deployed yet."""

    reader_id: str
    name: str
    app: Any  # serve.Application


def reader_apps(
    settings: Settings, cluster: ClusterSettings, commands: Commands | None = None, router: str = ROUTER
) -> list[ReaderApp]:
    """Of all readers of the settings. `commands` are the programs of their processes, `router` is a class."""
    return [
        reader_app_of(settings, reader_id, reader, cluster.of(reader_id), commands, router)
        for reader_id, reader in settings.own_readers.items()
    ]


def reader_app_of(
    settings: Settings,
    reader_id: str,
    reader: ReaderSettings,
    replicas: ReplicaSettings,
    commands: Commands | None = None,
    router: str = ROUTER,
    nonce: str = "",
) -> ReaderApp:
    """Of one reader, which is none of `settings` perhaps. `nonce`: see `told_reader`."""
    told = told_reader(settings, reader_id, reader, replicas, nonce)
    deployment = replicas_deployment(replicas, settings.drain_timeout_s, router)
    app = deployment.bind(told.settings_json, commands)
    return ReaderApp(reader_id, told.app, app)


def replicas_deployment(replicas: ReplicaSettings, drain_timeout_s: float, router: str = ROUTER) -> Any:
    """Of a reader; it is bound to the settings with it, and to commands."""
    fewest, most = replicas.replicas
    number: Mapping[str, Any]
    if replicas.is_fixed:
        number = {"num_replicas": most}
    else:
        policy = AutoscalingPolicy(
            policy_function="takeoff.cluster.autoscaling:ByQueuedTokens",
            policy_kwargs={"queued_tokens": replicas.queued_tokens},
        )
        with warnings.catch_warnings():  # its successor is a variable of Ray's own processes
            warnings.simplefilter("ignore", DeprecationWarning)
            config = AutoscalingConfig(
                min_replicas=fewest,
                max_replicas=most,
                initial_replicas=max(fewest, 1),
                metrics_interval_s=LOOK_S / 2,
                look_back_period_s=LOOK_S,
                upscale_delay_s=LOOK_S,
                downscale_delay_s=replicas.idle_s,
                policy=policy,
            )
        number = {"autoscaling_config": config}
    return serve.deployment(
        name="Replica",
        max_ongoing_requests=MOST_CALLS,
        graceful_shutdown_timeout_s=drain_timeout_s + STOPPING_S,
        logging_config=QUIET,
        request_router_config=RequestRouterConfig(request_router_class=router),
        ray_actor_options=actor_options(cpus=replicas.cpus, gpus=replicas.gpus),
        **number,
    )(Replica)


def actor_options(*, cpus: float, gpus: float) -> dict[str, Any]:
    return {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": dict(VARIABLES)}}
