"""What sampling costs of a step: everything between a call's logits and the frame that is sent.

    python bench/sampling.py MODEL.gguf ...

Prints a table: sequences, settings, milliseconds of a decode call and of sampling, and the share.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from in_process import InProcess

from takeoff.request import SamplingParams

STEPS, ROUNDS, PROMPT_TOKENS = 24, 3, 48
SETTINGS = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True, seed=1),
    "temperature, top-p": SamplingParams(temperature=0.8, top_p=0.9, ignore_eos=True, seed=1),
    "every filter": SamplingParams(
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        no_repeat_ngram_size=3,
        logit_bias={5: 1.0},
        ignore_eos=True,
        seed=1,
    ),
}


def measure(bench: InProcess, num_sequences: int, params: SamplingParams) -> tuple[float, float]:
    """Milliseconds of a decode call and of the sampling after it."""
    numbers = range(num_sequences)
    bench.start(numbers, PROMPT_TOKENS, params)
    times = bench.time_steps(STEPS)
    bench.cancel(numbers)
    return times["decode"], times["sample"]


def main() -> None:
    print("| model | vocabulary | sequences | settings | decode ms | sampling ms | share of the step |")
    print("|---|--:|--:|---|--:|--:|--:|")
    for path in map(Path, sys.argv[1:]):
        bench = InProcess(path)
        model = f"{path.stem} | {bench.engine.kernels.n_vocab:,}"
        for num_sequences in (1, 8, 32):
            for name, params in SETTINGS.items():
                runs = [measure(bench, num_sequences, params) for _ in range(ROUNDS)]
                decode, sample = (statistics.median(values) for values in zip(*runs, strict=True))
                share = 100 * sample / (decode + sample)
                print(f"| {model} | {num_sequences} | {name} | {decode:.1f} | {sample:.2f} | {share:.1f} % |")
        bench.close()


if __name__ == "__main__":
    main()
