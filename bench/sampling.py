"""What sampling costs of a step: everything between a call's logits and the frame that is sent.

    python bench/sampling.py MODEL.gguf ...

Prints a table: sequences, settings, milliseconds of a decode call and of sampling, and the share.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from takeoff.engine.engine import Engine
from takeoff.engine.llama.context import LlamaContext
from takeoff.ipc.messages import Load, Submit
from takeoff.models.machine import read_machine
from takeoff.request import SamplingParams

STEPS, ROUNDS, PROMPT_TOKENS, SEQUENCES = 24, 3, 48, (1, 8, 32)

SETTINGS = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True, seed=1),
    "temperature, top-p": SamplingParams(temperature=0.8, top_p=0.9, ignore_eos=True, seed=1),
    "every filter": SamplingParams(
        temperature=0.8, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.1, presence_penalty=0.1,
        frequency_penalty=0.1, no_repeat_ngram_size=3, logit_bias={5: 1.0}, ignore_eos=True, seed=1,
    ),
}  # fmt: skip


class Bench:
    """An engine in this process, and which of its requests have begun to decode."""

    def __init__(self, path: Path) -> None:
        threads = read_machine().cores
        load = Load(
            model_path=str(path), n_slots=max(SEQUENCES), n_ctx_slot=512, n_batch=2048, n_ubatch=512,
            n_threads=threads, n_threads_prefill=threads, n_gpu_layers=0, flash_attention=True,
            deterministic=False, cache_bytes=0, itl_slo_ms=None,
        )  # fmt: skip
        self.begun: set[int] = set()
        kernels = LlamaContext(load, lambda _share: None)
        self.engine = Engine(load, kernels, lambda events: self.begun.update(e.request_id for e in events))

    def measure(self, num_sequences: int, params: SamplingParams) -> tuple[float, float]:
        """Milliseconds of a decode call and of the sampling after it: means over STEPS steps."""
        engine, n_vocab = self.engine, self.engine.kernels.n_vocab
        self.begun.clear()
        for number in range(num_sequences):
            prompt = [(number * 977 + place * 31) % (n_vocab - 300) + 256 for place in range(PROMPT_TOKENS)]
            engine.submit(Submit(number, prompt, params, tenant=""))
        while len(self.begun) < num_sequences:
            engine.step()
        before = engine.counters.snapshot()
        for _ in range(STEPS):
            engine.step()
        after = engine.counters.snapshot()
        for number in range(num_sequences):
            engine.cancel(number)
        decode, sample = (after[name] - before[name] for name in ("decode_seconds", "sample_seconds"))
        return 1e3 * decode / STEPS, 1e3 * sample / STEPS


def main() -> None:
    print("| model | vocabulary | sequences | settings | decode ms | sampling ms | share of the step |")
    print("|---|--:|--:|---|--:|--:|--:|")
    for path in map(Path, sys.argv[1:]):
        bench = Bench(path)
        model = f"{path.stem} | {bench.engine.kernels.n_vocab:,}"
        for num_sequences in SEQUENCES:
            for name, params in SETTINGS.items():
                runs = [bench.measure(num_sequences, params) for _ in range(ROUNDS)]
                decode, sample = (statistics.median(values) for values in zip(*runs, strict=True))
                share = 100 * sample / (decode + sample)
                print(f"| {model} | {num_sequences} | {name} | {decode:.1f} | {sample:.2f} | {share:.1f} % |")
        bench.engine.kernels.close()


if __name__ == "__main__":
    main()
