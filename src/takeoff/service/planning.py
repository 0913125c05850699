"""From a model and a reader's settings to its launch: plan its memory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from takeoff.errors import ModelError
from takeoff.ipc.messages import Load, LoadEncoder, Lora, SlotClass
from takeoff.models.encoder import EncoderModel, read_encoder
from takeoff.models.encoder_plan import EncoderPlan, make_encoder_plan
from takeoff.models.gguf import GgufFile, read_gguf
from takeoff.models.lora import read_lora
from takeoff.models.machine import Machine
from takeoff.models.plan import Plan, make_plan
from takeoff.models.projector import read_projector
from takeoff.models.stored import StoredModel
from takeoff.request import Task
from takeoff.service.launch import Launch
from takeoff.settings import ReaderSettings


@dataclass(frozen=True, slots=True)
class Planned:
    """A launch, and the plan behind it for people to read."""

    launch: Launch
    plan: Plan | EncoderPlan


def plan_reader(model: StoredModel, settings: ReaderSettings, machine: Machine) -> Planned:
    """Plan a reader of a model that is on this machine.

    Raises:
        ModelError: the model is damaged, or not of a kind we can run; or an adapter is, or does not fit.
        PlanError, SettingsError: see `make_plan` and `make_encoder_plan`.
    """
    if model.path.is_dir():
        return _plan_encoder(model, read_encoder(model.path), settings, machine)
    gguf = read_gguf(model.path)
    if gguf.task is not Task.GENERATE:
        return _plan_encoder(model, gguf, settings, machine)
    return _plan_generator(model, gguf, settings, machine)


def _plan_encoder(
    model: StoredModel, facts: EncoderModel | GgufFile, settings: ReaderSettings, machine: Machine
) -> Planned:
    if settings.loras:
        raise ModelError(f"{model.name} does not generate text: it takes no adapters", hint="leave loras out")
    if settings.mmproj is not None:
        raise ModelError(f"{model.name} does not generate text: it reads no images", hint="leave mmproj out")
    plan = make_encoder_plan(facts, settings, machine)
    load = LoadEncoder(
        model_path=str(model.path),
        task=facts.task,
        n_threads=plan.n_threads,
        max_batch_size=plan.max_batch_size,
        batch_duration_s=settings.batch_duration_millis / 1e3,
        max_tokens=plan.max_tokens,
    )
    config = _config(facts) if isinstance(facts, GgufFile) else json.loads(facts.config_path.read_bytes())
    return Planned(Launch(model.name, model.path, facts.task, load, config, plan.total_bytes), plan)


def _plan_generator(
    model: StoredModel, gguf: GgufFile, settings: ReaderSettings, machine: Machine
) -> Planned:
    loras = {name: read_lora(Path(path).expanduser(), gguf) for name, path in settings.loras.items()}
    projector = None if settings.mmproj is None else read_projector(settings.mmproj.expanduser(), gguf)
    plan = make_plan(gguf, settings, machine, loras=list(loras.values()), projector=projector)
    load = Load(
        model_path=str(model.path),
        n_slots=sum(slots.num_slots for slots in plan.slots),
        n_ctx_slot=plan.n_ctx_slot,
        n_batch=plan.n_batch,
        n_ubatch=plan.n_ubatch,
        n_threads=plan.n_threads,
        n_threads_prefill=plan.n_threads_prefill,
        n_gpu_layers=plan.n_gpu_layers,
        flash_attention=plan.flash_attention,
        kv_type=plan.kv_type,
        deterministic=settings.deterministic,
        cache_bytes=plan.cache_bytes,
        disk_cache_bytes=settings.prefix_cache_disk_mb << 20,
        itl_slo_ms=settings.itl_slo_ms,
        loras=[Lora(name, str(lora.path)) for name, lora in loras.items()],
        projector_path=None if projector is None else str(projector.path),
        slot_classes=[SlotClass(*slots) for slots in plan.slots],
        parking_bytes=plan.parking_bytes,
        speculation=plan.speculation,
        n_outputs=plan.n_outputs,
        has_standby=plan.standby_bytes > 0,
    )
    config = _config(gguf)
    return Planned(Launch(model.name, model.path, Task.GENERATE, load, config, plan.total_bytes), plan)


def _config(gguf: GgufFile) -> dict[str, Any]:
    """A GGUF file's facts under the names of a config.json, then its own metadata."""
    return {
        "model_type": gguf.architecture,
        "hidden_size": gguf.n_embd,
        "intermediate_size": gguf.n_ff,
        "num_hidden_layers": gguf.n_layers,
        "num_attention_heads": gguf.n_heads,
        "num_key_value_heads": gguf.n_kv_heads,
        "max_position_embeddings": gguf.context_length,
        "vocab_size": gguf.n_vocab,
        "quantization": gguf.quantisation,
        "gguf": {name: _in_json(value) for name, value in gguf.metadata.items() if value is not None},
    }


def _in_json(value: Any) -> Any:
    """What JSON has no number for, as text."""
    if isinstance(value, list):
        return [_in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
