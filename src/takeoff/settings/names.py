"""Titan Takeoff's names for our settings, and its names that mean nothing here.

A name without effect is accepted, so that old manifests and `docker run` lines work, and reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

ENV_PREFIX = "TAKEOFF_"

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1

# What a value must be: a whole number from 0 to this, true or false, a text, or anything.
Kind = int | Literal["bool", "text", "any"]

READER_NAMES: Mapping[str, str] = {
    "model_name": "model",
    "max_batch_size": "max_slots",
    "max_sequence_length": "context",
    "max_seq_length": "context",
    "max_seq_len": "context",
}
SERVER_NAMES: Mapping[str, str] = {
    "port": "takeoff_port",  # our own `port` is the front door's, which Titan Takeoff has not
    "front_port": "port",
    "body_size_limit_bytes": "max_body_bytes",
}
DOOR_SWITCHES: Mapping[str, str] = {
    "launch_management_server": "management_port",
    "launch_openai_server": "openai_port",
}

READER_WITHOUT_EFFECT: Mapping[str, Kind] = {
    "redis_host": "text",
    "internal_gateway_ip": "text",
    "backend": "text",
    "cuda_visible_devices": "text",
    "quant_type": "text",
    "nvlink_unavailable": U32,
    "disable_static": U32,
    "disable_cuda_graph": U32,
    "cuda_graph_cache_capacity": U64,
    "disable_paged_attention": U32,
    "page_cache_size": "text",
    "prefill_chunk_size": "any",
    "quantize_cache_bits": "any",
    "ssd_cache_size": "any",
    "lmfe_max_consecutive_whitespaces": "any",
    "reader_log_as_json": "any",
    "enable_document_processing": "any",
    "buffer_requests": "any",
}
SERVER_WITHOUT_EFFECT: Mapping[str, Kind] = {
    "vertex_port": U16,
    "snowflake_port": U16,
    "internal_port": U16,
    "launch_vertex_server": "any",
    "launch_sagemaker_server": "any",
}
TENSOR_PARALLEL = "tensor_parallel"  # 1, what we do, or refused

_VARIABLES_WITHOUT_EFFECT = (
    "add_reader_id_suffix",
    "batch_timeout",
    "disable_batching",
    "disable_continuous_generation",
    "export_traces",
    "headless",
    "heartbeat_wait_interval",
    "image",
    "license_key",
    "metrics_log_level",
    "metrics_target",
    "redis_port",
    "refill_threshold",
    "reill_threshold",  # as Titan Takeoff's launchers spell it
    "result_sleep_timeout",
    "run_name",
    "traces_host",
)
OTHER_VARIABLES_WITHOUT_EFFECT = ("LICENSE_KEY", "RUST_LOG")

# Kubernetes tells every container about services called takeoff: TAKEOFF_PORT=tcp://10.0.0.1:3000 ...
_SERVICE_LINK = re.compile(
    r"TAKEOFF_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def variable(name: str) -> str:
    """The variable of a setting."""
    return ENV_PREFIX + name.upper()


def variable_names() -> dict[str, str]:
    """Variables that are Titan Takeoff's for a setting of ours, with the field."""
    named = READER_NAMES.items() | {("body_size_limit_bytes", SERVER_NAMES["body_size_limit_bytes"])}
    return {variable(name): field for name, field in named}


def variables_without_effect() -> frozenset[str]:
    """TAKEOFF_ variables that are accepted and mean nothing here."""
    names = (*READER_WITHOUT_EFFECT, *SERVER_WITHOUT_EFFECT, *DOOR_SWITCHES, *_VARIABLES_WITHOUT_EFFECT)
    return frozenset(map(variable, names))


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes set this variable, for a service whose name begins with takeoff."""
    return bool(_SERVICE_LINK.fullmatch(name) or _SERVICE_LINK_VALUE.match(text))
