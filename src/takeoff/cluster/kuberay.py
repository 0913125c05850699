"""A manifest as Kubernetes objects: a RayService for the KubeRay operator, a Service for the doors, and a
volume for the models. Knows no Ray.

Pods are of three kinds: the head, which runs nothing of ours; those of doors, one door each, by a resource
that only they have; those of readers, whose replicas go where they fit. A key does not stand in it: pods have
it from a Secret.

Source: RayService of ray.io/v1, github.com/ray-project/kuberay; for the token among Ray's processes it must
be 1.5.1 or later.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from takeoff.cluster.names import DOORS as DOORS_APP
from takeoff.cluster.names import settings_digest
from takeoff.cluster.told import VARIABLES, ToldReader, told_doors, told_reader
from takeoff.errors import SettingsError
from takeoff.settings import Settings
from takeoff.settings.cluster import ClusterSettings, ReplicaSettings
from takeoff.settings.fields import DOORS
from takeoff.settings.names import variable

RAY_VERSION = "2.60.0"  # that requirements-cluster.lock has: the image must have the same
HOME = "/takeoff"  # where the volume is mounted, unless the manifest says another `home`
DOOR = "takeoff_door"  # resource of Ray: a pod that has it takes one door
STORE_SIZE = "20Gi"
DOOR_CPUS, DOOR_MEMORY = "1", "2Gi"
HEAD_CPUS, HEAD_MEMORY = "1", "4Gi"
RAYLET_HEALTH = ("/api/healthz", 52365)  # path and port of Ray's agent on each pod
STOPPING_S = 20  # beyond the time to drain, for Ray's processes

_HEADER = """\
# Made by `takeoff cluster kuberay`. It needs the KubeRay operator, 1.5.1 or later, in this cluster, and
#   kubectl create secret generic {secret} --from-file=api-key=FILE
"""
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,39}[a-z0-9])?")  # KubeRay adds to it, and 63 is the end
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGT]i?)?")


@dataclass(frozen=True, slots=True)
class Pods:
    """What a manifest does not say."""

    image: str
    memory: str = "8Gi"  # of each pod of readers
    workers: int | None = None  # pods of readers; None: as many as there are replicas, by Ray's autoscaler
    name: str = "takeoff"
    namespace: str = "default"

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("namespace", self.namespace)):
            if not _NAME.fullmatch(text):
                raise SettingsError(f"{field} is up to 41 of a-z, 0-9 and -, got {text!r}", param=field)
        if not _QUANTITY.fullmatch(self.memory):
            raise SettingsError(f"memory is written 8Gi, got {self.memory!r}", param="memory")

    @property
    def secret(self) -> str:
        return f"{self.name}-key"

    @property
    def volume(self) -> str:
        return f"{self.name}-models"

    @property
    def host_names(self) -> tuple[str, ...]:
        """By which other pods reach the doors' Service."""
        here = f"{self.name}.{self.namespace}"
        return self.name, here, f"{here}.svc", f"{here}.svc.cluster.local"


def documents(settings: Settings, cluster: ClusterSettings, pods: Pods) -> str:
    """YAML of the RayService, the Service and the PersistentVolumeClaim.

    Args:
        settings: of a manifest alone. The doors listen on every address of their pods, whatever it says.

    Raises:
        SettingsError: a door's port is to be any free one, and so can't be in a Service.
    """
    there = settings.model_copy(
        update={
            "host": "0.0.0.0",  # noqa: S104  (of a pod; a door without a key does not start there)
            "home": settings.home if "home" in settings.named else Path(HOME),
            "allowed_host": (*settings.allowed_host, *pods.host_names),
        }
    )
    ports = {name: getattr(there, name) for name in DOORS if getattr(there, name) is not None}
    if free := [name for name, port in ports.items() if port == 0]:
        raise SettingsError(f"a Service needs a port that is known, and {free[0]} is 0", param=free[0])
    made = [
        _ray_service(there, cluster, pods, ports),
        _service(pods, ports),
        _volume_claim(pods),
    ]
    return _HEADER.format(secret=pods.secret) + "---\n".join(map(_dumped, made))


def serve_config(settings: Settings, cluster: ClusterSettings) -> dict[str, Any]:
    """What Ray Serve is told: the applications, in the shape of `ray.serve.schema.ServeDeploySchema`."""
    apps = []
    for reader_id, reader in settings.own_readers.items():
        replicas = cluster.of(reader_id)
        told = told_reader(settings, reader_id, reader, replicas)
        apps.append((told.app, "replicas", replicas_args(settings, replicas, told)))
    apps.append((DOORS_APP, "doors", doors_args(settings, cluster)))
    return {
        "proxy_location": "Disabled",  # the doors listen themselves
        "applications": [
            {
                "name": name,
                "import_path": f"takeoff.cluster.application:{builder}",
                "route_prefix": None,
                "args": args,
            }
            for name, builder, args in apps
        ],
    }


def doors_args(settings: Settings, cluster: ClusterSettings) -> dict[str, Any]:
    """For the builder `takeoff.cluster.application.doors`."""
    return {"settings": told_doors(settings), "doors": cluster.doors, "resources": {DOOR: 1}}


def replicas_args(settings: Settings, replicas: ReplicaSettings, reader: ToldReader) -> dict[str, Any]:
    """For the builder `takeoff.cluster.application.replicas`."""
    return {
        "settings": reader.settings_json,
        "replicas": replicas.model_dump(mode="json"),
        "drain_timeout_s": settings.drain_timeout_s,
    }


# --- objects ------------------------------------------------------------------------------------------


def _ray_service(
    settings: Settings, cluster: ClusterSettings, pods: Pods, ports: Mapping[str, int]
) -> dict[str, Any]:
    config = serve_config(settings, cluster)
    fewest, most = _num_workers(settings, cluster, pods)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": pods.name, "namespace": pods.namespace},
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": _dumped(config),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "authOptions": {"mode": "token"},  # sets RAY_AUTH_MODE and a token in every pod
                "enableInTreeAutoscaling": fewest != most,
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": _pod(
                        pods,
                        settings,
                        _container(pods, settings, "head", _resources(HEAD_CPUS, HEAD_MEMORY)),
                        annotations={"takeoff/told": _digest(settings, config)},
                    ),
                },
                "workerGroupSpecs": [
                    _door_group(settings, cluster, pods, ports),
                    _reader_group(settings, cluster, pods, (fewest, most)),
                ],
            },
        },
    }


def _door_group(
    settings: Settings, cluster: ClusterSettings, pods: Pods, ports: Mapping[str, int]
) -> dict[str, Any]:
    container = _container(pods, settings, "door", _resources(DOOR_CPUS, DOOR_MEMORY))
    container["env"] += [
        _from_secret(pods, "api_key", is_optional=settings.insecure),
        _from_secret(pods, "access_token", is_optional=True),
    ]
    container["ports"] = [
        {"name": _port_name(name), "containerPort": port, "protocol": "TCP"} for name, port in ports.items()
    ]
    container["readinessProbe"] = {
        "httpGet": {
            "path": "/readyz",
            "port": ports["port"],
            "scheme": "HTTP" if settings.tls_cert is None else "HTTPS",
        },
        "periodSeconds": 5,
    }
    return {
        "groupName": "doors",
        "replicas": cluster.doors,
        "minReplicas": cluster.doors,
        "maxReplicas": cluster.doors,
        "rayStartParams": {"num-cpus": "0", "resources": f'"{{\\"{DOOR}\\": 1}}"'},
        "template": _pod(pods, settings, container, labels={"takeoff/doors": pods.name}),
    }


def _reader_group(
    settings: Settings, cluster: ClusterSettings, pods: Pods, workers: tuple[int, int]
) -> dict[str, Any]:
    """Pods in which the largest replica fits."""
    wanted = [cluster.of(reader_id) for reader_id in settings.own_readers]
    cpus = _quantity(max(each.cpus for each in wanted) or 1.0)
    gpus = math.ceil(max(each.gpus for each in wanted))
    container = _container(pods, settings, "reader", _resources(cpus, pods.memory, gpus))
    container["env"].append(_from_secret(pods, "access_token", is_optional=True))
    path, port = RAYLET_HEALTH
    # KubeRay's own would ask for Ray's proxy, too, which is not there.
    container["readinessProbe"] = {"httpGet": {"path": path, "port": port}, "periodSeconds": 5}
    fewest, most = workers
    return {
        "groupName": "readers",
        "replicas": fewest,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": _pod(pods, settings, container),
    }


def _num_workers(settings: Settings, cluster: ClusterSettings, pods: Pods) -> tuple[int, int]:
    if pods.workers is not None:
        return pods.workers, pods.workers
    wanted = [cluster.of(reader_id).replicas for reader_id in settings.own_readers]
    return sum(fewest for fewest, _ in wanted), sum(most for _, most in wanted)


def _pod(
    pods: Pods,
    settings: Settings,
    container: dict[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    metadata = {key: dict(told) for key, told in (("labels", labels), ("annotations", annotations)) if told}
    return {
        **({"metadata": metadata} if metadata else {}),
        "spec": {
            "securityContext": {"runAsNonRoot": True, "fsGroup": 1000},
            "terminationGracePeriodSeconds": _drain_s(settings) + STOPPING_S,
            "containers": [container],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": pods.volume}}],
        },
    }


def _container(pods: Pods, settings: Settings, name: str, resources: dict[str, Any]) -> dict[str, Any]:
    home = str(settings.home)
    return {
        "name": name,
        "image": pods.image,
        "env": [
            {"name": name, "value": value} for name, value in {**VARIABLES, variable("home"): home}.items()
        ],
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        # What runs may finish: no new requests come to a pod that is to end, and others wait with it.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_drain_s(settings))]}}},
        "volumeMounts": [{"name": "models", "mountPath": home}],
    }


def _service(pods: Pods, ports: Mapping[str, int]) -> dict[str, Any]:
    """Leads to the doors that are ready, also to those of a RayCluster that takes the place of another."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": pods.name, "namespace": pods.namespace},
        "spec": {
            "selector": {"takeoff/doors": pods.name},
            "ports": [
                {"name": _port_name(name), "port": port, "targetPort": port, "protocol": "TCP"}
                for name, port in ports.items()
            ],
        },
    }


def _volume_claim(pods: Pods) -> dict[str, Any]:
    """Pods of several machines write to it: files are fetched once, under a lock."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": pods.volume, "namespace": pods.namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": STORE_SIZE}}},
    }


def _from_secret(pods: Pods, setting: str, *, is_optional: bool) -> dict[str, Any]:
    key = setting.replace("_", "-")
    source = {"name": pods.secret, "key": key, "optional": is_optional}
    return {"name": variable(setting), "valueFrom": {"secretKeyRef": source}}


def _resources(cpus: str, memory: str, gpus: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = {"cpu": cpus, "memory": memory}
    if gpus:
        told["nvidia.com/gpu"] = str(gpus)
    return {"requests": told, "limits": dict(told)}


def _digest(settings: Settings, config: Mapping[str, Any]) -> str:
    """Of readers and settings. When it changes, KubeRay makes a RayCluster beside the one that serves, and
    ends that when the new one serves, too. In place, Ray Serve would end a reader before the next is up.
    """
    names = [app["name"] for app in config["applications"]]
    return settings_digest("\0".join([told_doors(settings), *names]))


def _drain_s(settings: Settings) -> int:
    return math.ceil(settings.drain_timeout_s)


def _port_name(setting: str) -> str:
    return "front" if setting == "port" else setting.removesuffix("_port")


def _quantity(cpus: float) -> str:
    return f"{math.ceil(cpus * 1_000)}m" if cpus % 1 else str(int(cpus))


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are; nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dumped(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1_000_000)
