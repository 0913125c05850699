"""A decode step of 8 streams over 1, 2 and 4 adapters: one context that switches, and a context for each.

    python bench/lora.py MODEL.gguf [--rank 16]

Also what the same calls cost without adapters, and on slots that are not consecutive. The ways take
turns in every round; figures are medians. Adapters have random weights, for every matrix of a layer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from in_process import make_load

from takeoff.engine.llama.kernels import LlamaKernels
from takeoff.engine.llama.model import LlamaModel
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import Lora
from takeoff.models.gguf import read_gguf

STREAMS, PROMPT_TOKENS, ROUNDS, STEPS = 8, 64, 15, 4
COUNTS = (1, 2, 4)

Step = Callable[[int], None]  # computes the tokens at one position


def write_adapter(path: Path, model: Path, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = read_gguf(model)
    writer = gguf.GGUFWriter(str(path), base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for tensor in base.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            num_inputs, num_outputs = tensor.shape
            for suffix, shape in (("a", (rank, num_inputs)), ("b", (num_outputs, rank))):
                weights = rng.standard_normal(shape) * 0.01
                writer.add_tensor(f"{tensor.name}.lora_{suffix}", weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_context(model: Path, loras: list[Lora]) -> LlamaKernels:
    load = make_load(model, n_slots=STREAMS, n_ctx_slot=512, loras=loras)
    return LlamaKernels(load, LlamaModel(load))


def split(count: int) -> list[range]:
    """The slots of each of `count` sets."""
    size = STREAMS // count
    return [range(first, first + size) for first in range(0, STREAMS, size)]


def steps(contexts: list[LlamaKernels], names: list[str]) -> dict[str, Step]:
    """Every way to compute a step. Context 0 is the one that switches; each has all adapters."""

    def calls(plan: list[tuple[LlamaKernels, str | None, range]]) -> Step:
        def step(pos: int) -> None:
            for context, name, slots in plan:
                context.forward([Rows(slot, pos, [100 + slot], True) for slot in slots], name)

        return step

    one = contexts[0]
    ways = {}
    for count in COUNTS:
        sets = list(zip(names, split(count), strict=False))
        ways[f"{count}: no adapters, {count} calls"] = calls([(one, None, slots) for _, slots in sets])
        ways[f"{count}: one context, switching"] = calls([(one, name, slots) for name, slots in sets])
        ways[f"{count}: a context for each"] = calls(
            [(context, name, slots) for context, (name, slots) in zip(contexts[1:], sets, strict=False)]
        )
    every_other = [(names[first], range(first, STREAMS, 2)) for first in range(2)]
    ways["2: one context, every other slot"] = calls([(one, name, slots) for name, slots in every_other])
    return ways


def measure(contexts: list[LlamaKernels], ways: dict[str, Step]) -> dict[str, float]:
    """Milliseconds a step of each way; a prompt lies in every slot of every context."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        order = list(ways)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            for context in contexts:
                for slot in range(STREAMS):
                    context.trim(slot, PROMPT_TOKENS)
            ways[name](PROMPT_TOKENS)
            started = time.perf_counter()
            for pos in range(PROMPT_TOKENS + 1, PROMPT_TOKENS + 1 + STEPS):
                ways[name](pos)
            taken[name].append(1e3 * (time.perf_counter() - started) / STEPS)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loras = [Lora(f"adapter {i}", f"{folder}/{i}.gguf") for i in range(max(COUNTS))]
        for seed, lora in enumerate(loras):
            write_adapter(Path(lora.path), options.model, options.rank, seed)
        contexts = [make_context(options.model, loras) for _ in range(1 + max(COUNTS))]
    for context in contexts:
        for slot in range(STREAMS):
            context.forward([Rows(slot, 0, list(range(1_000, 1_000 + PROMPT_TOKENS)), True)])
    for name, milliseconds in measure(contexts, steps(contexts, [lora.name for lora in loras])).items():
        print(f"{name:36} {milliseconds:7.1f} ms")
    for context in contexts:
        context.close()


if __name__ == "__main__":
    main()
