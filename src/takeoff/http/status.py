"""What the doors tell of the readers: by state, by group, and what the server was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from takeoff.http.ports import Reader, Service
from takeoff.settings import Settings

_PLACES = {
    "live": "live_readers",
    "draining": "live_readers",  # it takes nothing new, but it serves
    "unloading": "live_readers",
    "unloaded": "live_readers",  # it serves whoever asks for it
    "loading": "loading_readers",
    "failed": "dead_readers",
    "stopped": "dead_readers",
}


def reader_facts(reader: Reader) -> dict[str, Any]:
    """One reader, with the group under the names that clients of all years look for."""
    facts: dict[str, Any] = {
        "reader_id": reader.reader_id,
        "state": reader.state,
        "model_name": reader.model_name,
        "model_type": reader.task,
        "quantization": reader.quantisation,
        "device": reader.device,
        "consumer_group": reader.group,
        "consumer_groups": [reader.group],
        "consumer_name": reader.reader_id,
        "max_batch_size": reader.settings.max_slots,
        "loras": ",".join(reader.settings.loras) or None,
        "pids": reader.pids,
        "on_demand": reader.settings.on_demand,
        "planned_bytes": reader.num_bytes,
    }
    if reader.replicas:
        facts["replicas"] = [
            {"replica_id": each.replica_id, "node": each.node, "open_requests": each.num_open}
            for each in reader.replicas
        ]
    if reader.state == "loading":
        facts["progress"] = reader.progress
    if reader.error is not None:
        facts["error"] = reader.error
    return facts


def readers_by_state(readers: Sequence[Reader]) -> dict[str, dict[str, Any]]:
    """Live, loading and dead ones by id; all three keys are always there."""
    places: dict[str, dict[str, Any]] = {place: {} for place in dict.fromkeys(_PLACES.values())}
    for reader in readers:
        places[_PLACES[reader.state]][reader.reader_id] = reader_facts(reader)
    return places


def readers_by_group(readers: Sequence[Reader]) -> dict[str, list[dict[str, Any]]]:
    """Every group with the readers that serve it, or will."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for reader in readers:
        if _PLACES[reader.state] != "dead_readers":
            groups.setdefault(reader.group, []).append(reader_facts(reader))
    return groups


def takeoff_status(service: Service, ports: Mapping[str, int]) -> dict[str, Any]:
    """GET /status of the Takeoff door: `live_readers` stands at the top, also while nothing is loaded."""
    return {**readers_by_state(service.readers()), "ports": list(ports.values())}


def management_status(service: Service, settings: Settings, ports: Mapping[str, int]) -> dict[str, Any]:
    """GET /status of the management door: what the server was told, and how its readers are."""
    beat = service.last_heartbeat_at
    return {
        "config": _server_config(settings, ports),
        "status": {
            **readers_by_state(service.readers()),
            "last_heartbeat": {"heartbeat_timestamp": beat} if beat else None,
        },
    }


def _server_config(settings: Settings, ports: Mapping[str, int]) -> dict[str, Any]:
    """The settings that manifests have, under their names there; a door that is not open is null."""
    return {
        "port": ports.get("takeoff_port"),
        "management_port": ports.get("management_port"),
        "openai_port": ports.get("openai_port"),
        "front_port": ports.get("port"),
        "body_size_limit_bytes": settings.max_body_bytes,
        "max_prompt_string_bytes": settings.max_prompt_string_bytes,
        "max_user_batch_size": settings.max_user_batch_size,
        "reserved_consumers": ",".join(settings.reserved_consumers),
        "repository_path": ",".join(map(str, settings.repository_path)) or None,
        "enable_metrics": settings.enable_metrics,
        "heartbeat_check_interval": settings.heartbeat_check_interval,
        "reader_message_timeout_ms": settings.reader_message_timeout_ms,
        "echo": settings.echo,
        "allow_remote_images": settings.allow_remote_images,
    }
