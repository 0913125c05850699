"""The process that compares a variant of a model with its source: `python -m ... SOURCE VARIANT THREADS`.

It writes a line of `models.trial.RESULT` and a `Trial` in JSON; other lines are llama.cpp's complaints.
Both are loaded together and take turns, so that a machine that slows down is slow for both.

Source: include/llama.h of the llama.cpp that llama-cpp-python 0.3.36 builds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import llama_cpp.llama_cpp as C  # noqa: N812  (the C API, as its documentation calls it)
import msgspec
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.library import load_model
from takeoff.engine.llama.vocabulary import tokenize
from takeoff.errors import ModelError
from takeoff.ipc.lifeline import die_with_parent, end_with_stdin
from takeoff.models.trial import RESULT, STREAMS, TEXT, Pace, Trial

MAX_TEXT_TOKENS = 256
SLOT_TOKENS = 512  # of a stream: the text, or the steps
ROUNDS = 5
STEPS = 4  # of one file, before it is the other's turn
ROWS = 32  # of logits that are compared at once: memory is bounded


class Loaded:
    """One file, with a context for as many streams as are tried."""

    def __init__(self, path: str, threads: int) -> None:
        self._model = load_model(path, n_gpu_layers=0)
        params = C.llama_context_default_params()
        params.n_ctx = max(STREAMS) * SLOT_TOKENS
        params.n_seq_max = max(STREAMS)
        params.n_batch = params.n_ubatch = SLOT_TOKENS
        params.n_outputs_max = MAX_TEXT_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1
        params.kv_unified = False
        params.no_perf = True
        self._context = C.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelError(f"no context could be made for {path}")
        self._vocab = C.llama_model_get_vocab(self._model)
        self._num_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self._batch = C.llama_batch_init(SLOT_TOKENS, 0, 1)

    def tokens_of(self, text: str) -> list[int]:
        return tokenize(self._vocab, text.encode(), add_special=True)[:MAX_TEXT_TOKENS]

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """[tokens, vocabulary] of one stream; llama.cpp's memory, valid until the next call."""
        self._compute([(token_id, pos, 0) for pos, token_id in enumerate(token_ids)])
        logits = C.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(len(token_ids), self._num_vocab))

    def step_s(self, token_id: int, pos: int, streams: int) -> float:
        """Seconds that the token `pos` of so many streams takes."""
        started = time.perf_counter()
        self._compute([(token_id, pos, stream) for stream in range(streams)])
        return time.perf_counter() - started

    def forget(self) -> None:
        C.llama_memory_clear(C.llama_get_memory(self._context), False)

    def _compute(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Compute tokens given as (id, position, stream), with logits of all."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (token_id, pos, stream) in enumerate(rows):
            batch.token[row], batch.pos[row] = token_id, pos
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, stream
            batch.logits[row] = 1
        code = C.llama_decode(self._context, batch)
        if code != 0:
            raise ModelError(f"llama_decode returned {code} for {len(rows)} tokens")
        C.llama_synchronize(self._context)


def compare(source: Loaded, variant: Loaded) -> Trial:
    token_ids = source.tokens_of(TEXT)
    kl, perplexity_ratio = _quality(source.logits(token_ids), variant.logits(token_ids), token_ids)
    return Trial(kl, perplexity_ratio, tuple(_pace(source, variant, token_ids, each) for each in STREAMS))


def _quality(
    source: NDArray[np.float32], variant: NDArray[np.float32], token_ids: Sequence[int]
) -> tuple[float, float]:
    """(mean divergence, ratio of perplexities) of logits [tokens, vocabulary]; the last row is unused."""
    divergence = surprise = 0.0
    next_ids = np.asarray(token_ids[1:])
    for start in range(0, len(next_ids), ROWS):
        end = min(start + ROWS, len(next_ids))
        ours, theirs = _log_softmax(source[start:end]), _log_softmax(variant[start:end])
        divergence += float((np.exp(ours) * (ours - theirs)).sum())
        picked = (np.arange(end - start), next_ids[start:end])
        surprise += float((ours[picked] - theirs[picked]).sum())
    return divergence / len(next_ids), float(np.exp(surprise / len(next_ids)))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


def _pace(source: Loaded, variant: Loaded, token_ids: Sequence[int], streams: int) -> Pace:
    times: dict[Loaded, list[float]] = {source: [], variant: []}
    for each in times:
        each.forget()
        each.step_s(token_ids[0], 0, streams)  # the first step of a size is slower
    for turn in range(ROUNDS):
        for each, taken in times.items():
            first = 1 + turn * STEPS
            taken += [
                each.step_s(token_ids[pos % len(token_ids)], pos, streams)
                for pos in range(first, first + STEPS)
            ]
    return Pace(streams, *map(statistics.median, times.values()))


def main() -> None:
    die_with_parent()
    end_with_stdin()
    source, variant, threads = sys.argv[1:]
    trial = compare(Loaded(source, int(threads)), Loaded(variant, int(threads)))
    sys.stdout.write(RESULT + msgspec.json.encode(trial).decode() + "\n")


if __name__ == "__main__":
    main()
