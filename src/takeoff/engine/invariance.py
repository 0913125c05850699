"""Whether this model's kernels give a sequence the same bits whatever is computed beside it.

Deterministic mode rests on it, and it is a fact of the weights' format and of the processor, not of
our scheduling. So it is tried out when a model is loaded, and a promise that can't be kept is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.llama.rows import Kernels, Rows
from takeoff.errors import ModelError

PROMPT_TOKENS = 48
BATCHES = (2, 3, 4, 5, 7, 8, 9, 12, 16, 24, 32)  # kernels change their way at multiples of 4
CUTS = (2, 17, 32, 46)  # never a slice of one token: the scheduler plans none


def check_invariance(kernels: Kernels, loras: Sequence[str] = (), *, on_gpu: bool = False) -> None:
    """Compare bits of logits: rows alone and in batches, prompts whole and in slices. Leaves slots empty.

    An adapter is computed by other kernels than the model, so each of `loras` is tried out, too. `on_gpu`:
    whether layers are on a GPU, where kernels are chosen by the number of rows.

    Raises:
        ModelError: some differ.
    """
    hint = "--device cpu" if on_gpu else "serve a Q8_0 file of the model"
    where = "this GPU" if on_gpu else "this processor"
    _check(kernels, None, f"this model on {where}", f"{hint}, or without --deterministic")
    for name in loras:
        hint = "convert the adapter to Q8_0 (its rank a multiple of 32), or serve without --deterministic"
        _check(kernels, name, f"the adapter {name!r} on {where}", hint)


def _check(kernels: Kernels, lora: str | None, what: str, hint: str) -> None:
    prompts = [
        [(slot * 977 + place * 131) % kernels.n_vocab for place in range(PROMPT_TOKENS)]
        for slot in range(kernels.n_slots)
    ]
    broken = _differing_class(kernels, prompts[0], lora)
    for slots in _classes(kernels):
        broken = broken or _differing_cut(kernels, slots[0], prompts[slots[0]], lora)
        broken = broken or _differing_batch(kernels, slots, prompts, lora)
    for slot in range(kernels.n_slots):
        kernels.clear(slot)
    if broken is not None:
        raise ModelError(f"--deterministic can't be kept with {what}: {broken}", hint=hint)


def _classes(kernels: Kernels) -> list[range]:
    """The slots of each class."""
    ends = list(accumulate(slots.n_slots for slots in kernels.slot_classes))
    return [range(start, end) for start, end in pairwise([0, *ends])]


def _differing_class(kernels: Kernels, prompt: list[int], lora: str | None) -> str | None:
    """One prompt, and one token more after a snapshot of the first class's, in slots of each class."""
    slots = [slots[0] for slots in _classes(kernels)]
    wholes = [_prefill(kernels, slot, [prompt], lora) for slot in slots]
    snapshot = np.empty(kernels.snapshot_bytes(0), np.uint8)
    snapshot = snapshot[: kernels.save(0, snapshot)]
    after = []
    for slot in slots:
        kernels.restore(slot, snapshot)
        after.append(kernels.forward([Rows(slot, PROMPT_TOKENS, prompt[:1], True)], lora)[0].copy())
    if all(np.array_equal(row, rows[0]) for rows in (wholes, after) for row in rows):
        return None
    return "a sequence gives other logits in a slot of another size"


def _differing_cut(kernels: Kernels, slot: int, prompt: list[int], lora: str | None) -> str | None:
    whole = _prefill(kernels, slot, [prompt], lora)
    for cut in CUTS:
        if not np.array_equal(_prefill(kernels, slot, [prompt[:cut], prompt[cut:]], lora), whole):
            return f"a prompt gives other logits when it is computed in slices of {cut} and the rest"
    return None


def _differing_batch(
    kernels: Kernels, slots: range, prompts: list[list[int]], lora: str | None
) -> str | None:
    snapshots, alone = {}, []
    for slot in slots:
        prompt = prompts[slot]
        _prefill(kernels, slot, [prompt], lora)
        snapshot = np.empty(kernels.snapshot_bytes(slot), np.uint8)
        snapshots[slot] = snapshot[: kernels.save(slot, snapshot)]
        alone.append(kernels.forward([Rows(slot, PROMPT_TOKENS, prompt[:1], True)], lora)[0].copy())
    for size in (size for size in BATCHES if size <= len(slots)):
        for slot in slots[:size]:
            kernels.restore(slot, snapshots[slot])
        work = [Rows(slot, PROMPT_TOKENS, prompts[slot][:1], True) for slot in slots[:size]]
        if not np.array_equal(kernels.forward(work, lora), np.stack(alone[:size])):
            return f"a sequence gives other logits beside {size - 1} others than alone"
    return None


def _prefill(kernels: Kernels, slot: int, slices: list[list[int]], lora: str | None) -> NDArray[np.float32]:
    """The last token's logits [n_vocab] of a prompt, computed in these slices."""
    kernels.clear(slot)
    pos = 0
    for piece in slices:
        logits = kernels.forward([Rows(slot, pos, piece, True)], lora)
        pos += len(piece)
    last: NDArray[np.float32] = logits[0].copy()
    return last
