"""What is known of how a model runs fastest on this machine; `serve` goes by it.

    <place>/profile.json     beside the model's variants: see `models.variants.model_place`

A profile counts only for the weights, the machine and the engine build that it was measured with.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from takeoff.errors import ModelError
from takeoff.models import disk
from takeoff.models.cpu_features import STAMP_NAME, find_build, read_cpu_features
from takeoff.models.machine import Machine
from takeoff.models.own_kernels import own_build
from takeoff.models.stored import StoredModel
from takeoff.models.variants import (
    discard_variants,
    find_variant,
    model_place,
    source_key,
    variant_model,
)
from takeoff.settings.fields import KvType

PROFILE_FILE = "profile.json"
_MAX_PROFILE_BYTES = 256 * 1024

Threads = Annotated[int, msgspec.Meta(ge=1, le=1024)]
BatchTokens = Annotated[int, msgspec.Meta(ge=32, le=65_536)]


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine and the engine build that a profile is true of."""

    processor: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_gib: int
    engine_build: str


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens/s of so many streams together, with the defaults and with the profile."""

    streams: int
    before: float
    after: float


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured. Quality is that of the profile's weights against the source's."""

    speeds: tuple[Speed, ...] = ()
    prefill: tuple[float, float] | None = None  # tokens/s, before and after
    memory_bytes: tuple[int, int] | None = None  # of the weights, before and after
    kl: float | None = None  # mean divergence of the next token's distribution, in nats
    perplexity_ratio: float | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that a model runs best with, and why. None: the setting's own default."""

    source: str  # `source_key` of the model
    fingerprint: Fingerprint
    goal: str
    sentence: str  # for people: what was gained, and what it costs
    weights: str | None = None  # file name of the variant to serve; None: the model's own file
    weights_sha256: str | None = None
    threads: Threads | None = None
    threads_prefill: Threads | None = None
    batch: BatchTokens | None = None
    ubatch: BatchTokens | None = None
    flash_attention: Literal["on", "off"] | None = None
    kv_type: KvType | None = None
    figures: Figures = Figures()
    made_at: str = ""  # ISO 8601, UTC

    @property
    def is_plain(self) -> bool:
        """It says nothing but that the defaults are best."""
        return self.weights is None and not self.settings

    @property
    def settings(self) -> dict[str, Any]:
        """Values of reader settings, by their names."""
        values = {name: getattr(self, name) for name in PROFILED}
        return {name: value for name, value in values.items() if value is not None}


PROFILED = ("threads", "threads_prefill", "batch", "ubatch", "flash_attention", "kv_type")


@dataclass(frozen=True, slots=True)
class Profiled:
    """A profile that counts here, and the model that it says to serve."""

    profile: Profile
    model: StoredModel


def read_fingerprint(machine: Machine) -> Fingerprint:
    """What a profile made now is true of."""
    return Fingerprint(
        processor=platform.machine(),
        cpu_features=tuple(sorted(read_cpu_features())),
        cores=machine.cores,
        memory_gib=round(machine.memory_total_bytes / 2**30),
        engine_build=engine_build(),
    )


def engine_build() -> str:
    """The kernels' version and what they were compiled for, as far as it is recorded."""
    try:
        name = f"llama-cpp-python {version('llama-cpp-python')}"
    except PackageNotFoundError:
        return "none"
    words = [name]
    if (own := own_build()) is not None:
        words.append(f"own kernels {own}")
    folder = find_build()
    stamp = folder / STAMP_NAME if folder is not None else None
    if stamp is not None and stamp.is_file():
        words += stamp.read_text(errors="replace").split()
    return " ".join(words)


def save_profile(model: StoredModel, home: Path, profile: Profile) -> None:
    """Keep a profile beside its model, in place of the one that is there.

    Raises:
        PullError: the folder can't be written.
    """
    place = model_place(model, home)
    stamped = msgspec.structs.replace(profile, made_at=datetime.now(UTC).isoformat(timespec="seconds"))
    with disk.disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        data = msgspec.json.format(msgspec.json.encode(stamped), indent=2)
        disk.write_whole(place / PROFILE_FILE, data + b"\n")


def find_profile(
    model: StoredModel, home: Path, fingerprint: Fingerprint, note: Callable[[str], None]
) -> Profiled | None:
    """The profile of a model, if there is one that counts here; `note` is told why one does not."""
    path = model_place(model, home) / PROFILE_FILE
    if not path.exists():
        return None
    try:
        profile = read_profile(path)
        _check_counts(profile, model, fingerprint)
        return Profiled(profile, _weights(profile, model, home))
    except ModelError as exc:
        note(f"the profile of {model.name} is not used: {exc.message}")
        return None


def read_profile(path: Path) -> Profile:
    """Raises ModelError: the file is not one that we wrote."""
    with disk.model_file(path) as file:
        data = file.read(_MAX_PROFILE_BYTES + 1)
    try:
        return msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"it is damaged ({exc})") from exc


def profiled_file(model: StoredModel, home: Path) -> str | None:
    """The file name of the variant that a model's profile names, whether it counts here or not."""
    path = model_place(model, home) / PROFILE_FILE
    try:
        return read_profile(path).weights if path.exists() else None
    except ModelError:
        return None


def forget_profile(model: StoredModel, home: Path) -> None:
    """Delete a model's profile and its variants; nothing there is fine."""
    place = model_place(model, home)
    disk.discard(place / PROFILE_FILE)
    discard_variants(place)


def _check_counts(profile: Profile, model: StoredModel, here: Fingerprint) -> None:
    if profile.source != source_key(model):
        raise ModelError("it was made for other weights of that name")
    there = profile.fingerprint
    if there == here:
        return
    if there.engine_build != here.engine_build:
        raise ModelError("it was made with another build of the engine")
    if (there.processor, there.cpu_features) != (here.processor, here.cpu_features):
        raise ModelError("it was made on another processor")
    raise ModelError(
        f"it was made with {there.cores} cores and {there.memory_gib} GiB, "
        f"and here are {here.cores} and {here.memory_gib}"
    )


def _weights(profile: Profile, model: StoredModel, home: Path) -> StoredModel:
    if profile.weights is None:
        return model
    variant = find_variant(model, home, profile.weights)
    if variant is None or variant.sha256 != profile.weights_sha256:
        raise ModelError(f"its weights, {profile.weights}, are gone or others")
    return variant_model(model, home, variant)
