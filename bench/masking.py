"""What constraints cost of a step: masks and matching, beside the decode call and unconstrained sampling.

    python bench/masking.py MODEL.gguf

Prints a table: sequences, milliseconds of a decode call, of sampling without and with a constraint, and
the constraint's share of the step. Every sequence has a schema of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from in_process import InProcess

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.ipc.messages import Submit
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.request import Constraint, ConstraintKind, SamplingParams

STEPS, ROUNDS, PROMPT_TOKENS = 24, 3, 48
PARAMS = SamplingParams(temperature=0.8, top_k=40, seed=1, ignore_eos=True)


def schema(number: int) -> Constraint:
    """Objects of texts and numbers, other names for each `number`; long enough for every step."""
    item = {
        "type": "object",
        "properties": {f"name{number}": {"type": "string"}, f"size{number}": {"type": "number"}},
        "required": [f"name{number}", f"size{number}"],
        "additionalProperties": False,
    }
    source = json.dumps({"type": "array", "items": item, "minItems": 20})
    return Constraint(ConstraintKind.JSON_SCHEMA, source)


def measure(
    bench: InProcess, compiler: ConstraintCompiler | None, grammars: list[str]
) -> tuple[float, float]:
    """Milliseconds of a decode call and of all that follows it."""
    numbers = range(len(grammars))
    for number in numbers:
        bench.token_ids[number] = []
        state = None if compiler is None else compiler.compile(grammars[number])
        bench.engine.submit(Submit(number, bench.prompt(number, PROMPT_TOKENS), PARAMS, tenant=""), state)
    while not all(bench.token_ids[number] for number in numbers):
        bench.engine.step()
    times = bench.time_steps(STEPS)
    bench.cancel(numbers)
    return times["decode"], times["sample"]


def main() -> None:
    bench = InProcess(Path(sys.argv[1]))
    kernels = bench.engine.kernels
    tokenizer = kernels.constraint_tokenizer()
    trial = ConstraintTrial(tokenizer)
    compiler = ConstraintCompiler(tokenizer, kernels.n_vocab)
    print(
        "| sequences | decode ms | sampling ms | with a constraint ms | the constraint's share of the step |"
    )
    print("|--:|--:|--:|--:|--:|")
    for num_sequences in (1, 8, 32):
        grammars = [trial.grammar(schema(number)) for number in range(num_sequences)]
        rounds = [
            (*measure(bench, None, grammars), *measure(bench, compiler, grammars)) for _ in range(ROUNDS)
        ]
        _, free, decode, bound = (statistics.median(values) for values in zip(*rounds, strict=True))
        share = (bound - free) / (decode + bound)
        print(f"| {num_sequences} | {decode:.1f} | {free:.2f} | {bound:.2f} | {share:.1%} |", flush=True)
    bench.close()


if __name__ == "__main__":
    main()
