"""The memory plan: slots, context and buffers, decided and checked before the model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from takeoff.errors import PlanError, SettingsError
from takeoff.models.gguf import GgufFile
from takeoff.models.gguf_types import TENSOR_TYPES
from takeoff.models.gpu import HOST_BYTES, OnGpu, most_that_fits, placed
from takeoff.models.lora import LoraFile
from takeoff.models.machine import Machine
from takeoff.models.projector import ProjectorFile
from takeoff.models.slot_layout import Layout, Wish, layouts, padded, roomy_layout, told
from takeoff.settings import ReaderSettings

KV_BITS = {name.lower(): 8 * size / block for name, block, size in TENSOR_TYPES.values()}  # an element
WHOLE_KV_TYPES = ("f16", "bf16")  # the others come in blocks, and need flash attention
PROCESS_BYTES = 220 << 20  # three Python processes with their libraries, measured
STANDBY_BYTES = 110 << 20  # an engine process without contexts: what it shares with no other, measured
DRAFT_OUTPUTS = 16  # tokens whose logits a call of speculation may want, with fewer slots as well
IMAGE_BYTES = 256 << 20  # beside a projector: the pixels of open images, the vectors of the last ones
DEFAULT_SHARE = 0.5  # of the memory there is, that a plan takes when nobody said how much
ROOMY_SHARE = 0.25  # up to which a plan takes more than it needs for texts of some length side by side
PARKING_SHARE = 4  # at most one part in so many of the snapshots is of sequences between their slots

# Every n-th layer of these looks at the whole context, the others slide.
_FULL_LAYER_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine will be told, and what it will take. Sizes in bytes, without what the GPU holds."""

    slots: Layout
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_prefill: int
    gpu: OnGpu | None
    flash_attention: bool
    kv_type: str
    speculation: bool
    n_outputs: int  # tokens whose logits one call may want
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    cache_bytes: int
    parking_bytes: int
    process_bytes: int
    available_bytes: int
    lora_bytes: int = 0
    projector_bytes: int = 0
    standby_bytes: int = 0  # of an engine process that waits to take over; 0: there is none

    @property
    def total_bytes(self) -> int:
        weights_bytes = self.weights_bytes + self.lora_bytes + self.projector_bytes
        snapshots_bytes = self.cache_bytes + self.parking_bytes
        return (
            weights_bytes
            + self.kv_bytes
            + self.compute_bytes
            + snapshots_bytes
            + self.process_bytes
            + self.standby_bytes
        )

    @property
    def n_gpu_layers(self) -> int:
        return 0 if self.gpu is None else self.gpu.num_layers

    @property
    def gpu_bytes(self) -> int:
        return 0 if self.gpu is None else self.gpu.total_bytes

    @property
    def n_slots(self) -> int:
        """Sequences decoded together, beside those in long slots if there are some."""
        return self.slots[0].num_slots

    @property
    def n_ctx_slot(self) -> int:
        """Tokens that one sequence can hold."""
        return self.slots[-1].context

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes and (self.gpu is None or self.gpu.fits)

    def is_within(self, limit_bytes: int, gpu_share: float) -> bool:
        """Whether it takes at most so much memory, and so much of what is free on the GPU."""
        return self.total_bytes <= limit_bytes and (
            self.gpu is None or self.gpu.total_bytes <= self.gpu.free_bytes * gpu_share
        )

    def lines(self) -> list[str]:
        """The plan, a line for each part."""
        loras = [f"adapters       {megabytes(self.lora_bytes)}"] if self.lora_bytes else []
        parking = [f"between slots  {megabytes(self.parking_bytes)}   at most"] if self.parking_bytes else []
        projector = [f"images         {megabytes(self.projector_bytes)}"] if self.projector_bytes else []
        standby = [f"standby        {megabytes(self.standby_bytes)}"] if self.standby_bytes else []
        gpu = [f"on the GPU     {megabytes(self.gpu_bytes)}   {_told_gpu(self.gpu)}"] if self.gpu else []
        return [
            f"weights        {megabytes(self.weights_bytes)}",
            *loras,
            *projector,
            f"KV cache       {megabytes(self.kv_bytes)}   {told(self.slots)}",
            f"buffers        {megabytes(self.compute_bytes)}",
            f"prefix cache   {megabytes(self.cache_bytes)}   at most",
            *parking,
            f"processes      {megabytes(self.process_bytes)}",
            *standby,
            together(self.total_bytes, self.available_bytes),
            *gpu,
        ]


def _told_gpu(gpu: OnGpu) -> str:
    return f"{gpu.num_layers} of {gpu.of_layers} layers, of {megabytes(gpu.free_bytes).strip()} there are"


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
    if settings.long_slots and not model.has_plain_cache:
        raise PlanError(
            f"--long-slots {settings.long_slots}: the state of this model can't move between slots",
            hint="--long-slots 0",
        )
    lora_bytes = sum(lora.num_bytes for lora in loras)
    standby_bytes = STANDBY_BYTES + model.repacked_bytes + lora_bytes
    beside = partial(
        replace,
        lora_bytes=lora_bytes,
        projector_bytes=_projector_bytes(projector),
        standby_bytes=standby_bytes if settings.standby == "on" else 0,
    )
    chosen = _chosen(model, settings, machine, available, beside)
    has_room = not chosen.n_gpu_layers and chosen.total_bytes + standby_bytes <= available
    if settings.standby == "auto" and has_room and not settings.on_demand:  # then others need it more
        chosen = replace(chosen, standby_bytes=standby_bytes)
    return chosen


def _chosen(
    model: GgufFile,
    settings: ReaderSettings,
    machine: Machine,
    available: int,
    beside: Callable[[Plan], Plan],
) -> Plan:
    """The plan with the most slots and context that are of use and fit; `beside` adds what each has."""
    limit = available if settings.memory_gb is not None else int(available * DEFAULT_SHARE)
    roomy_limit = available if settings.memory_gb is not None else int(available * ROOMY_SHARE)
    wish = _wish(model, settings)
    plans = [beside(_plan(model, settings, machine, layout, available)) for layout in layouts(wish)]
    most_layers = max(plan.n_gpu_layers for plan in plans)  # a GPU for more layers, before longer slots
    if settings.device == "cuda" and settings.gpu_layers == "auto" and not most_layers:
        there = megabytes(machine.gpu_free_bytes or 0).strip()
        raise PlanError(
            f"device cuda: of {model.name} not one layer fits into the {there} that are free on the GPU",
            hint="--device cpu",
        )
    if (roomy := roomy_layout(wish)) is not None:
        plan = beside(_plan(model, settings, machine, roomy, available))
        if plan.is_within(roomy_limit, ROOMY_SHARE) and plan.n_gpu_layers == most_layers:
            return plan
    of_most = [plan for plan in plans if plan.n_gpu_layers == most_layers]
    smallest = min(of_most, key=lambda plan: plan.total_bytes + plan.gpu_bytes)
    chosen = next((plan for plan in of_most if plan.is_within(limit, DEFAULT_SHARE)), smallest)
    if chosen.fits:
        return chosen
    if chosen.gpu is not None and not chosen.gpu.fits:
        raise _refusal_of_gpu(chosen.gpu, model)
    raise _refusal(plans[0], model, settings, machine, beside)


def _wish(model: GgufFile, settings: ReaderSettings) -> Wish:
    most = max(model.context_length, 64)
    long_slots = settings.long_slots if model.has_plain_cache else 0
    return Wish(settings.max_slots, settings.context, long_slots, most)


def _refusal(
    plan: Plan,
    model: GgufFile,
    settings: ReaderSettings,
    machine: Machine,
    beside: Callable[[Plan], Plan],
) -> PlanError:
    """All the numbers, and the largest setting that fits, tried."""
    free = settings.model_copy(
        update={"max_slots": None, "context": None, "long_slots": 0, "prefix_cache_mb": 0}
    )
    plans = (
        beside(_plan(model, free, machine, layout, plan.available_bytes))
        for layout in layouts(_wish(model, free))
    )
    fitting = next((each for each in plans if each.fits), None)
    hint = "no setting fits: choose a smaller model (takeoff models --available)"
    if fitting is not None:
        hint = f"--max-slots {fitting.n_slots} --context {fitting.n_ctx_slot} --prefix-cache-mb 0 would fit"
    needed, weights, kv, there = (
        megabytes(size).strip()
        for size in (plan.total_bytes, plan.weights_bytes, plan.kv_bytes, plan.available_bytes)
    )
    return PlanError(
        f"{model.name} with {told(plan.slots)} needs {needed} "
        f"(weights {weights}, KV cache {kv}), and there are {there}",
        hint=hint,
    )


def _refusal_of_gpu(gpu: OnGpu, model: GgufFile) -> PlanError:
    needed, there = megabytes(gpu.total_bytes).strip(), megabytes(gpu.free_bytes).strip()
    return PlanError(
        f"{gpu.num_layers} of {gpu.of_layers} layers of {model.name} need {needed} on the GPU, "
        f"and {there} are free there",
        hint="--gpu-layers auto, a shorter --context, or --device cpu",
    )


def _plan(
    model: GgufFile,
    settings: ReaderSettings,
    machine: Machine,
    slots: Layout,
    available: int,
) -> Plan:
    if settings.deterministic and settings.flash_attention == "on":
        raise SettingsError(
            "--deterministic uses flash attention only where its bits can be relied on",
            hint="--flash-attention auto or off",
            param="flash_attention",
        )
    flash_attention = settings.flash_attention != "off"
    is_certain = flash_attention and not settings.deterministic  # else the engine may have to go without it
    _check_kv_type(model, settings, flash_attention=is_certain)
    count = sum(each.num_slots for each in slots)
    # A slot whose layers slide can't be trimmed back to what was right; and without flash attention tokens
    # that are computed together differ in their last bits from those that are computed one by one.
    speculation = settings.speculation != "off" and not settings.deterministic and not model.sliding_window
    outputs = max(count, DRAFT_OUTPUTS) if speculation else count
    threads = settings.threads or machine.cores
    ubatch = min(settings.ubatch, settings.batch)
    cache_bytes = settings.prefix_cache_mb << 20
    # Between short and long slots, or aside while another tenant has the slot: then any but one.
    movers = sum(each.num_slots for each in slots[1:]) or count - 1
    parking_bytes = min(
        movers * _kv_bytes(model, 1, slots[0].context, ubatch, settings.kv_type), cache_bytes // PARKING_SHARE
    )
    weights_bytes = model.tensor_bytes + model.repacked_bytes
    kv_bytes = sum(_kv_bytes(model, each.num_slots, each.context, ubatch, settings.kv_type) for each in slots)
    compute_bytes = sum(
        _compute_bytes(model, outputs, each.context, ubatch, flash_attention=is_certain) for each in slots
    )
    gpu = _on_gpu(model, settings, machine, kv_bytes, compute_bytes)
    if gpu is not None:
        if settings.standby == "on":
            raise SettingsError(
                "--standby on: on a GPU the weights would be in memory twice",
                hint="--standby off",
                param="standby",
            )
        weights_bytes -= weights_bytes * gpu.num_layers // gpu.of_layers
        kv_bytes -= gpu.kv_bytes
    return Plan(
        slots=slots,
        n_batch=max(settings.batch, 2 * count),
        n_ubatch=ubatch,
        n_threads=threads,
        n_threads_prefill=settings.threads_prefill or threads,
        gpu=gpu,
        flash_attention=flash_attention,
        speculation=speculation,
        n_outputs=outputs,
        kv_type=settings.kv_type,
        weights_bytes=weights_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=compute_bytes,
        cache_bytes=cache_bytes - parking_bytes,
        parking_bytes=parking_bytes,
        process_bytes=PROCESS_BYTES + (HOST_BYTES if gpu else 0),
        available_bytes=available,
    )


def _on_gpu(
    model: GgufFile, settings: ReaderSettings, machine: Machine, kv_bytes: int, compute_bytes: int
) -> OnGpu | None:
    """As many layers as the GPU has memory for, or as many as were asked for; None: the model stays here.

    Raises:
        PlanError: a GPU or layers on it were asked for, and none can be used.
    """
    if settings.device == "cpu" or settings.gpu_layers == 0:
        return None
    hint = "CMAKE_ARGS=-DGGML_CUDA=on ./setup.sh builds for one; or --device cpu"
    if machine.gpu_free_bytes is None:
        if settings.device == "cuda":
            raise PlanError(f"device cuda: {machine.gpu_missing}", hint=hint)
        if settings.gpu_layers != "auto":
            raise PlanError(f"--gpu-layers {settings.gpu_layers}: {machine.gpu_missing}", hint=hint)
        return None
    of_layers, sizes = model.n_layers + 1, (model.tensor_bytes, kv_bytes, compute_bytes)
    if settings.gpu_layers == "auto":
        return most_that_fits(of_layers, *sizes, machine.gpu_free_bytes)
    return placed(min(settings.gpu_layers, of_layers), of_layers, *sizes, machine.gpu_free_bytes)


def _projector_bytes(projector: ProjectorFile | None) -> int:
    """Its weights and buffers, the vectors that are kept, and one image on its way."""
    if projector is None:
        return 0
    return projector.num_bytes + projector.compute_bytes + IMAGE_BYTES


def _check_kv_type(model: GgufFile, settings: ReaderSettings, *, flash_attention: bool) -> None:
    """Raises SettingsError: the cache can't have that type (llama-context.cpp, llama_init_from_model)."""
    kv_type = settings.kv_type
    if kv_type in WHOLE_KV_TYPES:
        return
    if not flash_attention:
        why = "--deterministic" if settings.deterministic else "--flash-attention off"
        raise SettingsError(
            f"--kv-type {kv_type} needs flash attention, and {why} rules it out", param="kv_type"
        )
    block = next(block for name, block, _ in TENSOR_TYPES.values() if name.lower() == kv_type)
    if model.key_length % block or model.value_length % block:
        raise SettingsError(
            f"--kv-type {kv_type} comes in blocks of {block}, and a head of this model has "
            f"{model.key_length} keys and {model.value_length} values",
            param="kv_type",
        )


def _kv_bytes(model: GgufFile, slots: int, context: int, ubatch: int, kv_type: str) -> int:
    """Sliding layers keep their window and one micro-batch (llama-kv-cache-iswa.cpp)."""
    per_cell = int(model.n_kv_heads * (model.key_length + model.value_length) * KV_BITS[kv_type] / 8)
    every = _FULL_LAYER_EVERY.get(model.architecture)
    full = model.n_layers if every is None or not model.sliding_window else model.n_layers // every
    window = min(context, padded(model.sliding_window + ubatch))
    return slots * per_cell * (full * context + (model.n_layers - full) * window)


def _compute_bytes(model: GgufFile, outputs: int, context: int, ubatch: int, *, flash_attention: bool) -> int:
    """Activations of a micro-batch, attention masks and logits, twice (compute and output buffer).

    Each context has its own, and room for the logits of as many tokens as a call may want.
    """
    activations = 4 * ubatch * (4 * model.n_embd + 2 * model.n_ff)
    masks = 2 * context * ubatch
    logits = 4 * outputs * model.n_vocab
    scores = 0 if flash_attention else 4 * model.n_heads * context * ubatch
    return activations + masks + scores + 2 * logits
