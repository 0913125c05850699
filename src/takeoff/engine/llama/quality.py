"""The process that compares a setting with the source: `python -m ... SOURCE SETUP TEXT TOKENS`.

The setups are `models.optimize.pace.Setup` in JSON. Writes a line of `models.optimize.quality.RESULT` and
a `Quality` in JSON. Both read the text in the same slices, so that only the settings differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.kernels import LlamaKernels
from takeoff.engine.llama.model import LlamaModel
from takeoff.engine.llama.pace import load_of
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.lifeline import die_with_parent, end_with_stdin
from takeoff.models.optimize.pace import Setup
from takeoff.models.optimize.quality import RESULT, Quality


def compare(source: Setup, setup: Setup, text: str, num_tokens: int) -> Quality:
    loads = (load_of(source), load_of(setup))
    ours, theirs = (LlamaKernels(load, LlamaModel(load)) for load in loads)
    for kernels, each in ((ours, source), (theirs, setup)):
        kernels.set_threads(each.threads)
    token_ids = np.array(ours.tokenize(text)[: num_tokens + 1])
    rows = min(source.n_slots, setup.n_slots)
    divergences, surprises, same = [], [], 0
    for start in range(0, len(token_ids) - 1, rows):
        piece = token_ids[start : min(start + rows, len(token_ids) - 1)]
        following = token_ids[start + 1 : start + 1 + len(piece)]
        work = [Rows(0, start, piece.tolist(), True, wants_all=True)]
        p, q = (_log_softmax(kernels.forward(work)) for kernels in (ours, theirs))
        divergences.append((np.exp(p) * (p - q)).sum(axis=1))
        picked = (np.arange(len(piece)), following)
        surprises.append(p[picked] - q[picked])
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    kl = np.concatenate(divergences)
    return Quality(
        kl=float(kl.mean()),
        kl_p99=float(np.quantile(kl, 0.99)),
        perplexity_ratio=float(np.exp(np.concatenate(surprises).mean())),
        same_top=same / len(kl),
        num_tokens=len(kl),
    )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, n_vocab], of `logits` [n, n_vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


def main() -> None:
    die_with_parent()
    end_with_stdin()
    source, setup = (msgspec.json.decode(each, type=Setup) for each in sys.argv[1:3])
    quality = compare(source, setup, Path(sys.argv[3]).read_text(), int(sys.argv[4]))
    sys.stdout.write(RESULT + msgspec.json.encode(quality).decode() + "\n")


if __name__ == "__main__":
    main()
