"""What a reader is planned with: its settings as they were named, and beside them what its profile says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from takeoff.errors import StartError, TakeoffError
from takeoff.models.gguf import read_gguf
from takeoff.models.machine import Machine
from takeoff.models.optimize.automatic import (
    GOAL,
    MAX_FILE_BYTES,
    fast_types,
    faster_format,
    make_automatic_profile,
)
from takeoff.models.own_kernels import own_types
from takeoff.models.profile import (
    PROFILE_FILE,
    Fingerprint,
    Profile,
    find_profile,
    read_fingerprint,
    read_profile,
)
from takeoff.models.progress import Progress
from takeoff.models.requantise import most_bytes
from takeoff.models.store import StoredModel
from takeoff.models.variants import model_place
from takeoff.request import Task
from takeoff.service.launch import Spare
from takeoff.service.planning import Planned, plan_reader
from takeoff.settings import ReaderSettings

# Types whose kernels give the same bits whatever is computed beside, measured; see engine/invariance.py.
INVARIANT_TYPES = frozenset({"F32", "Q8_0", "Q4_1", "IQ4_NL"})


@dataclass(frozen=True, slots=True)
class ProfiledPlan:
    """A planned reader, and the model it will serve: the one that was named, or a variant of it."""

    model: StoredModel
    planned: Planned


def plan_profiled(
    model: StoredModel,
    settings: ReaderSettings,
    machine: Machine,
    home: Path,
    note: Callable[[str], None],
    making: Progress | None = None,
) -> ProfiledPlan:
    """Plan a reader by the model's profile, where there is one that counts and nobody said otherwise.

    Args:
        model: as the store or a path has it.
        settings: those that were named win over the profile.
        machine: to plan with.
        home: the store's folder.
        note: told in a line what profile is used, or why one is not.
        making: watches the making of a profile where there is none; None: none is made.

    Raises:
        ModelError, PlanError, SettingsError: see `plan_reader`; of the model itself, not of its variant.
    """
    if not _may_profile(model, settings, machine):
        return ProfiledPlan(model, plan_reader(model, settings, machine))
    fingerprint = read_fingerprint(machine)
    profiled = find_profile(model, home, fingerprint, note)
    if (
        profiled is None
        and making is not None
        and _make(model, settings, machine, home, fingerprint, note, making)
    ):
        profiled = find_profile(model, home, fingerprint, note)
    if profiled is None or profiled.profile.is_plain:
        return ProfiledPlan(model, plan_reader(model, settings, machine))
    profile = profiled.profile
    try:
        if settings.deterministic and profile.weights is not None:
            _check_invariant(profiled.model)
        planned = plan_reader(profiled.model, _with(profile, settings), machine)
        if profile.weights is not None:
            planned = _with_spare(planned, model, _with(profile, settings), machine)
    except StartError as exc:
        note(f"the profile of {model.name} is not used: {exc.message}")
        return ProfiledPlan(model, plan_reader(model, settings, machine))
    note(f"{model.name} runs as its profile says: {profile.sentence}; --no-optimize does without")
    return ProfiledPlan(profiled.model, planned)


def _may_profile(model: StoredModel, settings: ReaderSettings, machine: Machine) -> bool:
    """Profiles are of models that generate on this processor: a GPU has other kernels."""
    is_on_gpu = machine.gpu_free_bytes is not None and settings.device != "cpu" and settings.gpu_layers != 0
    is_generating = model.format == "gguf" and model.task is Task.GENERATE
    return settings.optimize and is_generating and not is_on_gpu


def _with(profile: Profile, settings: ReaderSettings) -> ReaderSettings:
    """The settings, and what the profile says of those that nobody named and that agree with the named."""
    named = set(settings.model_fields_set)
    if "threads" in named:
        named.add("threads_prefill")  # whoever names the one means both, as without a profile
    if settings.deterministic or settings.flash_attention == "off":
        named |= {"flash_attention", "kv_type"}  # a quantised cache needs flash attention
    unnamed = {name: value for name, value in profile.settings.items() if name not in named}
    return settings.model_copy(update=unnamed)


def _with_spare(planned: Planned, source: StoredModel, settings: ReaderSettings, machine: Machine) -> Planned:
    """A planned variant with its source to go on with, unless that does not fit into this machine."""
    try:
        spare = plan_reader(source, settings, machine).launch
    except StartError:
        return planned
    launch = planned.launch
    return replace(planned, launch=replace(launch, spare=Spare.of(spare, launch.model_path)))


def _check_invariant(variant: StoredModel) -> None:
    types = {each.type_name for each in read_gguf(variant.path).tensors} - INVARIANT_TYPES
    if types:
        raise StartError(f"--deterministic can't run its weights in {', '.join(sorted(types))}")


def _make(
    model: StoredModel,
    settings: ReaderSettings,
    machine: Machine,
    home: Path,
    fingerprint: Fingerprint,
    note: Callable[[str], None],
    progress: Progress,
) -> bool:
    """Make the profile that costs a few seconds, for a model of the store; whether there is one now.

    `note` is told why one that could gain something was not made.
    """
    if model.sha256 is None or not _is_free(model_place(model, home) / PROFILE_FILE):
        return False
    gguf = read_gguf(model.path)
    features = frozenset(fingerprint.cpu_features)
    recipe = faster_format(gguf, fast_types(features, fingerprint.processor, own_types(features)))
    if recipe is None:
        return False
    if model.file_bytes > MAX_FILE_BYTES:
        note(f"`takeoff optimize {model.name}` may find a faster format than {model.quantisation}")
        return False
    plan = plan_reader(model, settings, machine).plan
    more_bytes = most_bytes(gguf, recipe) - model.file_bytes
    if plan.total_bytes + more_bytes > plan.available_bytes:
        note(
            f"{model.name} stays in {model.quantisation}: {recipe.name} needs {more_bytes / 1e6:,.0f} MB more"
        )
        return False
    threads = settings.threads or machine.cores
    try:
        profile = make_automatic_profile(model, recipe, home, fingerprint, threads, progress)
    except TakeoffError as exc:
        note(f"{model.name} stays in {model.quantisation}: {exc.message}")
        return False
    if profile.is_plain:
        note(f"{model.name} stays in {model.quantisation}: {profile.sentence}")
    return True


def _is_free(path: Path) -> bool:
    """Whether a profile may be written there: `takeoff optimize` keeps what it found, for its machine."""
    if not path.exists():
        return True
    try:
        return read_profile(path).goal == GOAL
    except StartError:
        return True
