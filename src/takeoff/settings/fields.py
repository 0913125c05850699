"""Every option, once, with its bounds and its trade-off.

The command line, the variables, the manifest's keys and the reference page are made from it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from takeoff.settings.names import U64
from takeoff.settings.values import (
    DEFAULT_GROUP,
    Adapters,
    Context,
    DoorPort,
    FilePath,
    Folders,
    Group,
    Level,
    Log,
    Names,
    NeverTrue,
    Port,
    Printable,
)

DEFAULT_PORT = 8000
KvType = Literal["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]  # that the CPU backend has

SECRETS = frozenset({"api_key", "access_token"})  # never shown, never dumped


class ReaderSettings(BaseModel):
    """Everything one reader can be told: a model, the group it serves, and how it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: Printable = Field(
        "smollm2",
        min_length=1,
        max_length=4_096,
        description="Catalogue name, hf:org/repo[:file], URL or path of a GGUF file",
    )
    consumer_group: Group = Field(
        DEFAULT_GROUP, min_length=1, max_length=128, description="Group of requests that the model serves"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model runs; 'cuda' fails where there is no GPU, 'auto' does not"
    )
    loras: Adapters = Field({}, description="LoRA adapters to load with the model, as name=path,name=path")
    mmproj: FilePath | None = Field(
        None, description="GGUF projector (mmproj) of a vision model: with it the model reads images"
    )
    access_token: str | None = Field(
        None,
        min_length=1,
        max_length=1_024,
        repr=False,
        exclude=True,
        description="Token of the model hub, for models that ask for one",
    )

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
    long_slots: int | None = Field(
        None,
        ge=0,
        le=256,
        description="Of the slots that hold the whole `context` so many, beside `max_slots` short ones; "
        "0: all slots hold it; default: by the memory there is",
    )
    context: Context = Field(
        None,
        ge=64,
        le=10_000_000,
        description="Tokens one sequence can hold, prompt and completion; default or 0: the model's, "
        "if they fit",
    )
    memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="Memory a reader may plan with; default: what is free"
    )
    on_demand: bool = Field(
        False,
        description="Load the model when a request for it comes, and unload it when another needs the "
        "memory; off: it is loaded at the start and stays",
    )
    keep_alive_s: float | None = Field(
        None,
        gt=0,
        le=31_536_000,
        description="Unload a model of `on_demand` that nobody has asked for so long; default: only when "
        "another needs its memory",
    )
    batch: int = Field(2048, ge=32, le=65536, description="Most tokens of one call to the kernels")
    ubatch: int = Field(
        512, ge=32, le=65536, description="Most tokens computed at once inside a call; costs compute buffer"
    )
    gpu_layers: int | Literal["auto"] = Field(
        "auto", description="Layers to put on the GPU, or 'auto': as many as fit"
    )
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="Fused attention kernel; deterministic mode goes without it where it must"
    )
    kv_type: KvType = Field(
        "f16", description="Type of the KV cache; smaller ones need flash attention and cost some quality"
    )
    optimize: bool = Field(
        True,
        description="Run the model as its profile says, or make a faster format of it if it has none",
    )
    deterministic: bool = Field(
        False, description="Same request, same bytes, whatever runs beside it; decodes slower"
    )
    standby: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Have a second engine process wait, without memory for sequences, to take over when the "
        "engine dies; 'auto': where the memory plan has room, not on a GPU, and not with on_demand",
    )
    speculation: Literal["auto", "off"] = Field(
        "auto",
        description="Compute ahead what repeats the prompt or must come, where that is measured to be faster",
    )
    prefix_cache_mb: int = Field(
        512, ge=0, le=1_000_000, description="RAM for snapshots of prompt prefixes; 0 turns reuse off"
    )
    prefix_cache_disk_mb: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Disk for prompt prefixes, kept over restarts below the store; 0 keeps none, "
        "because whoever can read the user's files can read prompts from them",
    )
    itl_slo_ms: float | None = Field(
        None,
        ge=1,
        le=60_000,
        description="Longest gap that a prefill may cause in a running stream; default: 3 decode steps",
    )
    batch_duration_millis: int = Field(
        10, ge=0, le=60_000, description="Time an encoder waits for more texts to compute together"
    )

    chat_template: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Wrap `text` as a user's message; 'auto': if the model has a template, the text none",
    )
    constrained_decoding_backend: Literal["all", "lmfe", "outlines", "none"] = Field(
        "all", description="'none' refuses regex_string and json_schema; the others all mean our own backend"
    )
    log_level: Level = Field("info", description="Least severe log line to write")

    @model_validator(mode="after")
    def _device_and_layers_agree(self) -> Self:
        if self.device == "cpu" and self.gpu_layers not in ("auto", 0):
            raise ValueError(f"device is cpu, but gpu_layers is {self.gpu_layers}")
        return self

    @model_validator(mode="after")
    def _only_the_unloaded_are_loaded_again(self) -> Self:
        if self.keep_alive_s is not None and not self.on_demand:
            raise ValueError("keep_alive_s needs on_demand: others are not loaded again")
        return self

    @model_validator(mode="after")
    def _disk_is_below_ram(self) -> Self:
        if self.prefix_cache_disk_mb and not self.prefix_cache_mb:
            raise ValueError("prefix_cache_disk_mb needs prefix_cache_mb: prefixes are read into RAM")
        return self

    @property
    def public_model(self) -> str:
        """`model`, of a URL without its query, which may be a secret."""
        return self.model.partition("?")[0]


class Settings(ReaderSettings):
    """Everything `takeoff serve` can be told."""

    manifest: FilePath | None = Field(
        None, description="YAML file of settings and readers; default: /code/config.yaml if there is one"
    )
    home: FilePath = Field(Path("~/.cache/takeoff"), description="Folder of the model store")
    repository_path: Folders = Field(
        (), description="Folders, besides the store, whose models POST /reader may load"
    )

    memory_limit_gb: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Memory that all readers may plan with together; a reader beyond it is refused, or "
        "others of `on_demand` are unloaded for it; default: what is free at the start",
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; loopback unless told otherwise"
    )
    port: Port = Field(DEFAULT_PORT, description="Port of the front door; 0 takes a free one")
    takeoff_port: DoorPort = Field(
        3000, description="Port of the Takeoff API; 0 takes a free one, 'off' leaves the door out"
    )
    management_port: DoorPort = Field(
        3001, description="Port of the management API; 0 takes a free one, 'off' leaves the door out"
    )
    openai_port: DoorPort = Field(
        3003, description="Port of the OpenAI API alone; 0 takes a free one, 'off' leaves the door out"
    )
    api_key: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        repr=False,
        exclude=True,
        description="Key that opens every route",
    )
    keys_file: FilePath | None = Field(
        None,
        description="File of keys that `takeoff keys` makes; default: keys.json in `home`, if there is one",
    )
    tls_cert: FilePath | None = Field(
        None,
        description="PEM file of a certificate, with those of its issuers: the doors speak HTTPS with it",
    )
    tls_key: FilePath | None = Field(None, description="PEM file of the certificate's key, not encrypted")
    make_key: bool = Field(False, description="Make a key at each start and print it, if none is given")
    insecure: bool = Field(False, description="Allow a non-loopback address without a key")
    allowed_host: Names = Field((), description="Host names to answer to besides the loopback ones")
    sandbox: Literal["auto", "require", "off"] = Field(
        "auto",
        description="Confine readers' processes by the kernel's means: 'auto' takes what there is, 'require' "
        "starts with all of it only; trials of `optimize` always take what there is",
    )

    reserved_consumers: Names = Field(
        (), description="Groups whose requests wait while no reader serves them; others get a 503"
    )
    stop_at_roles: bool = Field(
        False, description="End a v1 completion at a token 'User' or 'Assistant', as the first Takeoff did"
    )
    lenient: bool = Field(
        False, description="Log unknown fields of OpenAI requests in place of refusing them"
    )
    enable_metrics: bool = Field(True, description="Answer /metrics")
    request_log: Log = Field(
        "stderr",
        description="Where each request is told of at its end, in a line of JSON: 'stderr', a file, or 'off'",
    )
    traces_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        max_length=1024,
        description="Collector that is sent a trace of each request (OpenTelemetry, OTLP over HTTP), as "
        "http://localhost:4318; needs takeoff-server[traces]",
    )
    log_prompts: bool = Field(False, description="Tell the text of prompts in these lines, too")
    log_addresses: bool = Field(True, description="Tell the addresses of clients in these lines")
    audit_log: FilePath | None = Field(
        None,
        description="File that is told who changed keys and readers, in lines of JSON; default: audit.jsonl "
        "beside the file of keys",
    )

    max_queued_tokens: int = Field(
        200_000,
        ge=1,
        le=1_000_000_000,
        description="Tokens that may wait, of prompts and the completions that they want; beyond: 429. "
        "Keys and groups with less than an even part of it still come in",
    )
    max_requests: int = Field(
        1_024,
        ge=1,
        le=65_536,
        description="Requests that may be open, waiting or running; beyond: 429. Keys and groups with less "
        "than an even part of them still come in",
    )
    max_user_batch_size: int = Field(
        1_000, ge=1, le=1_000_000, description="Texts of one request's list; more are refused"
    )
    max_prompt_string_bytes: int = Field(
        150_000, ge=1, le=1_073_741_824, description="UTF-8 bytes of one text; more are refused"
    )
    max_body_bytes: int = Field(2_097_152, ge=1_024, le=1_073_741_824, description="Largest request body")
    max_header_bytes: int = Field(32_768, ge=1_024, le=1_048_576, description="Largest header block")
    header_timeout_s: float = Field(10.0, gt=0, le=600, description="Time to send the header block")
    body_timeout_s: float = Field(30.0, gt=0, le=3_600, description="Time to send the body")
    stream_keep_alive_s: float = Field(
        15.0,
        gt=0,
        le=3_600,
        description="An event stream that has had no news for so long says so, for proxies to keep it",
    )
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3_600,
        description="A client that for so long takes less than 240 bytes a second of its answer is cut off",
    )
    resume_max_s: float = Field(
        60.0,
        ge=0,
        le=3_600,
        description="Longest time that a client may have its stream kept without a connection, by X-Resume; "
        "0: a stream always ends with its connection",
    )
    resume_kb: int = Field(
        1_024, ge=16, le=1_048_576, description="Events of such a stream that are kept to be sent again"
    )
    max_resumable: int = Field(
        64, ge=1, le=65_536, description="Such streams at a time, each of up to `resume_kb`; beyond: 429"
    )
    max_connections: int = Field(
        1_024,
        ge=1,
        le=65_536,
        description="Open client connections, at each door; beyond: the one gives way that has longest had "
        "no request in work, and where all have one a new one gets a 503",
    )
    max_connections_per_client: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Of them from one address; default: all, as a proxy in front has one address",
    )
    prepare_timeout_s: float = Field(
        10.0, gt=0, le=600, description="Time the preparer has for one prompt before it is restarted"
    )
    replay: bool = Field(
        True,
        description="Go on with the requests of an engine that died in another one; "
        "off: they end with an error, for the client to decide",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=3_600, description="Time that running streams have to finish at shutdown"
    )

    # Titan Takeoff's, kept because its management API shows them.
    echo: bool = Field(False, description="Shown by the management API; has no effect")
    heartbeat_check_interval: int = Field(
        1, ge=0, le=U64, description="Shown by the management API; has no effect"
    )
    reader_message_timeout_ms: int = Field(
        500, ge=0, le=U64, description="Shown by the management API; has no effect"
    )
    allow_remote_images: NeverTrue = Field(
        False, description="Only false: images come with the request and are never fetched"
    )

    readers: dict[str, ReaderSettings] = Field(
        {}, description="Reader id: its settings, from the manifest; none: one reader of the settings above"
    )
    without_effect: tuple[str, ...] = Field(
        (), description="Names that were given and mean nothing here, each once"
    )

    @property
    def own_readers(self) -> dict[str, ReaderSettings]:
        """Those of the manifest, or the one that the settings themselves are."""
        if self.readers:
            return self.readers
        given = self.named & ReaderSettings.model_fields.keys()
        alone = ReaderSettings(**{name: getattr(self, name) for name in given})
        return {Path(alone.public_model).stem: alone}

    @property
    def store(self) -> Path:
        return self.home.expanduser()

    @property
    def keys_path(self) -> Path:
        return self.store / "keys.json" if self.keys_file is None else self.keys_file.expanduser()

    @property
    def audit_path(self) -> Path:
        if self.audit_log is None:
            return self.keys_path.with_name("audit.jsonl")
        return self.audit_log.expanduser()

    @property
    def asks_for_keys(self) -> bool:
        """Whether a key is needed, as far as files tell now."""
        return self.api_key is not None or self.keys_file is not None or self.keys_path.exists()

    @property
    def named(self) -> frozenset[str]:
        """Fields that a manifest, a variable or a flag set, even to their default."""
        return frozenset(self.model_fields_set)

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together, and one of them is not given")
        return self

    @model_validator(mode="after")
    def _doors_differ(self) -> Self:
        """Two ports that were asked for; a default port that is taken is no error (the door is left out)."""
        doors = [door for door in DOORS if door == "port" or door in self.named]
        for one, other in itertools.combinations(doors, 2):
            port = getattr(self, one)
            if port == getattr(self, other) and port not in (0, None):
                raise ValueError(f"{one} and {other} are both {port}")
        return self


DOORS = ("port", "takeoff_port", "management_port", "openai_port")
IDENTITY = frozenset({"model", "consumer_group", "device"})  # what makes one reader another than the next
RESULTS = frozenset({"readers", "without_effect"})  # come of a manifest as a whole
SHOWN_ONLY = frozenset({"echo", "heartbeat_check_interval", "reader_message_timeout_ms"})


def has_effect(field: str, value: Any) -> bool:
    """Whether this value of a field changes anything here."""
    if field == "constrained_decoding_backend":
        return value not in ("lmfe", "outlines")
    return field not in SHOWN_ONLY or str(value).lower() == str(Settings.model_fields[field].default).lower()


def settable() -> list[str]:
    """The fields that a variable can set."""
    return [name for name in Settings.model_fields if name not in RESULTS]


def flags() -> list[str]:
    """The fields that a flag can set: those that change something."""
    return [name for name in settable() if name not in SHOWN_ONLY | {"allow_remote_images"}]
