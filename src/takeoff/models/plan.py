"""The memory plan: slots, context and buffers, decided and checked before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from takeoff.errors import PlanError, SettingsError
from takeoff.models.gguf import GgufFile
from takeoff.models.lora import LoraFile
from takeoff.models.machine import Machine
from takeoff.models.projector import ProjectorFile
from takeoff.settings import ReaderSettings

DEFAULT_SLOTS = 16
DEFAULT_CONTEXT = 4_096
LEAST_CONTEXT = 2_048  # by default slots are given up before context falls below this
KV_ELEMENT_BYTES = 2  # f16
CONTEXT_STEP = 256  # llama.cpp pads the context of a sequence to this (llama-context.cpp, GGML_PAD)
PROCESS_BYTES = 220 << 20  # three Python processes with their libraries, measured
IMAGE_BYTES = 256 << 20  # beside a projector: the pixels of open images, the vectors of the last ones
DEFAULT_SHARE = 0.5  # of the memory there is, that a plan takes when nobody said how much

# Every n-th layer of these looks at the whole context, the others slide.
_FULL_LAYER_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine will be told, and what it will take. Sizes in bytes."""

    n_slots: int
    n_ctx_slot: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_prefill: int
    n_gpu_layers: int
    flash_attention: bool
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    cache_bytes: int
    process_bytes: int
    available_bytes: int
    lora_bytes: int = 0
    projector_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        weights_bytes = self.weights_bytes + self.lora_bytes + self.projector_bytes
        return weights_bytes + self.kv_bytes + self.compute_bytes + self.cache_bytes + self.process_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    def lines(self) -> list[str]:
        """The plan, a line for each part."""
        loras = [f"adapters       {megabytes(self.lora_bytes)}"] if self.lora_bytes else []
        projector = [f"images         {megabytes(self.projector_bytes)}"] if self.projector_bytes else []
        return [
            f"weights        {megabytes(self.weights_bytes)}",
            *loras,
            *projector,
            f"KV cache       {megabytes(self.kv_bytes)}   {self.n_slots} slots of {self.n_ctx_slot} tokens",
            f"buffers        {megabytes(self.compute_bytes)}",
            f"prefix cache   {megabytes(self.cache_bytes)}   at most",
            f"processes      {megabytes(self.process_bytes)}",
            together(self.total_bytes, self.available_bytes),
        ]


def plannable_bytes(settings: ReaderSettings, machine: Machine) -> int:
    """Memory to plan with: what the user said, else what is free."""
    if settings.memory_gb is not None:
        return int(settings.memory_gb * 1e9)
    return machine.memory_available_bytes


def check_context(settings: ReaderSettings, most: int) -> None:
    """Raise PlanError for a context longer than the model's."""
    if settings.context is not None and settings.context > most:
        raise PlanError(
            f"--context {settings.context} is more than the {most} tokens of this model",
            hint=f"--context {most}",
        )


def megabytes(num_bytes: int) -> str:
    """For a column of a plan."""
    return f"{num_bytes / 1e6:8,.0f} MB"


def together(total_bytes: int, available_bytes: int) -> str:
    """The last line of a plan."""
    return f"together       {megabytes(total_bytes)}   of {megabytes(available_bytes).strip()} there are"


def make_plan(
    model: GgufFile,
    settings: ReaderSettings,
    machine: Machine,
    *,
    loras: Sequence[LoraFile] = (),
    projector: ProjectorFile | None = None,
) -> Plan:
    """Decide slots and context, honouring what was asked for.

    Raises:
        PlanError: it does not fit; the hint names settings that would.
        SettingsError: settings that contradict each other or this machine.
    """
    available = plannable_bytes(settings, machine)
    check_context(settings, model.context_length)
    slots = settings.max_slots or DEFAULT_SLOTS
    context = _padded(min(settings.context or DEFAULT_CONTEXT, max(model.context_length, 64)))
    plan = replace(
        _plan(model, settings, machine, slots, context, available),
        lora_bytes=sum(lora.num_bytes for lora in loras),
        projector_bytes=_projector_bytes(projector),
    )
    limit = available if settings.memory_gb is not None else int(available * DEFAULT_SHARE)
    smaller = _shrink(plan, model, settings, machine, limit)
    if smaller.fits:
        return smaller
    raise _refusal(plan, model, settings, machine)


def _shrink(plan: Plan, model: GgufFile, settings: ReaderSettings, machine: Machine, limit: int) -> Plan:
    """The largest plan within `limit` that changes nothing the user named: first context, then slots."""
    while plan.total_bytes > limit:
        if settings.context is None and plan.n_ctx_slot > LEAST_CONTEXT:
            context, slots = _padded(plan.n_ctx_slot // 2), plan.n_slots
        elif settings.max_slots is None and plan.n_slots > 1:
            context, slots = plan.n_ctx_slot, plan.n_slots // 2
        else:
            return plan
        plan = replace(
            _plan(model, settings, machine, slots, context, plan.available_bytes),
            lora_bytes=plan.lora_bytes,
            projector_bytes=plan.projector_bytes,
        )
    return plan


def _refusal(plan: Plan, model: GgufFile, settings: ReaderSettings, machine: Machine) -> PlanError:
    """All the numbers, and the largest setting that fits, tried."""
    free = settings.model_copy(update={"max_slots": None, "context": None, "prefix_cache_mb": 0})
    smallest = _shrink(replace(plan, cache_bytes=0), model, free, machine, plan.available_bytes)
    hint = "no setting fits: choose a smaller model (takeoff models --available)"
    if smallest.fits:
        hint = f"--max-slots {smallest.n_slots} --context {smallest.n_ctx_slot} --prefix-cache-mb 0 would fit"
    needed, weights, kv, there = (
        megabytes(size).strip()
        for size in (plan.total_bytes, plan.weights_bytes, plan.kv_bytes, plan.available_bytes)
    )
    return PlanError(
        f"{model.name} with {plan.n_slots} slots of {plan.n_ctx_slot} tokens needs {needed} "
        f"(weights {weights}, KV cache {kv}), and there are {there}",
        hint=hint,
    )


def _plan(
    model: GgufFile,
    settings: ReaderSettings,
    machine: Machine,
    slots: int,
    context: int,
    available: int,
) -> Plan:
    if settings.deterministic and settings.flash_attention == "on":
        raise SettingsError("--deterministic needs --flash-attention off", param="flash_attention")
    flash_attention = settings.flash_attention != "off" and not settings.deterministic
    threads = settings.threads or machine.cores
    ubatch = min(settings.ubatch, settings.batch)
    return Plan(
        n_slots=slots,
        n_ctx_slot=context,
        n_batch=max(settings.batch, 2 * slots),
        n_ubatch=ubatch,
        n_threads=threads,
        n_threads_prefill=settings.threads_prefill or threads,
        n_gpu_layers=gpu_layers(model, settings, machine),
        flash_attention=flash_attention,
        weights_bytes=model.tensor_bytes + model.repacked_bytes,
        kv_bytes=_kv_bytes(model, slots, context, ubatch),
        compute_bytes=_compute_bytes(model, slots, context, ubatch, flash_attention=flash_attention),
        cache_bytes=settings.prefix_cache_mb << 20,
        process_bytes=PROCESS_BYTES,
        available_bytes=available,
    )


def gpu_layers(model: GgufFile, settings: ReaderSettings, machine: Machine) -> int:
    """Layers to put on the GPU: as many as fit into what is free on it, or as many as were asked for.

    Raises:
        PlanError: a GPU or layers on it were asked for and there is none.
    """
    if settings.device == "cpu":
        return 0
    if machine.gpu_free_bytes is None:
        if settings.device == "cuda":
            raise PlanError("device cuda: no GPU was found", hint="device auto or cpu")
        if settings.gpu_layers not in ("auto", 0):
            raise PlanError(
                f"--gpu-layers {settings.gpu_layers}: no GPU was found", hint="--gpu-layers auto or 0"
            )
        return 0
    if settings.gpu_layers != "auto":
        return settings.gpu_layers
    per_layer = model.tensor_bytes // (model.n_layers + 1)
    return max(0, min(model.n_layers + 1, int(machine.gpu_free_bytes * DEFAULT_SHARE) // max(1, per_layer)))


def _projector_bytes(projector: ProjectorFile | None) -> int:
    """Its weights and buffers, the vectors that are kept, and one image on its way."""
    if projector is None:
        return 0
    return projector.num_bytes + projector.compute_bytes + IMAGE_BYTES


def _kv_bytes(model: GgufFile, slots: int, context: int, ubatch: int) -> int:
    """Sliding layers keep their window and one micro-batch (llama-kv-cache-iswa.cpp)."""
    per_cell = model.n_kv_heads * (model.key_length + model.value_length) * KV_ELEMENT_BYTES
    every = _FULL_LAYER_EVERY.get(model.architecture)
    full = model.n_layers if every is None or not model.sliding_window else model.n_layers // every
    window = min(context, _padded(model.sliding_window + ubatch))
    return slots * per_cell * (full * context + (model.n_layers - full) * window)


def _compute_bytes(model: GgufFile, slots: int, context: int, ubatch: int, *, flash_attention: bool) -> int:
    """Activations of a micro-batch, attention masks and logits, twice (compute and output buffer)."""
    activations = 4 * ubatch * (4 * model.n_embd + 2 * model.n_ff)
    masks = 2 * context * ubatch
    logits = 4 * slots * model.n_vocab
    scores = 0 if flash_attention else 4 * model.n_heads * context * ubatch
    return activations + masks + scores + 2 * logits


def _padded(tokens: int) -> int:
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
