"""The memory plan of a reader that embeds or classifies."""

from __future__ import annotations

from dataclasses import dataclass

from takeoff.errors import PlanError
from takeoff.models.encoder import EncoderModel
from takeoff.models.gguf import GgufFile
from takeoff.models.machine import Machine
from takeoff.models.plan import check_context, megabytes, plannable_bytes, together
from takeoff.settings import ReaderSettings

DEFAULT_BATCH_SIZE = 32
# More tokens in a call are no faster, and hold the cores longer; MiniLM: 28 ms for 128 on one thread.
BATCH_TOKENS_PER_THREAD = 128
PROCESS_BYTES = 150 << 20  # the process with onnxruntime and the tokenizer, measured


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What the encoder will be told, and what it will take. Sizes in bytes."""

    n_threads: int
    max_batch_size: int
    max_tokens: int  # of one text
    weights_bytes: int
    compute_bytes: int
    process_bytes: int
    available_bytes: int

    @property
    def gpu_bytes(self) -> int:
        """Encoders compute on the processor."""
        return 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes + self.process_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    def lines(self) -> list[str]:
        """The plan, a line for each part."""
        return [
            f"weights        {megabytes(self.weights_bytes)}",
            f"buffers        {megabytes(self.compute_bytes)}   {self.max_batch_size} texts at once",
            f"processes      {megabytes(self.process_bytes)}",
            together(self.total_bytes, self.available_bytes),
        ]


def batch_tokens(n_threads: int) -> int:
    """Tokens of one call of several texts, padding included; a longer text is computed alone."""
    return BATCH_TOKENS_PER_THREAD * n_threads


def make_encoder_plan(
    model: EncoderModel | GgufFile, settings: ReaderSettings, machine: Machine
) -> EncoderPlan:
    """Decide batch and length, honouring what was asked for.

    Raises:
        PlanError: it does not fit, or the model can't take texts as long as asked for.
    """
    max_tokens, max_positions = _limits(model)
    check_context(settings, max_positions)
    n_threads = settings.threads or machine.cores
    tokens = settings.context or max_tokens
    available = plannable_bytes(settings, machine)
    plan = EncoderPlan(
        n_threads=n_threads,
        max_batch_size=settings.max_slots or DEFAULT_BATCH_SIZE,
        max_tokens=tokens,
        weights_bytes=_weights_bytes(model),
        compute_bytes=_compute_bytes(model, max(batch_tokens(n_threads), tokens), tokens),
        process_bytes=PROCESS_BYTES,
        available_bytes=available,
    )
    if not plan.fits:
        name = model.folder.name if isinstance(model, EncoderModel) else model.name
        needed, there = megabytes(plan.total_bytes).strip(), megabytes(available).strip()
        raise PlanError(f"{name} needs {needed}, and there are {there}", hint="choose a smaller model")
    return plan


def _limits(model: EncoderModel | GgufFile) -> tuple[int, int]:
    if isinstance(model, EncoderModel):
        return model.max_tokens, model.max_positions
    return model.context_length, model.context_length


def _weights_bytes(model: EncoderModel | GgufFile) -> int:
    """onnxruntime may widen quantised weights to float32 when it loads them, and keep both."""
    if isinstance(model, GgufFile):
        return model.tensor_bytes + model.repacked_bytes
    return model.file_bytes + (0 if model.onnx.quantisation == "F32" else 4 * model.onnx.num_params)


def _compute_bytes(model: EncoderModel | GgufFile, call_tokens: int, max_tokens: int) -> int:
    """Activations of the largest call, and attention scores twice: before softmax and after."""
    activations = 4 * call_tokens * (8 * model.n_embd + 2 * model.n_ff)
    return activations + 2 * 4 * model.n_heads * call_tokens * max_tokens
