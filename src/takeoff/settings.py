"""One typed tree of settings: defaults < TAKEOFF_* variables < flags.

Each option is written once, here, with its bounds and its trade-off; the command line and the
reference page are made from it. A TAKEOFF_ variable that no option has is an error that names
the nearest one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from takeoff.errors import SettingsError

ENV_PREFIX = "TAKEOFF_"
DEFAULT_PORT = 8000


class Settings(BaseModel):
    """Everything `takeoff serve` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "smollm2", min_length=1, description="Catalogue name, hf:org/repo[:file], URL or path of a GGUF file"
    )
    home: Path = Field(Path("~/.cache/takeoff"), description="Folder of the model store")

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; loopback unless told otherwise"
    )
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port of the front door; 0 takes a free one")
    api_key: str | None = Field(
        None, min_length=1, max_length=1024, description="Key that every route asks for"
    )
    insecure: bool = Field(False, description="Allow a non-loopback address without a key")
    allowed_host: tuple[str, ...] = Field((), description="Host names to answer to besides the loopback ones")

    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads that decode; default: the machine's physical cores"
    )
    threads_prefill: int | None = Field(
        None, ge=1, le=1024, description="Threads that prefill; default: as many as decode"
    )
    max_slots: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Sequences decoded together; more: throughput and ITL up; default: 16 if they fit",
    )
    context: int | None = Field(
        None, ge=64, le=10_000_000, description="Tokens one sequence can hold, prompt and completion"
    )
    memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="Memory the server may plan with; default: what is free"
    )
    batch: int = Field(2048, ge=32, le=65536, description="Most tokens of one call to the kernels")
    ubatch: int = Field(
        512, ge=32, le=65536, description="Most tokens computed at once inside a call; costs compute buffer"
    )
    gpu_layers: int | Literal["auto"] = Field(
        "auto", description="Layers to put on the GPU, or 'auto': as many as fit"
    )
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="Fused attention kernel; 'auto' is on unless deterministic"
    )
    deterministic: bool = Field(
        False, description="Same request, same bytes, whatever runs beside it; decodes slower"
    )
    prefix_cache_mb: int = Field(
        512, ge=0, le=1_000_000, description="RAM for snapshots of prompt prefixes; 0 turns reuse off"
    )
    itl_slo_ms: float | None = Field(
        None,
        ge=1,
        le=60_000,
        description="Longest gap that a prefill may cause in a running stream; default: 3 decode steps",
    )

    chat_template: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Wrap `text` as a user's message; 'auto': if the model has a template, the text none",
    )
    stop_at_roles: bool = Field(
        False, description="End a v1 completion at a token 'User' or 'Assistant', as the first Takeoff did"
    )

    max_queued_tokens: int = Field(
        200_000, ge=1, le=1_000_000_000, description="Prompt tokens that may wait; beyond: 429"
    )
    max_requests: int = Field(
        1_024, ge=1, le=65_536, description="Requests that may be open, waiting or running; beyond: 429"
    )
    max_body_bytes: int = Field(2_097_152, ge=1_024, le=1_073_741_824, description="Largest request body")
    max_header_bytes: int = Field(32_768, ge=1_024, le=1_048_576, description="Largest header block")
    header_timeout_s: float = Field(10.0, gt=0, le=600, description="Time to send the header block")
    body_timeout_s: float = Field(30.0, gt=0, le=3_600, description="Time to send the body")
    max_connections: int = Field(1_024, ge=1, le=65_536, description="Open client connections")
    prepare_timeout_s: float = Field(
        10.0, gt=0, le=600, description="Time the preparer has for one prompt before it is restarted"
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=3_600, description="Time that running streams have to finish at shutdown"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line to write"
    )

    @property
    def store(self) -> Path:
        return self.home.expanduser()


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from TAKEOFF_* variables and flags; a flag of None was not given.

    Raises:
        SettingsError: a value out of range, or a TAKEOFF_ name that no option has.
    """
    values: dict[str, Any] = dict(_from_environment(os.environ if environ is None else environ))
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return Settings(**values)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(
            f"{name}: {first['msg']}" + ("" if name == "api_key" else f", got {first.get('input')!r}"),
            param=name,
            hint=f"set --{name.replace('_', '-')} or {ENV_PREFIX}{name.upper()}",
        ) from exc


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {ENV_PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = known.get(variable)
        if name is None:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{variable} is not a setting", param=variable, hint=f"did you mean {near}?")
        if text == "":
            continue
        values[name] = tuple(part for part in text.split(",") if part) if name == "allowed_host" else text
    return values
